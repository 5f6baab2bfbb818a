"""How much of vLLM's own throughput does a two-step evaluation reach?

    python benchmarks/eval.py --model runs/demo/model --data runs/demo/data/val_base.parquet

Two arms run in turn, with equal engine settings on the same machine. ``evaluation`` is ``divek eval`` from rows to
results: reading, both steps, records on disk, statistics, page. ``bare`` calls ``vllm.LLM.generate`` twice with the
prompts, decoded pictures and seeds of the evaluation, so that it draws the same tokens. The claim is that the
evaluation reaches at least 0.9 of the tokens a second of bare vLLM.
"""

import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from divek_verl.engines.base import Engine, Reply, Request, Sampling
from divek_verl.engines.options import EngineOptions

if TYPE_CHECKING:
    from divek_verl.evaluation.evaluating import Evaluation

CLAIM = 0.9
STEPS = ("/open", "/single", "/choice")


@dataclass
class Recording:
    """An engine that remembers its requests, so that the bare arm can repeat them."""

    engine: Engine
    asked: list[tuple[Request, Sampling]] = field(default_factory=list)
    output_tokens: int = 0

    @property
    def model(self) -> str:
        return self.engine.model

    async def generate(self, request: Request, sampling: Sampling) -> Reply:
        self.asked.append((request, sampling))
        reply = await self.engine.generate(request, sampling)
        self.output_tokens += reply.output_tokens
        return reply

    async def close(self) -> None:
        pass


@dataclass(frozen=True)
class Round:
    """Seconds and generated tokens of both arms."""

    evaluation_seconds: float
    evaluation_tokens: int
    bare_seconds: float
    bare_tokens: int

    @property
    def ratio(self) -> float:
        """Tokens a second of the evaluation, as a share of bare vLLM's."""
        return (self.evaluation_tokens / self.evaluation_seconds) / (self.bare_tokens / self.bare_seconds)


class Bare:
    """``vllm.LLM`` with all requests of a step in one call; they are prepared before the clock starts."""

    def __init__(self, options: EngineOptions, on_cpu: bool) -> None:
        from transformers import AutoProcessor
        from vllm import LLM

        from divek_verl.engines.pictures import PromptBuilder
        from divek_verl.engines.vllm_engine import engine_arguments

        self._llm = LLM(**engine_arguments(options, on_cpu), seed=0)
        self._prompts = PromptBuilder(AutoProcessor.from_pretrained(options.model))

    def prepare(self, asked: list[tuple[Request, Sampling]]) -> list[tuple[list[Any], list[Any]]]:
        """Prompts and sampling parameters of each step; pictures are decoded here, before the clock starts."""
        from divek_verl.engines.vllm_engine import sampling_parameters

        steps = [[each for each in asked if each[0].key.endswith(step)] for step in STEPS]
        return [([self._prompt(r) for r, _ in step], [sampling_parameters(r, s) for r, s in step]) for step in steps]

    def _prompt(self, request: Request) -> dict[str, Any]:
        built = self._prompts(request.messages)
        # Tokens save vLLM a second pass through the processor.
        return {"prompt_token_ids": self._prompts.tokenize(built), "multi_modal_data": {"image": built.images}}

    def __call__(self, steps: list[tuple[list[Any], list[Any]]]) -> tuple[float, int]:
        """Seconds and generated tokens."""
        self._llm.reset_prefix_cache()
        started, tokens = time.perf_counter(), 0
        for prompts, parameters in steps:
            outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
            tokens += sum(len(each.token_ids) for output in outputs for each in output.outputs)
        return time.perf_counter() - started, tokens


async def measure(
    evaluation: "Evaluation", options: EngineOptions, rounds: int, on_cpu: bool, console: Console
) -> list[Round]:
    """``rounds`` of both arms in turn, after one round that only warms up."""
    from divek_verl.engines import open_engine

    found = []
    async with open_engine(options) as engine:
        bare = Bare(options, on_cpu)
        for number in range(rounds + 1):
            recording = Recording(engine)
            seconds = await _evaluate(evaluation, recording)
            # This call blocks the event loop; nothing else runs meanwhile.
            bare_seconds, bare_tokens = bare(bare.prepare(recording.asked))
            if number == 0:
                continue
            found.append(Round(seconds, recording.output_tokens, bare_seconds, bare_tokens))
            console.print(f"round {number}: {found[-1].ratio:.3f}")
    return found


async def _evaluate(evaluation: "Evaluation", recording: Recording) -> float:
    from divek_verl.evaluation.evaluating import evaluate

    @asynccontextmanager
    async def opened() -> AsyncIterator[Engine]:
        yield recording

    # Otherwise the cache saves the second round its prefills.
    await recording.engine.llm.reset_prefix_cache()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        await evaluate(evaluation, opened, Path(folder) / "out")
        return time.perf_counter() - started


def table_of(rounds: list[Round]) -> Table:
    """Tokens a second of both arms in each round, and the share."""
    table = Table(title="generated tokens a second")
    for name in ("round", "tokens", "evaluation", "bare vLLM", "share"):
        table.add_column(name, justify="right")
    for number, each in enumerate(rounds, 1):
        speeds = (each.evaluation_tokens / each.evaluation_seconds, each.bare_tokens / each.bare_seconds)
        cells = (number, each.evaluation_tokens, *(f"{speed:.0f}" for speed in speeds), f"{each.ratio:.3f}")
        table.add_row(*map(str, cells))
    return table


def summary(rounds: list[Round]) -> dict[str, Any]:
    """The saved numbers: every round, and the median share, which decides the claim."""
    ratios = [each.ratio for each in rounds]
    return {
        "claim": f"the evaluation reaches at least {CLAIM} of bare vLLM's tokens a second",
        "share": statistics.median(ratios),
        "holds": statistics.median(ratios) >= CLAIM,
        "rounds": [{**vars(each), "share": each.ratio} for each in rounds],
        "machine": {"platform": platform.platform(), "processors": len(os.sched_getaffinity(0))},
    }


def main(
    model: Annotated[str, typer.Option(help="Folder of the model.")],
    data: Annotated[list[Path], typer.Option(help="Parquet file of a prepared set; repeat it for several files.")],
    samples: Annotated[int, typer.Option(help="K, samples for each image.")] = 20,
    max_new_tokens: Annotated[int, typer.Option(help="Token limit of one completion.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Number of measured rounds.")] = 3,
    save: Annotated[Path | None, typer.Option(help="JSON file for the numbers.")] = None,
) -> None:
    """Run both arms in turn and print the share of bare vLLM's throughput."""
    from divek_verl.cpu.machine import prepare_machine

    on_cpu = prepare_machine()
    from divek_verl.commands.options import TwoStepOptions
    from divek_verl.engines.two_step import GREEDY
    from divek_verl.evaluation.evaluating import Evaluation

    console = Console()
    settings = TwoStepOptions(samples=samples, max_new_tokens=max_new_tokens).settings()
    evaluation = Evaluation(model, tuple(data), settings, replace(GREEDY, max_new_tokens=max_new_tokens))
    found = asyncio.run(measure(evaluation, EngineOptions(model), rounds, on_cpu, console))
    result = {**summary(found), "samples": samples, "data": [path.name for path in data]}
    console.print(table_of(found))
    console.print(f"{'holds' if result['holds'] else 'DOES NOT HOLD'}: {result['claim']} ({result['share']:.3f})")
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    raise typer.Exit(0 if result["holds"] else 1)


if __name__ == "__main__":
    typer.run(main)
