"""Models that answer questions outside verl: vLLM in this process, or an OpenAI-compatible server.

Engines are imported when they are opened, so that a command's help answers at once.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from divek_verl.engines.base import Engine
    from divek_verl.engines.options import EngineOptions


@asynccontextmanager
async def open_engine(options: "EngineOptions") -> "AsyncIterator[Engine]":
    """The engine that the options ask for, closed at the end; a SetupError if it cannot be started or reached."""
    engine: Engine
    if options.base_url:
        from divek_verl.engines.openai_engine import OpenAIEngine

        engine = await OpenAIEngine.start(options)
    else:
        from divek_verl.engines.vllm_engine import VllmEngine

        engine = await VllmEngine.start(options)
    try:
        yield engine
    finally:
        await engine.close()
