"""An evaluation from prepared rows to results: ask, measure, have judged, summarize. Goes on where it was stopped."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from divek_verl.engines.base import Engine
from divek_verl.engines.two_step import TwoStepSettings
from divek_verl.errors import SetupError
from divek_verl.evaluation.asking import ASKED_FILE, QUESTIONS_FILE, Progress, ask_all, fingerprint
from divek_verl.evaluation.comparing import differences
from divek_verl.evaluation.items import DataFile, Item, class_lists, read_items
from divek_verl.evaluation.judge import JudgeCount, JudgeSettings
from divek_verl.evaluation.judging import all_pairs, describe, judge_pairs
from divek_verl.evaluation.measuring import TITLES, measure, measure_judged
from divek_verl.evaluation.results import (
    RESULTS_FILE,
    Comparison,
    Failure,
    Judged,
    Results,
    read_results,
    versions,
    write_results,
)
from divek_verl.evaluation.results import DataFile as DataFileResult
from divek_verl.evaluation.statistics import summarize
from divek_verl.evaluation.visits import EvaluatedVisit
from divek_verl.files import only_writer, read_lines

Mode = Literal["one-step", "two-step", "both"]
PAGE_FILE = "results.html"
# Called with the number of images to ask about.
OpenEngine = Callable[[int], AbstractAsyncContextManager[Engine]]


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate, and how.

    Attributes:
        model: path, or name on the server at ``base_url``.
        data: parquet files of prepared sets.
        two_step: how both questions are asked.
        mode: ``one-step`` asks the open question only, ``two-step`` both, ``both`` also says what the second adds.
        judge: decides on answers outside the class list; None: they are wrong.
        min_pixels, max_pixels: bounds of each picture.
        resamples: of each bootstrap interval.
        in_flight: images at work at one time; changes no result.
    """

    model: str
    data: tuple[Path, ...]
    two_step: TwoStepSettings = TwoStepSettings()
    mode: Mode = "both"
    base_url: str | None = None
    judge: JudgeSettings | None = None
    min_pixels: int = 3136
    max_pixels: int = 401408
    resamples: int = 2000
    in_flight: int = 256

    def __post_init__(self) -> None:
        if self.two_step.ask_choice != (self.mode != "one-step"):
            raise SetupError(f"Mode {self.mode} and ask_choice={self.two_step.ask_choice} contradict each other.")
        if self.resamples < 1 or self.in_flight < 1:
            raise SetupError("An evaluation needs at least 1 resample and 1 image in flight.")
        if not 1 <= self.min_pixels <= self.max_pixels:
            raise SetupError(f"Pictures of {self.min_pixels} to {self.max_pixels} pixels do not exist: correct either.")

    @property
    def measures(self) -> list[str]:
        return [name for name in TITLES if name != "two_step" or self.mode != "one-step"]

    def settings(self) -> dict[str, Any]:
        """What decides the answers, beside model and data."""
        bounds = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        return {**asdict(self.two_step), **bounds}


@dataclass
class Speed:
    """What this call took; not part of the results, which say nothing about a machine."""

    asked: int = 0
    kept: int = 0
    torn: int = 0
    judging: JudgeCount | None = None


async def evaluate(
    evaluation: Evaluation,
    open_engine: OpenEngine,
    out: Path,
    *,
    compare: Path | None = None,
    retry_failures: bool = False,
    fresh: bool = False,
    show_progress: bool = False,
) -> tuple[Results, Speed]:
    """Evaluate, and write ``questions.jsonl``, ``results.json`` and ``results.html`` into ``out``.

    What ``out`` holds already of the very same evaluation is kept; the engine is opened only where an image is left.
    With ``fresh`` nothing is kept, but nothing is removed either until all input has been read and fits.

    Raises:
        SetupError: data, settings or the folder do not fit, or the engine cannot be started.
    """
    items, files = _read(evaluation)
    earlier = None if compare is None else _read_earlier(compare, items)
    with _writing(out):
        progress = _open_folder(out, _asked(evaluation, items, files), fresh)
        speed = Speed(kept=len(progress.visits), torn=progress.torn)
        left = progress.remaining(items, retry_failures=retry_failures)
        if left:
            speed.kept, speed.asked = len(items) - len(left), len(left)
            with tqdm(total=len(items), initial=speed.kept, desc="ask", unit="image", disable=not show_progress) as bar:
                await _ask(left, evaluation, open_engine, progress, bar)
        judged, speed.judging = await _measure(evaluation, items, progress, show_progress)
        visits = progress.finish()
        results = _results(evaluation, files, visits, judged)
        if earlier is not None:
            results.comparison = _compared(earlier, results, visits, evaluation)
        _write(results, out)
        return results, speed


def start_over(out: Path) -> None:
    """Remove what an evaluation wrote into ``out``, and nothing else."""
    for name in (ASKED_FILE, QUESTIONS_FILE, RESULTS_FILE, PAGE_FILE):
        (out / name).unlink(missing_ok=True)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Be the one writer of ``out``; a folder that cannot be written, or stops being so, is named."""
    try:
        with only_writer(out):
            yield
    except OSError as error:
        place = None if error.filename is None else Path(error.filename)
        if place is None or not (place.is_relative_to(out) or out.is_relative_to(place)):
            raise
        raise SetupError(f"{out} cannot be written ({error.strerror}): name another folder with --out.") from None


def _open_folder(out: Path, asked: Mapping[str, Any], fresh: bool) -> Progress:
    if fresh:
        start_over(out)
    return Progress(out, asked)


def _read(evaluation: Evaluation) -> tuple[list[Item], list[DataFile]]:
    return read_items(
        evaluation.data,
        min_pixels=evaluation.min_pixels,
        max_pixels=evaluation.max_pixels,
        open_vocabulary=evaluation.judge is not None,
    )


def _asked(evaluation: Evaluation, items: Sequence[Item], files: Sequence[DataFile]) -> dict[str, Any]:
    """What must be equal for answers to be kept; paths may change, contents may not.

    The class lists are part of it: by their names and aliases the answers were counted.
    """
    served = evaluation.base_url is not None
    return {
        "model": evaluation.model,
        "model's files": "served" if served else fingerprint(evaluation.model),
        "address": evaluation.base_url,
        "data": sorted(file.sha256 for file in files),
        "class list": class_lists(items),
        "settings": evaluation.settings(),
    }


async def _ask(
    left: Sequence[Item], evaluation: Evaluation, open_engine: OpenEngine, progress: Progress, bar: Any
) -> None:
    def keep(visit: EvaluatedVisit) -> None:
        progress.add(visit)
        bar.update()

    async with open_engine(len(left)) as engine:
        await ask_all(left, engine, evaluation.two_step, in_flight=evaluation.in_flight, on_visit=keep)


async def _measure(
    evaluation: Evaluation, items: Sequence[Item], progress: Progress, show_progress: bool
) -> tuple[Judged | None, JudgeCount | None]:
    """Set the measures of every visit; ask the judge where there is one."""
    classes = {item.key: item.question.classes for item in items}
    progress.visits = {key: progress.visits[key] for key in classes}
    if evaluation.judge is None:
        for visit in progress.visits.values():
            measure(visit)
        return None, None
    pairs = all_pairs(list(progress.visits.values()), classes)
    with tqdm(total=len(pairs), desc="judge", unit="pair", disable=not show_progress) as bar:
        verdicts, counted = await judge_pairs(pairs, evaluation.judge, bar.update)
    for key, visit in progress.visits.items():
        measure_judged(visit, classes[key], verdicts)
    return describe(verdicts, evaluation.judge), counted


def _results(
    evaluation: Evaluation, files: Sequence[DataFile], visits: Sequence[EvaluatedVisit], judged: Judged | None
) -> Results:
    seed, resamples = evaluation.two_step.seed, evaluation.resamples
    summary = summarize(visits, evaluation.measures, seed=seed, resamples=resamples)
    helped = [("consistency", "two_step")] if evaluation.mode == "both" else []
    return Results(
        model=evaluation.model,
        base_url=evaluation.base_url,
        mode=evaluation.mode,
        settings={**evaluation.settings(), "bootstrap_resamples": resamples},
        versions=versions(),
        data=[DataFileResult(**asdict(file)) for file in files],
        images=len(visits),
        groups=summary.groups,
        harmonic_means=summary.harmonic_means,
        over_data_sets=summary.over_data_sets,
        second_step=differences(visits, visits, helped, seed=seed, resamples=resamples),
        failures=[_failure(visit) for visit in visits if visit.failure is not None],
        judge=judged,
        comparison=None,
    )


def _failure(visit: EvaluatedVisit) -> Failure:
    return Failure(
        data_source=visit.data_source,
        image_id=visit.image_id,
        step=visit.failed_step or "",
        reason=visit.failure or "",
        detail=visit.detail,
    )


@dataclass(frozen=True)
class _Earlier:
    """The evaluation to compare with."""

    run: Path
    results: Results
    visits: list[EvaluatedVisit]


def _read_earlier(run: Path, items: Sequence[Item]) -> _Earlier:
    """Read before anything is asked, so that a wrong folder costs nothing."""
    results = read_results(run)
    folder = run if run.is_dir() else run.parent
    visits = [EvaluatedVisit.from_json(record) for record in read_lines(folder / QUESTIONS_FILE)[0]]
    if not {visit.key for visit in visits} & {item.key for item in items}:
        raise SetupError(f"{run} evaluated none of these images: compare evaluations of the same data.")
    return _Earlier(run, results, visits)


def _compared(
    earlier: _Earlier, results: Results, visits: Sequence[EvaluatedVisit], evaluation: Evaluation
) -> Comparison:
    """This evaluation (after) against an earlier one (before), on the images of both."""
    before = earlier.results
    shared = {visit.key for visit in earlier.visits} & {visit.key for visit in visits}
    measures = evaluation.measures if before.mode != "one-step" else [m for m in evaluation.measures if m != "two_step"]
    return Comparison(
        run=str(earlier.run),
        model=before.model,
        only_here=len(visits) - len(shared),
        only_there=len(earlier.visits) - len(shared),
        other_settings=_changed(before, results),
        differences=differences(
            earlier.visits,
            visits,
            [(name, name) for name in measures],
            seed=evaluation.two_step.seed,
            resamples=evaluation.resamples,
        ),
    )


def _changed(before: Results, after: Results) -> list[str]:
    """Settings and versions of the two that are not equal, as ``name: before -> after``."""
    old = {**_flat(before.settings), **before.versions, "judge": before.judge and before.judge.model}
    new = {**_flat(after.settings), **after.versions, "judge": after.judge and after.judge.model}
    names = sorted({*old, *new})
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One setting a name, such as ``open_sampling.seed``: of a whole sampling, the one number could not be found."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        nested = _flat(value) if isinstance(value, Mapping) else {"": value}
        found |= {f"{name}.{inner}" if inner else name: each for inner, each in nested.items()}
    return found


def _write(results: Results, out: Path) -> None:
    from divek_verl.evaluation.page import write_page

    write_results(results, out)
    write_page(results, out / PAGE_FILE)
