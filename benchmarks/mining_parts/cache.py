"""Is a picture encoded once, and its prompt prefilled once, for all K samples?"""

import asyncio
from collections.abc import Sequence
from typing import Any

from divek_verl.cpu.machine import prepare_machine
from divek_verl.engines.base import Reply, Request
from divek_verl.engines.vllm_engine import VllmEngine
from mining_parts.measuring import Section, Workload
from mining_parts.workload import engine_options, read_rows, sampling_options

MOST_ENCODED = 1.0
LEAST_FOUND = 1.0


class PrefixCacheLog:
    """A stat logger of vLLM's that adds up its prefix-cache statistics."""

    total: dict[str, int] = {}

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self.total.update(queries=0, hits=0, requests=0)

    def record(self, scheduler_stats: Any = None, *_: Any, **__: Any) -> None:
        if scheduler_stats is not None:
            seen = scheduler_stats.prefix_cache_stats
            for name in self.total:
                self.total[name] += getattr(seen, name)

    def log_engine_initialized(self) -> None: ...

    def log(self) -> None: ...

    def record_sleep_state(self, *_: Any, **__: Any) -> None: ...


async def _mine(workload: Workload, section: Section) -> None:
    extension = {"worker_extension_cls": "mining_parts.encoder_count.EncoderCount"}
    engine = await VllmEngine.start(
        engine_options(workload.model), more_arguments=extension, stat_loggers=[PrefixCacheLog]
    )
    try:
        rows = read_rows(workload.data, workload.images)
        sampling = sampling_options(workload.samples, workload.max_new_tokens, workload.seed).sampling()
        await engine.llm.collective_rpc("watch_encoder")
        PrefixCacheLog.total.update(dict.fromkeys(PrefixCacheLog.total, 0))
        requests = [Request("/".join(key), rows[key].messages, workload.samples) for key in rows.keys]
        replies = await asyncio.gather(*(engine.generate(request, sampling) for request in requests))
        encoded = (await engine.llm.collective_rpc("encoded"))[0]
        block = engine.llm.vllm_config.cache_config.block_size
    finally:
        await engine.close()
    _judge(section, workload, encoded, replies, block)


def _judge(section: Section, workload: Workload, encoded: int, replies: Sequence[Reply], block: int) -> None:
    total, images = PrefixCacheLog.total, len(replies)
    # All samples but the first can find all of the prompt but its last, unfinished block.
    possible = [(workload.samples - 1) * ((reply.prompt_tokens - 1) // block) * block for reply in replies]
    section.add("pictures encoded", encoded / images)
    section.add("prompt tokens looked up in the prefix cache", total["queries"] / images)
    section.add("prompt tokens found there", total["hits"] / images)
    section.add("prompt tokens that all samples but the first can find", sum(possible) / images)
    section.facts["prompt tokens"] = sorted({reply.prompt_tokens for reply in replies})
    section.facts["num_cached_tokens of each image's last sample"] = sorted({reply.cached_tokens for reply in replies})
    section.claim("times that a picture is encoded", encoded / images, MOST_ENCODED, at_most=True)
    section.claim("found in the prefix cache, of what can be found", total["hits"] / sum(possible), LEAST_FOUND)


def measure(workload: Workload, section: Section) -> Section:
    """Encodings of a picture, and prompt tokens that come from the prefix cache."""
    prepare_machine()
    asyncio.run(_mine(workload, section))
    return section
