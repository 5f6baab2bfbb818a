"""``divek eval``: how good is a model at both steps, on base and new classes?"""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from divek_verl.commands.options import JudgeOptions, TwoStepOptions
from divek_verl.console import STOPPED, terminal
from divek_verl.engines.client import address
from divek_verl.engines.options import Backend, EngineOptions, with_options
from divek_verl.engines.rows import files_of
from divek_verl.errors import SetupError

if TYPE_CHECKING:
    from divek_verl.evaluation.evaluating import CallCounts

OUTPUT = "Output"
# The bound of Qwen2.5-VL's own processor.
MOST_PIXELS = 12_845_056


def _show_schema(wanted: bool) -> None:
    """Runs before the other options are checked, so that none of them is needed."""
    if wanted:
        from divek_verl.evaluation.results import Results

        print(json.dumps(Results.model_json_schema(), indent=1))
        raise typer.Exit


def evaluate_model(
    model: EngineOptions,
    asked: TwoStepOptions,
    judging: JudgeOptions,
    data: Annotated[
        list[Path], typer.Option(help="Parquet file of a prepared set, or its folder: val*.parquet; repeatable.")
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first N rows of each file.")] = None,
    mode: Annotated[
        str, typer.Option(help="one-step: the open question; two-step: both; both: also what the second adds.")
    ] = "both",
    protocol: Annotated[
        str,
        typer.Option(
            help="strict: closed class list; paper: as the paper measured, with its sampling, no bound on pixels, raw "
            "answers as options, and a judge for every answer (docs/reproduce-the-paper.md)."
        ),
    ] = "strict",
    out: Annotated[
        Path, typer.Option(help="Folder of results, continued if it has some.", rich_help_panel=OUTPUT)
    ] = Path("runs/eval"),
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of an earlier evaluation of the same images; repeat it for several seeds of a run.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    other_seed: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of the evaluation of another seed of this run, to join it in --compare; repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Bootstrap resamples for each interval.", rich_help_panel=OUTPUT)
    ] = 2000,
    retry_failures: Annotated[
        bool, typer.Option(help="Ask failed images of an earlier call again.", rich_help_panel=OUTPUT)
    ] = False,
    fresh: Annotated[
        bool, typer.Option(help="Remove the earlier evaluation in the folder.", rich_help_panel=OUTPUT)
    ] = False,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            callback=_show_schema,
            is_eager=True,
            help="Print the schema of results.json.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> None:
    """Ask both questions about every picture of prepared data, and write results.json, results.html, questions.jsonl.

    The same command continues an evaluation that was stopped.
    """
    if other_seed and not compare:
        raise SetupError("--other-seed is one side of a comparison: name the other side with --compare.")
    if mode not in ("one-step", "two-step", "both"):
        raise SetupError(f"--mode {mode!r} is not one of one-step, two-step, both.")
    if protocol not in ("strict", "paper"):
        raise SetupError(f"--protocol {protocol!r} is not one of strict, paper.")
    console = terminal()
    judge = judging.settings(model.base_url)
    is_folder = Path(model.model).expanduser().is_dir()
    if model.base_url and judge is not None and judging.judge_base_url is None and is_folder:
        # The one address is the judge's.
        console.print(f"{address(model.base_url)} is asked as the judge; {model.model} is loaded here", markup=False)
        model = replace(model, base_url=None, backend=Backend.VLLM)

    from divek_verl.engines import open_engine
    from divek_verl.engines.checkpoints import generation_sampling, with_model_folder
    from divek_verl.engines.two_step import GREEDY

    model = with_model_folder(model)
    two_step = asked.settings(ask_choice=mode != "one-step")
    single = replace(GREEDY, max_new_tokens=asked.max_new_tokens, seed=asked.seed)
    if protocol == "paper":
        if model.base_url:
            raise SetupError("--protocol paper reads the model's generation_config.json: give --model its folder.")
        single = generation_sampling(model.model, max_new_tokens=asked.max_new_tokens, seed=asked.seed)
        two_step = replace(two_step, choice_sampling=single)
    files = files_of(data, "val*.parquet")
    # After all input: scipy and statsmodels take a second to import.
    from divek_verl.evaluation.display import show
    from divek_verl.evaluation.evaluating import Evaluation, Protocol, evaluate
    from divek_verl.evaluation.results import Mode
    from divek_verl.report import write_report

    evaluation = Evaluation(
        model=model.model,
        base_url=model.base_url,
        data=tuple(files),
        limit=limit,
        two_step=two_step,
        single_sampling=single,
        protocol=next(known for known in get_args(Protocol) if known == protocol),
        mode=next(known for known in get_args(Mode) if known == mode),
        judge=judge,
        min_pixels=asked.min_pixels,
        max_pixels=asked.max_pixels if protocol == "strict" else MOST_PIXELS,
        resamples=resamples,
        in_flight=model.max_images_in_flight,
    )
    started = time.monotonic()
    work = evaluate(
        evaluation,
        lambda: open_engine(model),
        out,
        compare=compare or (),
        other_seeds=other_seed or (),
        retry_failures=retry_failures,
        fresh=fresh,
        show_progress=True,
    )
    try:
        results, counts = asyncio.run(work)
    except KeyboardInterrupt:
        print(f"stopped; the answers so far are kept in {out}, and the same command continues from there")
        raise typer.Exit(STOPPED) from None
    report = write_report(out)
    show(results, console)
    console.print(_summary(counts, time.monotonic() - started), markup=False, highlight=False)
    console.print(f"written: {out / 'results.json'}, {out / 'results.html'}, {report}", markup=False, soft_wrap=True)


evaluate_command = with_options(evaluate_model)


def _summary(counts: "CallCounts", seconds: float) -> str:
    parts = [f"{counts.asked} images asked in {seconds:.1f} s, engine start included"]
    if counts.kept:
        parts.append(f"{counts.kept} kept from before")
    if counts.torn:
        parts.append(f"{counts.torn} torn lines asked again")
    if counts.judging is not None:
        parts.append(
            f"judge: {counts.judging.asked} pairs asked with {counts.judging.retries} retries, "
            f"{counts.judging.from_cache} verdicts from the cache"
        )
        if counts.judging.error is not None:
            parts.append(f"the judge's last error: {counts.judging.error}")
    return "; ".join(parts)
