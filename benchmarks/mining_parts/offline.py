"""Offline mining, the engine alone, and the usual way, in turns."""

import asyncio
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from divek_verl.commands.mine import mine
from divek_verl.cpu.machine import prepare_machine, share_cores
from divek_verl.engines.base import Request, seed_of
from divek_verl.engines.options import SamplingOptions
from divek_verl.engines.pictures import PromptBuilder
from divek_verl.engines.rows import PreparedRows
from divek_verl.engines.vllm_engine import VllmEngine, engine_arguments, sampling_parameters
from divek_verl.errors import SetupError
from divek_verl.votes_file import Origin, VotesLog
from mining_parts.measuring import Section, Workload, take_turns
from mining_parts.workload import engine_options, read_rows, sampling_options

LEAST_SHARE_OF_THE_ENGINE = 0.95
LEAST_GAIN_OVER_TRANSFORMERS = 8.0
# The usual way is slow, so that it has fewer images; an eighth was too few (4.3 to 5.3 images/s in one run).
SHARE_OF_IMAGES_FOR_TRANSFORMERS = 4
# How far below the rate of the smallest run chance may put a larger one.
LEAST_GROWTH = 0.95
GROWTH = (1, 4, 16)


class DivekMine:
    """What ``divek mine`` does between start and end: rows, pictures, requests, counting, a line for each image."""

    def __init__(self, workload: Workload, rows: PreparedRows, **options: Any) -> None:
        self.name = " ".join(("divek mine", *(_as_given(name, value) for name, value in options.items())))
        self.rows = rows
        self.sampling = sampling_options(workload.samples, workload.max_new_tokens, workload.seed)
        self.options = engine_options(workload.model, **options)
        self.loop = asyncio.new_event_loop()
        with threads(self.options.data_parallel):
            self.engine = self.loop.run_until_complete(VllmEngine.start(self.options))

    def rate(self, images: int, seeded: bool = True, every: int = 1) -> float:
        """Images a second, with empty caches at the start; of each so many rows one is asked about."""
        sampling = self.sampling if seeded else dataclasses.replace(self.sampling, seed=None)
        return self.loop.run_until_complete(self._rate(images, sampling, every))

    async def _rate(self, images: int, sampling: SamplingOptions, every: int) -> float:
        await self.engine.llm.reset_prefix_cache()
        await self.engine.llm.reset_mm_cache()
        await self.engine.llm.reset_encoder_cache()
        rows = dataclasses.replace(self.rows, keys=self.rows.keys[::every][:images])
        with tempfile.TemporaryDirectory() as folder:
            log = VotesLog(Path(folder) / "votes.jsonl", Origin("benchmark"))
            started = time.monotonic()
            summary = await mine(rows, self.engine, log, sampling, self.options.max_images_in_flight)
            log.close(rows.keys)
            seconds = time.monotonic() - started
        if summary.mined != images:
            raise RuntimeError(f"only {summary.mined} of {images} images were mined: {summary.failures[:1]}")
        return images / seconds

    def close(self) -> None:
        self.loop.run_until_complete(self.engine.close())
        self.loop.close()


def _as_given(name: str, value: Any) -> str:
    option = f"--{name.replace('_', '-')}"
    return option if value is True else f"{option} {value}"


@contextmanager
def threads(shares: int) -> Iterator[None]:
    """What is started within takes one of so many shares of the cores, unless the environment says otherwise."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    share_cores(shares)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


class BareEngine:
    """``vllm.LLM.generate(n=K)`` with the same settings; pictures are read and prompts rendered beforehand."""

    name = "vllm.LLM.generate"

    def __init__(self, workload: Workload, rows: PreparedRows, prompts: PromptBuilder, shares: int = 1) -> None:
        from vllm import LLM

        self.samples = workload.samples
        self.sampling = sampling_options(workload.samples, workload.max_new_tokens, workload.seed).sampling()
        with threads(shares):
            self.llm = LLM(**engine_arguments(engine_options(workload.model), prepare_machine()))
        self.prompts = []
        for key in rows.keys:
            request = Request("/".join(key), rows[key].messages, workload.samples)
            prompt = prompts(request.messages)
            # As tokens: text would cost vLLM a second pass through the processor.
            given = {"prompt_token_ids": prompts.tokenize(prompt), "multi_modal_data": {"image": prompt.images}}
            self.prompts.append((given, sampling_parameters(request, self.sampling)))

    def rate(self, images: int) -> float:
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_mm_cache()
        # What the picture encoder gave is kept by picture, not by prompt, and outlives both resets above.
        self.llm.llm_engine.reset_encoder_cache()
        prompts = [prompt for prompt, _ in self.prompts[:images]]
        parameters = [parameters for _, parameters in self.prompts[:images]]
        started = time.monotonic()
        outputs = self.llm.generate(prompts, parameters, use_tqdm=False)
        seconds = time.monotonic() - started
        if sum(len(output.outputs) for output in outputs) != images * self.samples:
            raise RuntimeError("vllm.LLM.generate lost samples")
        return images / seconds


class Transformers:
    """``generate`` of transformers, one image at a time with ``num_return_sequences=K``."""

    name = "transformers.generate"

    def __init__(self, workload: Workload, rows: PreparedRows, prompts: PromptBuilder) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        self.workload, self.rows, self.prompts = workload, rows, prompts
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.model = AutoModelForImageTextToText.from_pretrained(workload.model, dtype=dtype).to(device).eval()
        self.sampling = sampling_options(workload.samples, workload.max_new_tokens, workload.seed)

    def rate(self, images: int) -> float:
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        started = time.monotonic()
        for key in self.rows.keys[:images]:
            self._answer(key)
        return images / (time.monotonic() - started)

    def _answer(self, key: tuple[str, str]) -> list[str]:
        import torch

        prompt = self.prompts(self.rows[key].messages)
        processor = self.prompts.processor
        inputs = processor(text=[prompt.text], images=prompt.images, return_tensors="pt").to(self.model.device)
        self.prompt_tokens = inputs["input_ids"].shape[1]
        torch.manual_seed(seed_of(self.sampling.sampling(), "/".join(key)) or 0)
        with torch.inference_mode():
            tokens = self.model.generate(
                **inputs,
                do_sample=True,
                num_return_sequences=self.workload.samples,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                top_k=0,
                repetition_penalty=self.sampling.repetition_penalty,
                max_new_tokens=self.workload.max_new_tokens,
            )
        return list(processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def measure(workload: Workload, section: Section) -> Section:
    """Images a second of the arms, and what follows from them."""
    from transformers import AutoProcessor

    prepare_machine()
    rows = read_rows(workload.data, workload.images)
    prompts = PromptBuilder(AutoProcessor.from_pretrained(workload.model))
    few = max(1, workload.images // SHARE_OF_IMAGES_FOR_TRANSFORMERS)
    default, single, *more = ours = _ways_to_mine(workload, rows)
    bare = BareEngine(workload, rows, prompts)
    usual = Transformers(workload, rows, prompts)
    for arm, images in (*((arm, few) for arm in ours), (bare, few), (usual, 1)):
        arm.rate(images)
    arms = {
        **{arm.name: partial(_rate_of, arm, len(rows)) for arm in ours},
        f"{single.name}, no seeds": lambda _: single.rate(len(rows), seeded=False),
        bare.name: lambda _: bare.rate(len(rows)),
        usual.name: lambda _: usual.rate(few),
    }
    take_turns(section, arms, workload.repetitions)
    for arm in ours:
        arm.close()
    section.facts["prompt tokens"] = usual.prompt_tokens
    # One engine beside one engine: several copies are faster.
    share = section.median(single.name) / section.median(bare.name)
    section.claim(f"images/s of {single.name}, as a share of the bare engine's", share, LEAST_SHARE_OF_THE_ENGINE)
    for arm in (default, *more):
        gain = section.median(arm.name) / section.median(usual.name)
        section.claim(f"times the images/s of transformers ({arm.name})", gain, LEAST_GAIN_OVER_TRANSFORMERS)
    single_gain = section.median(single.name) / section.median(usual.name)
    section.facts[f"times the images/s of transformers ({single.name})"] = round(single_gain, 2)
    return section


def _ways_to_mine(workload: Workload, rows: PreparedRows) -> list[DivekMine]:
    """With no option; with one copy of the model; compiled, with one copy a GPU or, where there is none, a core."""
    import torch

    most = torch.cuda.device_count() if torch.cuda.is_available() else (os.cpu_count() or 1)
    ways: list[dict[str, Any]] = [{}, {"data_parallel": 1}]
    if most > 1:
        ways.append({"data_parallel": most, "compile": True})
    return [DivekMine(workload, rows, **way) for way in ways]


def _rate_of(arm: DivekMine, images: int, _: int, every: int = 1) -> float:
    return arm.rate(images, every=every)


def measure_growth(workload: Workload, section: Section) -> Section:
    """Images a second of ``divek mine`` for a quarter of the images, all of them and four times as many."""
    prepare_machine()
    least = max(1, workload.images // GROWTH[1])
    rows = read_rows(workload.data)
    if len(rows) < least * GROWTH[-1]:
        raise SetupError(f"{workload.data} has {len(rows)} rows: give --images at most {len(rows) // GROWTH[1]}.")
    ours = DivekMine(workload, rows)
    ours.rate(least)
    # Spread over the same rows: some classes have longer names than others.
    arms = {
        f"{times * least} images": partial(_rate_of, ours, times * least, every=GROWTH[-1] // times) for times in GROWTH
    }
    take_turns(section, arms, workload.repetitions)
    ours.close()
    first, *larger = [section.median(name) for name in arms]
    for name, rate in zip(list(arms)[1:], larger, strict=True):
        section.claim(f"images/s with {name}, as a share of that with {least}", rate / first, LEAST_GROWTH)
    return section
