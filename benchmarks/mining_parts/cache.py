"""Is a picture encoded once, and its prompt prefilled once, for all K samples?"""

import asyncio
from typing import Any

from divek_verl.cpu.machine import prepare_machine
from divek_verl.engines.base import Request
from divek_verl.engines.vllm_engine import VllmEngine
from mining_parts.common import Section, Workload


class PrefixCacheLog:
    """A stat logger for vLLM that adds up its prefix-cache statistics."""

    total: dict[str, int] = {}

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self.total.update(queries=0, hits=0)

    def record(self, scheduler_stats: Any = None, *_: Any, **__: Any) -> None:
        if scheduler_stats is not None:
            for name in self.total:
                self.total[name] += getattr(scheduler_stats.prefix_cache_stats, name)

    def log_engine_initialized(self) -> None: ...

    def log(self) -> None: ...

    def record_sleep_state(self, *_: Any, **__: Any) -> None: ...


class EncoderCount:
    """Mixed into vLLM's worker (``worker_extension_cls``), counts the pictures that the vision tower encodes."""

    model_runner: Any

    def watch_encoder(self) -> None:
        """Count from now on, by the grids that each call of the vision tower gets: one for each picture."""
        self.pictures_encoded = 0
        tower = self.model_runner.get_model().visual
        forward = tower.forward

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.pictures_encoded += len(kwargs["grid_thw"] if "grid_thw" in kwargs else args[1])
            return forward(*args, **kwargs)

        tower.forward = counted

    def encoded(self) -> int:
        return self.pictures_encoded


def measure(workload: Workload, section: Section) -> None:
    """Encodings of a picture, and prompt tokens that come from the prefix cache."""
    prepare_machine()
    asyncio.run(_measure(workload, section))


async def _measure(workload: Workload, section: Section) -> None:
    extension = {"worker_extension_cls": f"{__name__}.EncoderCount"}
    engine = await VllmEngine.start(workload.engine, more_arguments=extension, stat_loggers=[PrefixCacheLog])
    try:
        await engine.llm.collective_rpc("watch_encoder")
        PrefixCacheLog.total.update(queries=0, hits=0)
        requests = [
            Request("/".join(row.key), row.messages, workload.samples) for row in workload.rows(workload.images)
        ]
        sampling = workload.sampling.sampling()
        replies = await asyncio.gather(*(engine.generate(request, sampling) for request in requests))
        encoded = (await engine.llm.collective_rpc("encoded"))[0] / len(replies)
        block = engine.llm.vllm_config.cache_config.block_size
    finally:
        await engine.close()
    # All samples but the first can find all of the prompt but its last, unfinished block.
    possible = sum((workload.samples - 1) * ((reply.prompt_tokens - 1) // block) * block for reply in replies)
    found = PrefixCacheLog.total["hits"]
    section.add("pictures encoded", encoded)
    section.add("prompt tokens looked up in the prefix cache", PrefixCacheLog.total["queries"] / len(replies))
    section.add("prompt tokens found there", found / len(replies))
    section.add("prompt tokens that all samples but the first can find", possible / len(replies))
    section.facts["prompt tokens"] = sorted({reply.prompt_tokens for reply in replies})
    section.claim("times that a picture is encoded", encoded, 1.0, at_most=True)
    section.claim("found in the prefix cache, of what can be found", found / possible, 1.0)
