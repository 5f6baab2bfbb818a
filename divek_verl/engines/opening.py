"""One way to open an engine, for ``divek mine``, ``divek eval`` and ``divek predict``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from divek_verl.engines.base import Engine
from divek_verl.engines.options import Backend, EngineOptions


@asynccontextmanager
async def open_engine(options: EngineOptions, images: int = 1) -> AsyncIterator[Engine]:
    """The engine that the options ask for, closed when the block is left; ``images``: how many it will be asked about.

    Raises:
        SetupError: it cannot be started or reached.
    """
    engine: Engine
    if options.backend is Backend.OPENAI:
        from divek_verl.engines.openai_engine import OpenAIEngine

        engine = await OpenAIEngine.start(options)
    else:
        from divek_verl.engines.vllm_engine import VllmEngine

        engine = await VllmEngine.start(options, images)
    try:
        yield engine
    finally:
        await engine.close()
