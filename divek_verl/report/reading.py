"""Read a run's record files: the metrics alone, or everything as a ``Run``."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from divek_verl.errors import SetupError
from divek_verl.files import parse_json, read_lines
from divek_verl.records import METRICS_FILE, QUESTIONS_FILE, SUMMARY_FILE, QuestionRecord, without_repeated

# What `divek eval` writes, and its settings that the header shows.
RESULTS_FILE = "results.json"

# step -> value
Points = dict[int, float]


@dataclass
class Run:
    """The records of a run.

    ``validation``: data source -> step -> image id -> record. ``metrics``: step -> name -> value; nan where no finite
    number was logged. ``unreadable``: file -> number of lines that are no record, for example torn by a kill.
    ``refused``: file -> why the first of its complete but wrong lines is no record. ``repeated``: training records that
    a resume made void, and which are left out.
    """

    name: str
    training: list[QuestionRecord] = field(default_factory=list)
    validation: dict[str, dict[int, dict[str, QuestionRecord]]] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    replaced_steps: int = 0
    repeated: int = 0
    summary: dict[str, str] = field(default_factory=dict)

    @property
    def has_questions(self) -> bool:
        return QUESTIONS_FILE in self.unreadable

    @property
    def lost(self) -> int:
        """Records that could not be written, as far as the metrics tell."""
        return int(max(self.series("divek/records_lost").values(), default=0))

    @property
    def seconds(self) -> float:
        """Duration of the training steps, validations included."""
        return sum(self.series("timing_s/step").values())

    @property
    def validation_records(self) -> list[QuestionRecord]:
        by_step = [records for steps in self.validation.values() for records in steps.values()]
        return [record for records in by_step for record in records.values()]

    def series(self, metric: str) -> Points:
        logged = {step: data[metric] for step, data in sorted(self.metrics.items()) if metric in data}
        return {step: value for step, value in logged.items() if math.isfinite(value)}

    def series_by_reason(self, prefix: str) -> dict[str, Points]:
        """reason -> values of the metric ``prefix`` + reason, without the total."""
        names = sorted({name for data in self.metrics.values() for name in data if name.startswith(prefix)})
        return {name.removeprefix(prefix): self.series(name) for name in names if name != f"{prefix}total"}


def read_run(run_dir: Path) -> Run:
    """The records in ``run_dir``; a SetupError if it holds neither of the two record files."""
    run = Run(run_dir.resolve().name)
    questions, metrics = run_dir / QUESTIONS_FILE, run_dir / METRICS_FILE
    if not questions.is_file() and not metrics.is_file():
        neither = f"{run_dir} holds neither {QUESTIONS_FILE} nor {METRICS_FILE}"
        raise SetupError(f"{neither}; give the directory that a run wrote to.")
    if questions.is_file():
        lines, unreadable = read_lines(questions)
        for line in lines:
            try:
                record = QuestionRecord.from_json(line)
            except SetupError as error:
                unreadable += 1
                run.refused.setdefault(QUESTIONS_FILE, str(error))
                continue
            if record.split == "train":
                run.training.append(record)
            else:
                # A resumed run validates a step again: the last record of an image counts.
                run.validation.setdefault(record.data_source, {}).setdefault(record.step, {})[record.image_id] = record
        run.unreadable[QUESTIONS_FILE] = unreadable
        kept = without_repeated(run.training)
        run.repeated, run.training = len(run.training) - len(kept), kept
    if metrics.is_file():
        _read_metrics_into(run, metrics)
    results = _read_object(run_dir / RESULTS_FILE)
    parts = [part for name in ("settings", "versions") if isinstance(part := results.get(name), dict)]
    evaluated = {
        name: part[name] for part in parts for name in ("num_samples", "seed", "divek_verl", "vllm") if name in part
    }
    summary = {"model": results.get("model"), **evaluated, **_read_object(run_dir / SUMMARY_FILE)}
    run.summary = {key: str(value) for key, value in summary.items() if isinstance(value, str | int | float)}
    return run


def _read_object(path: Path) -> dict[str, object]:
    """The JSON object in a file that is optional, and must not stop the report."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_metrics(run_dir: Path) -> dict[int, dict[str, float]]:
    """``Run.metrics`` alone; empty until the run has logged something."""
    run = Run(run_dir.name)
    _read_metrics_into(run, run_dir / METRICS_FILE)
    return run.metrics


def _read_metrics_into(run: Run, path: Path) -> None:
    """A step lower than the last one means a resume: later steps of the abandoned attempt are dropped."""
    lines, unreadable = read_lines(path)
    last = -1
    for line in lines:
        step, logged = line.get("step"), line.get("data")
        if type(step) is not int or not isinstance(logged, dict):
            unreadable += 1
            continue
        abandoned = [other for other in run.metrics if other > step] if step < last else []
        for other in abandoned:
            del run.metrics[other]
        data = {
            name: float(value) if type(value) in (int, float) and math.isfinite(value) else math.nan
            for name, value in logged.items()
        }
        run.replaced_steps += len(abandoned) + _merge(run.metrics.setdefault(step, {}), data)
        last = step
    run.unreadable[METRICS_FILE] = unreadable


def _merge(known: dict[str, float], logged: dict[str, float]) -> int:
    """Replace an earlier line of the same step; training and validation may have one line each."""
    replaced = 0
    for validation in (True, False):
        part = {name: value for name, value in logged.items() if name.startswith("val-") == validation}
        outdated = [name for name in known if name.startswith("val-") == validation] if part else []
        replaced += bool(outdated)
        for name in outdated:
            del known[name]
        known.update(part)
    return replaced
