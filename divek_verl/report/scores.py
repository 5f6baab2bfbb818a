"""The measures over the validations of a run, and the final table."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from divek_verl.report.lines import RecordedVisit
from divek_verl.report.reading import Points, Run, is_number

# Key in the metrics -> (title, what it says), in the order of the table.
MEASURES = {
    "one_step": ("One-step", "share of the K samples that name the true class"),
    "consistency": ("Consistency", "the most frequent answer of the class list is the true class"),
    "acc": ("Two-step", "the option chosen from the policy's own answers is the true class"),
    "recall": ("Recall", "the true class is among the options"),
    "pass_at_k": ("Pass@K", "at least one of the K samples names the true class"),
}

_VALIDATION = re.compile(r"val-(?:core|aux)/(?P<source>.+)/(?P<key>[^/]+)/mean@\d+")
Curves = dict[str, Points]


@dataclass(frozen=True)
class Score:
    """A measure of one data source at its first and last validation; None is missing."""

    title: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class ScoreRow:
    """A data source in the final table. ``images``: how many the records hold, None where they hold none."""

    source: str
    first: int
    last: int | None
    images: int | None
    scores: list[Score]


def validation_curves(run: Run) -> dict[str, Curves]:
    """data_source -> measure -> step -> value, as verl logged it or else averaged over the questions."""
    averaged = {source: {key: _averages(steps, key) for key in MEASURES} for source, steps in run.validation.items()}
    curves = averaged | _logged_curves(run)
    return {source: curves[source] for source in sorted(curves, key=source_order)}


def _logged_curves(run: Run) -> dict[str, Curves]:
    curves: dict[str, Curves] = {}
    for step, data in sorted(run.metrics.items()):
        for metric, value in data.items():
            match = _VALIDATION.fullmatch(metric)
            if match and math.isfinite(value):
                curves.setdefault(match["source"], {}).setdefault(match["key"], {})[step] = value
    return curves


def _averages(steps: Mapping[int, Mapping[str, RecordedVisit]], key: str) -> Points:
    averages = {}
    for step, visits in sorted(steps.items()):
        values = [getattr(visit, key) for visit in visits.values()]
        if all(is_number(value) for value in values):
            averages[step] = sum(values) / len(values)
    return averages


def source_order(source: str) -> tuple[bool, str, int, str]:
    """Our own sets first; of each set base, then new, then all."""
    dataset, _, side = source.rpartition("/")
    sides = ("base", "new", "all")
    return not source.startswith("divek/"), dataset, sides.index(side) if side in sides else len(sides), side


def validation_steps(curves: Curves) -> tuple[int, int | None] | None:
    """The first and the last validated step; the last is None where there is one alone."""
    steps = sorted({step for points in curves.values() for step in points})
    if not steps:
        return None
    return steps[0], steps[-1] if len(steps) > 1 else None


def final_table(run: Run) -> list[ScoreRow]:
    """One row a data source."""
    rows = [_row(run, source, curves) for source, curves in validation_curves(run).items()]
    return [row for row in rows if row is not None]


def _row(run: Run, source: str, curves: Curves) -> ScoreRow | None:
    if (span := validation_steps(curves)) is None:
        return None
    first, last = span
    recorded = run.validation.get(source, {}).get(first if last is None else last, {})
    scores = [_score(title, curves.get(key, {}), first, last) for key, (title, _) in MEASURES.items()]
    return ScoreRow(source, first, last, len(recorded) or None, scores)


def _score(title: str, points: Points, first: int, last: int | None) -> Score:
    return Score(title, points.get(first), None if last is None else points.get(last))
