"""An evaluation from prepared rows to results: ask, measure, summarize. It continues where it was stopped."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from divek_verl.engines.base import Engine, Request, Sampling, for_each
from divek_verl.engines.client import address
from divek_verl.engines.rows import Key, read_rows
from divek_verl.engines.two_step import GREEDY, TwoStepSettings, ask_two_steps
from divek_verl.errors import SetupError
from divek_verl.evaluation.display import write_page
from divek_verl.evaluation.judge import JudgeCount, JudgeSettings
from divek_verl.evaluation.measuring import measure_all
from divek_verl.evaluation.records import EvaluationRecord, record_of
from divek_verl.evaluation.results import (
    RESULTS_FILE,
    Comparison,
    Failure,
    Mode,
    Results,
    measures_of,
    read_results,
    versions,
    write_results,
)
from divek_verl.evaluation.statistics import differences, summarize
from divek_verl.files import append_line, only_writer, parse_json, read_lines, write_aside, write_lines
from divek_verl.intervals import RESAMPLES
from divek_verl.progress import progress
from divek_verl.records import QUESTIONS_FILE
from divek_verl.settings import DEFAULTS
from divek_verl.votes_file import class_list_hash

Protocol = Literal["strict", "paper"]
ASKED_FILE = "evaluation.json"
PAGE_FILE = "results.html"
OpenEngine = Callable[[], AbstractAsyncContextManager[Engine]]
Earlier = tuple[Path, Results, list[EvaluationRecord]]


@dataclass(frozen=True)
class Evaluation:
    """The model (a path, or a name on the server at ``base_url``), the data and the settings of an evaluation.

    Mode ``one-step`` asks the open question only, ``two-step`` both, ``both`` also says what the second adds.
    ``single_sampling`` is that of the one completion that ``one_step_greedy`` counts. The judge decides on answers
    outside the class list; with None they are wrong. With the protocol ``paper`` there is no class list: the most
    frequent answers, as they are spelled, are the options, and the judge decides on all of them. ``in_flight``, the
    number of images at work at one time, changes no result.
    """

    model: str
    data: tuple[Path, ...]
    two_step: TwoStepSettings = TwoStepSettings()
    single_sampling: Sampling = GREEDY
    mode: Mode = "both"
    base_url: str | None = None
    judge: JudgeSettings | None = None
    protocol: Protocol = "strict"
    min_pixels: int = DEFAULTS.min_pixels
    max_pixels: int = DEFAULTS.max_pixels
    resamples: int = RESAMPLES
    in_flight: int = 256
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.two_step.ask_choice != (self.mode != "one-step"):
            raise SetupError(f"Mode {self.mode} and ask_choice={self.two_step.ask_choice} contradict each other.")
        if self.base_url is not None:
            object.__setattr__(self, "base_url", address(self.base_url))
        if self.protocol == "paper" and self.judge is None:
            raise SetupError("--protocol paper lets a model judge every answer: add --judge openai and --judge-model.")
        if self.resamples < 1 or self.in_flight < 1:
            raise SetupError("An evaluation needs at least 1 resample and 1 image in flight.")

    @property
    def measures(self) -> list[str]:
        return measures_of(self.mode)

    def settings(self) -> dict[str, object]:
        """The settings that decide the answers, besides model and data."""
        settings = asdict(self.two_step)
        rules = settings.pop("rules")
        # These need a truth, which an evaluation does not show.
        del rules["skip_easy"], rules["easy_share"], rules["few_class_fillers"]
        single = {"protocol": self.protocol, "single_sampling": asdict(self.single_sampling)}
        bounds: dict[str, object] = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        if self.limit is not None:
            bounds["limit"] = self.limit
        return {**settings, **single, **rules, **bounds}


@dataclass
class CallCounts:
    """Counts of one call. They are not part of the results, which do not depend on interruptions."""

    asked: int = 0
    kept: int = 0
    torn: int = 0
    judging: JudgeCount | None = None


class EvaluationFolder:
    """The records of one evaluation on disk: appended as they come, and sorted at the end.

    ``evaluation.json`` says what was asked and how; a folder with records of another evaluation is refused. ``torn``
    counts lines that a kill left unreadable; their images are asked again.
    """

    def __init__(self, folder: Path, asked: Mapping[str, object]) -> None:
        self._questions = folder / QUESTIONS_FILE
        self.records: dict[tuple[str, str], EvaluationRecord] = {}
        # Through JSON, so that tuples and lists compare equal.
        wanted = json.loads(json.dumps(asked))
        try:
            found = parse_json((folder / ASKED_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            if self._questions.exists():
                raise SetupError(f"{folder} holds the records of something else: name another folder.") from None
            found = wanted
        except ValueError:
            found = None
        if found != wanted:
            changed = [name for name in wanted if not isinstance(found, dict) or found.get(name) != wanted[name]]
            raise SetupError(
                f"{folder} holds an evaluation with another {' and another '.join(changed) or 'format'}: "
                "name another folder with --out, or start over with --fresh."
            )
        write_aside(folder / ASKED_FILE, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")
        lines, self.torn = read_lines(self._questions)
        for line in lines:
            try:
                record = EvaluationRecord.from_json(line)
            except SetupError:
                self.torn += 1
                continue
            self.records[record.key] = record

    def add(self, record: EvaluationRecord) -> None:
        """Keep a record; after this call it survives the end of the process."""
        append_line(self._questions, record.to_json())
        self.records[record.key] = record

    def is_open(self, key: tuple[str, str], *, retry_failures: bool = False) -> bool:
        """Whether an image has to be asked; ``retry_failures`` includes images and requests that failed before."""
        record = self.records.get(key)
        return record is None or (
            retry_failures
            and (record.failed_samples > 0 or record.failure is not None or record.greedy_failure is not None)
        )

    def finish(self) -> list[EvaluationRecord]:
        ordered = [self.records[key] for key in sorted(self.records)]
        write_lines(self._questions, (record.to_json() for record in ordered))
        return ordered


async def evaluate(
    evaluation: Evaluation,
    open_engine: OpenEngine,
    out: Path,
    *,
    compare: Sequence[Path] = (),
    other_seeds: Sequence[Path] = (),
    retry_failures: bool = False,
    fresh: bool = False,
    show_progress: bool = False,
) -> tuple[Results, CallCounts]:
    """Evaluate, and write ``questions.jsonl``, ``results.json`` and ``results.html`` into ``out``.

    Answers of the same evaluation in ``out`` are kept; the engine is opened only if an image is left to ask.
    ``fresh`` keeps none, but removes them only after all input has been read and fits. No image waits for another
    one's second step. An error of the engine ends the evaluation. ``compare`` are folders of an earlier evaluation, or
    of several seeds of it; ``other_seeds`` are those of other seeds of this one, which join its side of the comparison.

    Raises:
        SetupError: data, settings or the folder do not fit, or the engine cannot be started.
    """
    rows = read_rows(
        evaluation.data,
        min_pixels=evaluation.min_pixels,
        max_pixels=evaluation.max_pixels,
        limit=evaluation.limit,
        open_vocabulary=evaluation.judge is not None,
    )
    keys = sorted(rows.keys)
    earlier, others = ([_read_earlier(run, keys) for run in runs] for runs in (compare, other_seeds))
    with _writing(out):
        if fresh:
            start_over(out)
        # The facts that must be equal for answers to be kept; paths may change, contents may not. The class lists are
        # among them, because the answers were counted by their names and aliases.
        asked = {
            "model": evaluation.model,
            "model's files": "served" if evaluation.base_url is not None else fingerprint(evaluation.model),
            "address": evaluation.base_url,
            "data": sorted(file.sha256 for file in rows.files),
            "class list": sorted([source, class_list_hash(classes)] for source, classes in rows.classes.items()),
            "settings": evaluation.settings(),
        }
        folder = EvaluationFolder(out, asked)
        left = [key for key in keys if folder.is_open(key, retry_failures=retry_failures)]
        counts = CallCounts(asked=len(left), kept=len(keys) - len(left), torn=folder.torn)
        if left:
            with progress(
                total=len(keys), initial=counts.kept, desc="ask", unit="image", disable=not show_progress
            ) as bar:
                async with open_engine() as engine:

                    async def ask(key: Key) -> None:
                        row = rows[key] if evaluation.protocol == "strict" else replace(rows[key], classes=None)
                        answer = await ask_two_steps(engine, row, evaluation.two_step)
                        single = None
                        if answer.open_reply.texts:
                            request = Request(f"{'-'.join(key)}/single", row.messages)
                            single = await engine.generate(request, evaluation.single_sampling)
                        folder.add(record_of(row, answer, evaluation.two_step, single))
                        bar.update()

                    await for_each(left, ask, evaluation.in_flight)
        classes = {key: rows.classes[key[0]] if evaluation.protocol == "strict" else None for key in keys}
        folder.records = {key: folder.records[key] for key in classes}
        asked_about = folder.records.values()
        judged, counts.judging = await measure_all(asked_about, classes, evaluation.judge, show_progress=show_progress)
        records = folder.finish()
        seed, resamples = evaluation.two_step.seed, evaluation.resamples
        summary = summarize(records, evaluation.measures, seed=seed, resamples=resamples)
        baselines = ("one_step_greedy", "consistency") if evaluation.mode == "both" else ()
        results = Results(
            model=evaluation.model,
            base_url=evaluation.base_url,
            mode=evaluation.mode,
            settings={**evaluation.settings(), "bootstrap_resamples": resamples},
            versions=versions(),
            data=rows.files,
            images=len(records),
            groups=summary.groups,
            harmonic_means=summary.harmonic_means,
            over_data_sets=summary.over_data_sets,
            second_step=differences(
                [records], [records], [(name, "two_step") for name in baselines], seed=seed, resamples=resamples
            ),
            failures=[
                Failure(
                    data_source=record.data_source,
                    image_id=record.image_id,
                    step=record.failed_step or "",
                    reason=record.failure,
                    detail=record.detail,
                )
                for record in records
                if record.failure is not None
            ],
            judge=judged,
            comparison=None,
        )
        if earlier:
            results.comparison = _compared(earlier, others, results, records, evaluation)
        write_results(results, out)
        write_page(results, out / PAGE_FILE, records)
        return results, counts


def start_over(out: Path) -> None:
    """Remove what an evaluation wrote into ``out``, and nothing else."""
    for name in (ASKED_FILE, QUESTIONS_FILE, RESULTS_FILE, PAGE_FILE):
        (out / name).unlink(missing_ok=True)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Be the only writer of ``out``; an error of writing becomes a SetupError that names the folder."""
    try:
        with only_writer(out):
            yield
    except OSError as error:
        path = None if error.filename is None else Path(error.filename)
        if path is None or not (path.is_relative_to(out) or out.is_relative_to(path)):
            raise
        raise SetupError(f"{out} cannot be written ({error.strerror}): name another folder with --out.") from None


def fingerprint(model: str) -> str:
    """A hash of the names, sizes and times of a model folder's files: it changes when the model at a path does."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return "served"
    files = sorted(path for path in folder.iterdir() if path.is_file())
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read_earlier(run: Path, keys: Sequence[Key]) -> Earlier:
    """Read the other evaluation before anything is asked, so that a wrong folder costs nothing."""
    results = read_results(run)
    folder = run if run.is_dir() else run.parent
    records = [EvaluationRecord.from_json(line) for line in read_lines(folder / QUESTIONS_FILE)[0]]
    if not {record.key for record in records} & set(keys):
        raise SetupError(f"{run} evaluated none of these images: compare evaluations of the same data.")
    return run, results, records


def _compared(
    before: Sequence[Earlier],
    other_seeds: Sequence[Earlier],
    after: Results,
    records: Sequence[EvaluationRecord],
    evaluation: Evaluation,
) -> Comparison:
    """This evaluation and its other seeds (after) against earlier ones (before), on the images of all."""
    others = [*before, *other_seeds]
    known = set.intersection(*({record.key for record in each} for _, _, each in others))
    own = {record.key for record in records}
    if not known & own:
        raise SetupError("These evaluations have no image in common: compare evaluations of the same data.")
    measures = [
        name
        for name in evaluation.measures
        if all(any(name in group.averages for group in each.groups) for _, each, _ in others)
    ]

    def facts(results: Results) -> dict[str, object]:
        judge = results.judge and results.judge.model
        return {**_flat(results.settings), **results.versions, "judge": judge}

    new = facts(after)
    changed = {
        f"{name}: {old.get(name)} -> {new.get(name)}": None
        for old in (facts(results) for _, results, _ in before)
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    }
    return Comparison(
        runs=[str(run) for run, _, _ in before],
        models=[results.model for _, results, _ in before],
        other_seeds=[str(run) for run, _, _ in other_seeds],
        only_here=len(own - known),
        only_there=len(known - own),
        other_settings=list(changed),
        differences=differences(
            [each for _, _, each in before],
            [records, *(each for _, _, each in other_seeds)],
            [(name, name) for name in measures],
            seed=evaluation.two_step.seed,
            resamples=evaluation.resamples,
        ),
    )


def _flat(settings: Mapping[str, object]) -> dict[str, object]:
    """Nested settings by dotted names, such as ``open_sampling.seed``, so that a change shows one number."""
    found: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": each for inner, each in _flat(value).items()}
        else:
            found[name] = value
    return found
