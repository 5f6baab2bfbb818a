"""The validations of a run: curves of the measures, the final table, and each image before and after training."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import fmean

from divek_verl.intervals import class_interval
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
    """A measure of one data source at its first and last validation; None where it was not recorded.

    ``interval`` is that of the change, or of the value after a single validation; None without records.
    """

    title: str
    before: float | None
    after: float | None
    interval: tuple[float, float] | None = None

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def direction(self) -> str:
        """``up`` or ``down`` for a change that is more than noise, else ``same``."""
        low, high = self.interval or (0.0, 0.0)
        return "up" if low > 0 else "down" if high < 0 else "same"


@dataclass(frozen=True)
class ScoreRow:
    """A data source in the final table. ``last`` is None after a single validation, ``images`` without records.

    ``second_step`` says in words where the second step costs accuracy, else it is empty.
    """

    source: str
    first: int
    last: int | None
    images: int | None
    scores: list[Score]
    second_step: str = ""

    @property
    def remark(self) -> str:
        """What is missing for a comparison with the model before training."""
        if self.last is None:
            return "only one validation, so there is no change to show"
        return "no validation before training (trainer.val_before_train=true makes one)" if self.first else ""


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


def recorded(record: QuestionRecord, measure: str) -> float:
    """A measure of ``MEASURES`` of one record; nan where it was not asked for."""
    value: float | None = getattr(record, "accuracy" if measure == "two_step" else measure)
    return nan if value is None else value


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
                average = fmean(recorded(record, measure) for record in by_image.values())
                # An average over some of the images would not stand beside the others.
                if not isnan(average):
                    curves.setdefault(measure, {})[step] = average
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
    pairs: dict[str, list[Pair]] = {}
    for pair in image_pairs(run):
        pairs.setdefault(pair.before.data_source, []).append(pair)
    for source, curves in validation_curves(run).items():
        if span := first_and_last(curves):
            first, last = span
            images = len(run.validation.get(source, {}).get(first if last is None else last, {}))
            scores, own = [], pairs.get(source, [])
            for name, measure in MEASURES.items():
                points = curves.get(name, {})
                after = None if last is None else points.get(last)
                # The change or, after a single validation, the value itself.
                values = [recorded(p.latest, name) - (recorded(p.before, name) if p.after else 0.0) for p in own]
                lowest, known = 0.0 if last is None else -1.0, own and not isnan(sum(values))
                interval = class_interval(values, [p.before.truth for p in own], source, lowest) if known else None
                scores.append(Score(heading(measure.title), points.get(first), after, interval))
            remark = _second_step(source, scores, [pair.latest for pair in own])
            rows.append(ScoreRow(source, first, last, images or None, scores, remark))
    return rows


def _second_step(source: str, scores: Sequence[Score], latest: Sequence[QuestionRecord]) -> str:
    """What the second step costs against the majority vote at the last validation; empty where it does not."""
    values = dict(zip(MEASURES, (each.before if each.after is None else each.after for each in scores), strict=True))
    two_step, majority = values["two_step"], values["consistency"]
    if two_step is None or majority is None or round(cost := 100 * (majority - two_step), 1) <= 0:
        return ""
    changes = [recorded(record, "consistency") - recorded(record, "two_step") for record in latest]
    interval = class_interval(changes, [record.truth for record in latest], source, -1.0) if latest else None
    low, high = (100 * limit for limit in interval or (0.0, 0.0))
    noise = f"; 95 % interval {low:.1f} to {high:.1f}{', so it may be noise' if low <= 0 else ''}" if interval else ""
    return (
        f"{source}: the second step costs {cost:.1f} points against the majority vote "
        f"({100 * majority:.1f} % → {100 * two_step:.1f} %{noise})."
    )


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
