"""``divek eval``: how good is a model at both steps, on base and new classes?"""

import asyncio
import json
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from divek_verl.commands.options import AnsweringModel, JudgeOptions, TwoStepOptions
from divek_verl.engines.base import Engine
from divek_verl.engines.options import with_options
from divek_verl.errors import SetupError

STOPPED = 130
MODES = ("one-step", "two-step", "both")


def _show_schema(wanted: bool) -> None:
    """Before anything is asked for, so that no other option is needed."""
    if wanted:
        from divek_verl.evaluation.results import Results

        print(json.dumps(Results.model_json_schema(), indent=1))
        raise typer.Exit


def evaluate_model(
    model: AnsweringModel,
    asked: TwoStepOptions,
    judging: JudgeOptions,
    data: Annotated[list[Path] | None, typer.Option(help="Parquet file of a prepared set; again for another.")] = None,
    mode: Annotated[
        str, typer.Option(help="one-step: the open question; two-step: both; both: also what the second adds.")
    ] = "both",
    out: Annotated[Path, typer.Option(help="Folder of the results; an evaluation in it goes on.")] = Path("runs/eval"),
    compare: Annotated[Path | None, typer.Option(help="Folder of an earlier evaluation of the same images.")] = None,
    resamples: Annotated[int, typer.Option(help="Of each bootstrap interval.")] = 2000,
    retry_failures: Annotated[bool, typer.Option(help="Ask failed images of an earlier call again.")] = False,
    fresh: Annotated[bool, typer.Option(help="Forget what the folder holds of an earlier evaluation.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", callback=_show_schema, is_eager=True, help="Print the schema of results.json.")
    ] = False,
) -> None:
    """Ask both questions about every picture of prepared data, and write results.json, results.html, questions.jsonl.

    The same command goes on where it was stopped.
    """
    if not data:
        raise SetupError("There is nothing to evaluate: give --data the parquet file of a prepared set.")
    if mode not in MODES:
        raise SetupError(f"--mode {mode!r} is none of {', '.join(MODES)}.")
    model, judge_address = _who_answers(model, judging, Console())
    _run(model, asked, judging.settings(judge_address), data, mode, out, compare, resamples, retry_failures, fresh)


evaluate_command = with_options(evaluate_model)


def _who_answers(model: AnsweringModel, judging: JudgeOptions, console: Console) -> tuple[AnsweringModel, str | None]:
    """With ``--model FOLDER --judge openai --base-url URL`` the server is the judge's: the folder is loaded here."""
    ours = judging.judge == "openai" and judging.judge_base_url is None and Path(model.model).expanduser().is_dir()
    if not (model.base_url and ours):
        return model, model.base_url
    console.print(f"{model.base_url} is asked as the judge; {model.model} is loaded here", markup=False)
    from divek_verl.engines.options import Backend

    return replace(model, base_url=None, backend=Backend.VLLM), model.base_url


def _run(
    model: AnsweringModel,
    asked: TwoStepOptions,
    judge: Any,
    data: list[Path],
    mode: Any,
    out: Path,
    compare: Path | None,
    resamples: int,
    retry_failures: bool,
    fresh: bool,
) -> None:
    from divek_verl.cpu.machine import prepare_machine

    prepare_machine()
    from divek_verl.engines.checkpoints import model_folder
    from divek_verl.evaluation.display import show
    from divek_verl.evaluation.evaluating import Evaluation, evaluate

    if not model.base_url:
        model = replace(model, model=model_folder(model.model))
    evaluation = Evaluation(
        model=model.model,
        base_url=model.base_url,
        data=tuple(data),
        two_step=asked.settings(ask_choice=mode != "one-step"),
        mode=mode,
        judge=judge,
        min_pixels=asked.min_pixels,
        max_pixels=asked.max_pixels,
        resamples=resamples,
        in_flight=model.max_images_in_flight,
    )
    started = time.monotonic()
    work = evaluate(
        evaluation,
        lambda images: _open(model, images),
        out,
        compare=compare,
        retry_failures=retry_failures,
        fresh=fresh,
        show_progress=True,
    )
    try:
        results, speed = asyncio.run(work)
    except KeyboardInterrupt:
        print(f"stopped; what was answered is kept in {out}, and the same command goes on from there")
        raise typer.Exit(STOPPED) from None
    console = Console()
    show(results, console)
    console.print(_spent(speed, time.monotonic() - started), markup=False, highlight=False)
    console.print(f"written: {out / 'results.json'}, {out / 'results.html'}", markup=False, soft_wrap=True)


def _open(model: AnsweringModel, images: int) -> AbstractAsyncContextManager[Engine]:
    from divek_verl.engines.opening import open_engine

    return open_engine(model, images)


def _spent(speed: Any, seconds: float) -> str:
    parts = [f"{speed.asked} images asked in {seconds:.1f} s, engine start included"]
    if speed.kept:
        parts.append(f"{speed.kept} kept from before")
    if speed.torn:
        parts.append(f"{speed.torn} torn lines asked again")
    if speed.judging is not None:
        counted = speed.judging
        parts.append(
            f"judge: {counted.asked} pairs asked with {counted.retries} retries, "
            f"{counted.from_cache} verdicts from the cache"
        )
    return "; ".join(parts)
