"""The one reader of a run's record files: line by line, its metrics alone, or all of it as a ``Run``."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from divek_verl.errors import SetupError
from divek_verl.report.lines import MetricsLine, RecordedVisit

# As in divek_verl.records, which starts Ray and so is not imported to read two files.
QUESTIONS_FILE = "questions.jsonl"
METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"

Points = dict[int, float]
Parsed = TypeVar("Parsed")


@dataclass
class Run:
    """The records of a run.

    ``metrics``: step -> name -> value; nan where what was logged is no finite number.
    ``unreadable``: file -> lines that are no record, such as one torn by a kill.
    """

    name: str
    training: list[RecordedVisit] = field(default_factory=list)
    validation: dict[str, dict[int, dict[str, RecordedVisit]]] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    replaced_steps: int = 0
    summary: dict[str, str] = field(default_factory=dict)

    @property
    def has_questions(self) -> bool:
        return QUESTIONS_FILE in self.unreadable

    @property
    def validation_visits(self) -> list[RecordedVisit]:
        by_step = [visits for steps in self.validation.values() for visits in steps.values()]
        return [visit for visits in by_step for visit in visits.values()]

    def series(self, metric: str) -> Points:
        """step -> value, for the steps that have a finite one."""
        logged = {step: data[metric] for step, data in sorted(self.metrics.items()) if metric in data}
        return {step: value for step, value in logged.items() if math.isfinite(value)}

    def series_by_reason(self, prefix: str) -> dict[str, Points]:
        """reason -> series of the metric ``prefix`` + reason, without the total."""
        names = sorted({name for data in self.metrics.values() for name in data if name.startswith(prefix)})
        return {name.removeprefix(prefix): self.series(name) for name in names if name != f"{prefix}total"}


def read_run(run_dir: Path) -> Run:
    """The records in ``run_dir``.

    Raises:
        SetupError: where the directory holds neither of the two record files.
    """
    run = Run(name=run_dir.resolve().name)
    questions, metrics = run_dir / QUESTIONS_FILE, run_dir / METRICS_FILE
    if not questions.is_file() and not metrics.is_file():
        neither = f"{run_dir} holds neither {QUESTIONS_FILE} nor {METRICS_FILE}"
        raise SetupError(f"{neither}; give the directory that a run wrote to.")
    if questions.is_file():
        visits, run.unreadable[QUESTIONS_FILE] = parse_lines(questions, RecordedVisit.model_validate_json)
        _add_visits(run, visits)
    if metrics.is_file():
        _read_metrics_into(run, metrics)
    run.summary = _read_summary(run_dir / SUMMARY_FILE)
    return run


def read_metrics(run_dir: Path) -> dict[int, dict[str, float]]:
    """``Run.metrics`` alone; empty before the run has logged anything."""
    run, metrics = Run(name=run_dir.name), run_dir / METRICS_FILE
    if metrics.is_file():
        _read_metrics_into(run, metrics)
    return run.metrics


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file as they stand in it; none where the file is not there yet."""
    return parse_lines(path, json.loads)[0] if path.is_file() else []


def parse_lines(path: Path, parse: Callable[[str], Parsed]) -> tuple[list[Parsed], int]:
    """What ``parse`` makes of each line, and how many it refused: being written just now, or torn by a kill."""
    parsed, refused = [], 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                parsed.append(parse(line))
            except ValueError:
                refused += bool(line.strip())
    return parsed, refused


def _read_metrics_into(run: Run, path: Path) -> None:
    lines, run.unreadable[METRICS_FILE] = parse_lines(path, MetricsLine.model_validate_json)
    _add_metrics(run, lines)


def _add_visits(run: Run, visits: Iterable[RecordedVisit]) -> None:
    """A resumed run validates a step again: the last visit of an image counts."""
    for visit in visits:
        if visit.split == "train":
            run.training.append(visit)
        else:
            steps = run.validation.setdefault(visit.data_source, {})
            steps.setdefault(visit.step, {})[visit.image_id] = visit


def _add_metrics(run: Run, lines: Iterable[MetricsLine]) -> None:
    """A step that goes back means a resume: what the abandoned attempt logged later is not of this policy."""
    last = None
    for line in lines:
        if last is not None and line.step < last:
            _abandon_after(run, line.step)
        last = line.step
        run.replaced_steps += _replace(run.metrics.setdefault(line.step, {}), line.data)


def _abandon_after(run: Run, resumed: int) -> None:
    for step in [step for step in run.metrics if step > resumed]:
        del run.metrics[step]
        run.replaced_steps += 1


def _replace(known: dict[str, float], logged: Mapping[str, Any]) -> int:
    """Put a line's numbers in the place of an earlier line's; training and validation may have one each."""
    replaced = 0
    for validation in (True, False):
        part = {name: value for name, value in logged.items() if _is_validation(name) == validation}
        outdated = [name for name in known if _is_validation(name) == validation] if part else []
        replaced += bool(outdated)
        for name in outdated:
            del known[name]
        known.update({name: float(value) if is_number(value) else math.nan for name, value in part.items()})
    return replaced


def _is_validation(metric: str) -> bool:
    return metric.startswith("val-")


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_summary(path: Path) -> dict[str, str]:
    """The plain values of the optional summary; an unreadable one is no reason to show no report."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    plain = summary.items() if isinstance(summary, dict) else ()
    return {key: str(value) for key, value in plain if isinstance(value, str | int | float | bool)}
