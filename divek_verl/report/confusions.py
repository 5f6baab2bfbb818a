"""Which classes the policy takes for which."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from divek_verl.report.lines import RecordedVisit
from divek_verl.report.pairs import Pair

CONFUSIONS_SHOWN = 12
# Data source, true class, wrong answer.
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Confusion:
    """Shares of all samples on images of ``truth`` that answered ``answer``; None is missing."""

    source: str
    truth: str
    answer: str
    before: float | None
    after: float | None


def confusions(pairs: Sequence[Pair]) -> list[Confusion]:
    """The wrong classes most often voted for, first and last validation of the same images together."""
    before = _count(pair.before for pair in pairs)
    after = _count(pair.after for pair in pairs if pair.after is not None)
    votes = before.votes + after.votes
    ranked = sorted(votes, key=lambda key: (-votes[key], key))
    return [Confusion(*key, before.share(key), after.share(key)) for key in ranked[:CONFUSIONS_SHOWN]]


@dataclass
class _Tally:
    """Votes for a wrong class, and all samples on images of a class."""

    votes: Counter[Key] = field(default_factory=Counter)
    samples: Counter[tuple[str, str]] = field(default_factory=Counter)

    def share(self, key: Key) -> float | None:
        source, truth, _ = key
        total = self.samples[source, truth]
        return self.votes[key] / total if total else None


def _count(visits: Iterable[RecordedVisit]) -> _Tally:
    tally = _Tally()
    for visit in visits:
        tally.samples[visit.data_source, visit.truth] += visit.samples
        for name, count in visit.votes.items():
            if name != visit.truth and count:
                tally.votes[visit.data_source, visit.truth, name] += count
    return tally
