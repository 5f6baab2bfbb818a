"""Offline mining and the engine alone, in turns."""

import asyncio
import dataclasses
import os
import tempfile
import time
from functools import partial
from pathlib import Path

from divek_verl.commands.mine import mine
from divek_verl.cpu.machine import prepare_machine
from divek_verl.engines.base import Request
from divek_verl.engines.pictures import PromptBuilder
from divek_verl.engines.rows import PreparedRows
from divek_verl.engines.vllm_engine import VllmEngine, engine_arguments, sampling_parameters
from divek_verl.errors import SetupError
from divek_verl.votes_file import Origin, VotesLog
from mining_parts.common import Section, Workload

LEAST_SHARE_OF_THE_ENGINE = 0.95
# How far below the rate of the smallest run chance may put a larger one.
LEAST_GROWTH = 0.95
GROWTH = (1, 4, 16)


class DivekMine:
    """The work of ``divek mine`` between start and end: rows, pictures, requests, counting, a line for each image."""

    name = "divek mine"

    def __init__(self, workload: Workload, rows: PreparedRows) -> None:
        self.workload, self.rows = workload, rows
        self.loop = asyncio.new_event_loop()
        self.engine = self.loop.run_until_complete(VllmEngine.start(workload.engine))

    def rate(self, images: int, every: int = 1) -> float:
        """Images a second for every n-th row, with empty caches at the start."""
        return self.loop.run_until_complete(self._rate(images, every))

    async def _rate(self, images: int, every: int) -> float:
        await self.engine.llm.reset_prefix_cache()
        await self.engine.llm.reset_mm_cache()
        await self.engine.llm.reset_encoder_cache()
        rows = dataclasses.replace(self.rows, keys=self.rows.keys[::every][:images])
        with tempfile.TemporaryDirectory() as folder:
            log = VotesLog(Path(folder) / "votes.jsonl", Origin("benchmark"))
            started = time.monotonic()
            in_flight = self.workload.engine.max_images_in_flight
            summary = await mine(rows, self.engine, log, self.workload.sampling, in_flight)
            log.close(rows.keys)
            seconds = time.monotonic() - started
        if summary.mined != images:
            raise RuntimeError(f"only {summary.mined} of {images} images were mined: {summary.failures[:1]}")
        return images / seconds

    def close(self) -> None:
        self.loop.run_until_complete(self.engine.close())
        self.loop.close()


class BareEngine:
    """``vllm.LLM.generate(n=K)`` with the same settings; pictures are read and prompts rendered beforehand."""

    name = "vllm.LLM.generate"

    def __init__(self, workload: Workload, rows: PreparedRows, threads: int | None = None) -> None:
        from transformers import AutoProcessor
        from vllm import LLM

        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        self.samples = workload.samples
        self.llm = LLM(**engine_arguments(workload.engine, prepare_machine()))
        self.prompts, self.parameters = [], []
        builder = PromptBuilder(AutoProcessor.from_pretrained(workload.model))
        for row in rows:
            request = Request("/".join(row.key), row.messages, workload.samples)
            prompt = builder(request.messages)
            # As tokens: text would cost vLLM a second pass through the processor.
            tokens = builder.tokenize(prompt)
            self.prompts.append({"prompt_token_ids": tokens, "multi_modal_data": {"image": prompt.images}})
            self.parameters.append(sampling_parameters(request, workload.sampling.sampling()))

    def rate(self, images: int) -> float:
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_mm_cache()
        # The encoder's outputs are kept by picture, not by prompt, and outlive both resets above.
        self.llm.llm_engine.reset_encoder_cache()
        started = time.monotonic()
        outputs = self.llm.generate(self.prompts[:images], self.parameters[:images], use_tqdm=False)
        seconds = time.monotonic() - started
        if sum(len(output.outputs) for output in outputs) != images * self.samples:
            raise RuntimeError("vllm.LLM.generate lost samples")
        return images / seconds


def measure(workload: Workload, section: Section) -> None:
    """Images a second of both arms."""
    prepare_machine()
    rows = workload.rows(workload.images)
    ours = DivekMine(workload, rows)
    bare = BareEngine(workload, rows)
    for arm in (ours, bare):
        arm.rate(max(1, len(rows) // 4))
    section.take_turns({arm.name: partial(arm.rate, len(rows)) for arm in (ours, bare)}, workload.repetitions)
    ours.close()
    share = section.median(ours.name) / section.median(bare.name)
    section.claim("images/s of divek mine, as a share of the bare engine's", share, LEAST_SHARE_OF_THE_ENGINE)


def measure_growth(workload: Workload, section: Section) -> None:
    """Images a second of ``divek mine`` for a quarter of the images, all of them and four times as many."""
    prepare_machine()
    least = max(1, workload.images // GROWTH[1])
    rows = workload.rows()
    if len(rows) < least * GROWTH[-1]:
        raise SetupError(f"{workload.data} has {len(rows)} rows: give --images at most {len(rows) // GROWTH[1]}.")
    ours = DivekMine(workload, rows)
    ours.rate(least)
    # Spread over the same rows: some classes have longer names than others.
    arms = {f"{n * least} images": partial(ours.rate, n * least, every=GROWTH[-1] // n) for n in GROWTH}
    section.take_turns(arms, workload.repetitions)
    ours.close()
    first, *larger = arms
    for name in larger:
        growth = section.median(name) / section.median(first)
        section.claim(f"images/s with {name}, as a share of that with {least}", growth, LEAST_GROWTH)
