"""The validations of a run: curves of the measures, the final table, and each image before and after training."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from divek_verl.measures import MEASURES
from divek_verl.records import QuestionRecord
from divek_verl.report.reading import Points, Run

# verl logs the score of the rollouts, which is the two-step accuracy, as "acc".
LOGGED_AS = {"two_step": "acc"}
OUTCOMES = ("Wrong before, right after", "Right both times", "Right before, wrong after", "Still wrong")

_METRIC = re.compile(r"val-(?:core|aux)/(?P<source>.+)/(?P<key>[^/]+)/mean@\d+")
# measure -> step -> value
Curves = dict[str, Points]


def is_right(record: QuestionRecord) -> bool:
    """Whether most rollouts chose the true class."""
    return record.accuracy > 0.5


@dataclass(frozen=True)
class Score:
    """A measure of one data source at its first and last validation; None where it was not recorded."""

    title: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class ScoreRow:
    """A data source in the final table. ``last`` is None after a single validation, ``images`` without records."""

    source: str
    first: int
    last: int | None
    images: int | None
    scores: list[Score]


@dataclass(frozen=True)
class Pair:
    """An image at the first and the last validation; ``after`` is None after a single validation."""

    before: QuestionRecord
    after: QuestionRecord | None

    @property
    def latest(self) -> QuestionRecord:
        return self.after or self.before

    @property
    def records(self) -> list[QuestionRecord]:
        return [record for record in (self.before, self.after) if record is not None]

    @property
    def outcome(self) -> str:
        right = is_right(self.before)
        if self.after is None:
            return "Right" if right else "Wrong"
        if right:
            return "Right both times" if is_right(self.after) else "Right before, wrong after"
        return "Wrong before, right after" if is_right(self.after) else "Still wrong"


def heading(title: str) -> str:
    """A title of ``MEASURES`` with a capital letter."""
    return title[:1].upper() + title[1:]


def source_order(source: str) -> tuple[bool, str, int, str]:
    """Sort key: DiVE-k's data sources first; base, new and all of each set in this order."""
    dataset, _, side = source.rpartition("/")
    sides = ("base", "new", "all")
    return not source.startswith("divek/"), dataset, sides.index(side) if side in sides else len(sides), side


def validation_curves(run: Run) -> dict[str, Curves]:
    """data source -> measure -> values: as verl logged them or, without its metrics, averaged over the records."""
    logged: dict[str, Curves] = {}
    names = {LOGGED_AS.get(measure, measure): measure for measure in MEASURES}
    for metric in {name for data in run.metrics.values() for name in data}:
        match = _METRIC.fullmatch(metric)
        points = run.series(metric) if match else {}
        if match and points:
            logged.setdefault(match["source"], {})[names.get(match["key"], match["key"])] = points
    averaged: dict[str, Curves] = {}
    for source, steps in run.validation.items():
        curves = averaged.setdefault(source, {})
        for step, by_image in sorted(steps.items()):
            for measure in MEASURES:
                name = "accuracy" if measure == "two_step" else measure
                values = [getattr(record, name) for record in by_image.values()]
                curves.setdefault(measure, {})[step] = sum(values) / len(values)
    found = averaged | logged
    return {source: found[source] for source in sorted(found, key=source_order)}


def first_and_last(curves: Curves) -> tuple[int, int | None] | None:
    """The first and the last validated step; the last is None after a single validation."""
    steps = sorted({step for points in curves.values() for step in points})
    if not steps:
        return None
    return steps[0], steps[-1] if len(steps) > 1 else None


def final_table(run: Run) -> list[ScoreRow]:
    rows = []
    for source, curves in validation_curves(run).items():
        if span := first_and_last(curves):
            first, last = span
            images = len(run.validation.get(source, {}).get(first if last is None else last, {}))
            scores = []
            for name, measure in MEASURES.items():
                points = curves.get(name, {})
                after = None if last is None else points.get(last)
                scores.append(Score(heading(measure.title), points.get(first), after))
            rows.append(ScoreRow(source, first, last, images or None, scores))
    return rows


def image_pairs(run: Run) -> list[Pair]:
    """The images recorded at both the first and the last validation of their data source."""
    pairs = []
    for source, curves in validation_curves(run).items():
        first, last = first_and_last(curves) or (None, None)
        steps = run.validation.get(source, {})
        before = sorted(steps.get(first, {}).items()) if first is not None else []
        if last is None:
            pairs += [Pair(record, None) for _, record in before]
        else:
            after = steps.get(last, {})
            pairs += [Pair(record, after[image_id]) for image_id, record in before if image_id in after]
    return pairs


def outcomes(pairs: Sequence[Pair]) -> dict[str, dict[str, int]]:
    """data source -> outcome -> number of images, for the images recorded both before and after."""
    table: dict[str, dict[str, int]] = {}
    for pair in pairs:
        if pair.after is not None:
            row = table.setdefault(pair.before.data_source, dict.fromkeys(OUTCOMES, 0))
            row[pair.outcome] += 1
    return table
