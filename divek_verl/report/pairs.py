"""The validation images before and after, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from divek_verl.report.lines import RecordedVisit
from divek_verl.report.reading import Run
from divek_verl.report.scores import validation_curves, validation_steps

OUTCOMES = ("Wrong before, right after", "Right both times", "Right before, wrong after", "Still wrong")


@dataclass(frozen=True)
class Pair:
    """An image at the first and the last validation; ``after`` is None where there was one alone."""

    before: RecordedVisit
    after: RecordedVisit | None

    @property
    def latest(self) -> RecordedVisit:
        return self.after or self.before

    @property
    def visits(self) -> list[RecordedVisit]:
        return [visit for visit in (self.before, self.after) if visit is not None]

    @property
    def outcome(self) -> str:
        if self.after is None:
            return "Right" if self.before.right else "Wrong"
        if self.before.right:
            return "Right both times" if self.after.right else "Right before, wrong after"
        return "Wrong before, right after" if self.after.right else "Still wrong"

    @property
    def name(self) -> tuple[str, str]:
        return self.before.data_source, self.before.image_id


def image_pairs(run: Run) -> list[Pair]:
    """The images that stand in the records of both the first and the last validation of their data source."""
    spans = {source: validation_steps(curves) for source, curves in validation_curves(run).items()}
    return [pair for source, span in spans.items() if span for pair in _pairs_of_source(run, source, *span)]


def _pairs_of_source(run: Run, source: str, first: int, last: int | None) -> list[Pair]:
    steps = run.validation.get(source, {})
    before = sorted(steps.get(first, {}).items())
    if last is None:
        return [Pair(visit, None) for _, visit in before]
    after = steps.get(last, {})
    return [Pair(visit, after[image_id]) for image_id, visit in before if image_id in after]


def outcomes(pairs: Sequence[Pair]) -> dict[str, dict[str, int]]:
    """data_source -> outcome -> images, for the images seen both before and after."""
    table: dict[str, dict[str, int]] = {}
    for pair in pairs:
        if pair.after is not None:
            row = table.setdefault(pair.before.data_source, dict.fromkeys(OUTCOMES, 0))
            row[pair.outcome] += 1
    return table
