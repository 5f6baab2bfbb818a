"""Skips and failures, by reason."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from divek_verl.report.lines import RecordedVisit
from divek_verl.report.reading import Run

REASONS = {
    "easy": "every sample already names the true class, so there is nothing to learn",
    "unreadable_image": "the picture cannot be read",
    "overlong_prompt": "the open question is longer than data.max_prompt_length",
    "overlong_question": "the multiple-choice question is longer than data.max_prompt_length",
    "mining_timeout": "the K samples took longer than divek.mining_timeout",
    "rollout_timeout": "a rollout took longer than divek.rollout_timeout",
    "sampling_failed": "none of the K samples could be drawn",
}


@dataclass(frozen=True)
class Problem:
    """Visits, or rollouts, that ended with ``reason``; None where that part of the records is not there."""

    kind: str
    reason: str
    training: int | None
    validation: int | None

    @property
    def meaning(self) -> str:
        return REASONS.get(self.reason, "")


def problems(run: Run) -> list[Problem]:
    """Skips and failures by reason, from the questions or, without these, from the training metrics."""
    return _of_questions(run) if run.has_questions else _of_metrics(run)


def _of_questions(run: Run) -> list[Problem]:
    training, validation = _count(run.training), _count(run.validation_visits)
    both = training + validation
    ranked = sorted(both, key=lambda key: (-both[key], key))
    return [Problem(*key, training[key], validation[key]) for key in ranked]


def _count(visits: Iterable[RecordedVisit]) -> Counter[tuple[str, str]]:
    """(kind, reason) -> how many."""
    found: Counter[tuple[str, str]] = Counter()
    for visit in visits:
        found.update({("rollout", reason): count for reason, count in visit.rollout_failures.items()})
        found.update([("skipped", visit.skip)] if visit.skip else [])
        found.update([("failed", visit.failure)] if visit.failure else [])
    return found


def _of_metrics(run: Run) -> list[Problem]:
    return [
        Problem(kind, reason, round(sum(points.values())), None)
        for kind, prefix in (("no question", "divek/skips/"), ("rollout", "divek/rollout_failures/"))
        for reason, points in run.series_by_reason(prefix).items()
    ]
