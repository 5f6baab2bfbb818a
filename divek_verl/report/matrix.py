"""The confusion matrix of the K-sample votes: true class against answered class, before and after."""

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from divek_verl.report.lines import RecordedVisit
from divek_verl.report.pairs import Pair
from divek_verl.report.text import cut, shown

CLASSES_SHOWN = 20
LABEL_CHARACTERS = 26
OTHER, NONE = "another class", "no class"
Rows = list[list[float | None]]


@dataclass(frozen=True)
class Matrix:
    """Shares of the samples on images of a class (row) by what they answered (column), from 0 to 1.

    ``columns`` are ``classes``, then another class and no class of the list. A class without images has a row of None.
    ``after`` is None where there was one validation alone. ``classes_in_all``: of which ``classes`` are those that
    are mixed up most.
    """

    run: str
    source: str
    classes: list[str]
    before: Rows
    after: Rows | None
    classes_in_all: int

    @property
    def columns(self) -> list[str]:
        return [*self.classes, OTHER, NONE]

    @property
    def data(self) -> dict[str, Any]:
        """For the page's script; plotly.js reads a part of HTML in labels, so they are escaped."""
        return {
            "run": self.run,
            "source": self.source,
            "classes": self.classes,
            "labels": [html.escape(cut(name, LABEL_CHARACTERS)) for name in self.columns],
            "before": self.before,
            "after": self.after,
        }


def matrices(run: str, pairs: Sequence[Pair]) -> list[Matrix]:
    """One for each data source, in the order of the pairs; first and last validation of the same images."""
    sources = dict.fromkeys(pair.before.data_source for pair in pairs)
    return [_matrix(run, source, [pair for pair in pairs if pair.before.data_source == source]) for source in sources]


def _matrix(run: str, source: str, pairs: Sequence[Pair]) -> Matrix:
    visits = [visit for pair in pairs for visit in pair.visits]
    classes = look_alikes_together(visits)
    before = [pair.before for pair in pairs]
    after = [pair.after for pair in pairs if pair.after is not None]
    return Matrix(
        run=shown(run),
        source=shown(source),
        classes=[shown(name) for name in classes[:CLASSES_SHOWN]],
        before=_shares(before, classes[:CLASSES_SHOWN]),
        after=_shares(after, classes[:CLASSES_SHOWN]) if after else None,
        classes_in_all=len(classes),
    )


def look_alikes_together(visits: Iterable[RecordedVisit]) -> list[str]:
    """All classes, those of the most frequent confusions first, each beside the one that it is mixed up with.

    The pairs are joined from the strongest on: two groups of classes become one where a pair links them.
    """
    links: Counter[tuple[str, str]] = Counter()
    group: dict[str, list[str]] = {}
    for visit in visits:
        group[visit.truth] = [visit.truth]
        for name, count in visit.votes.items():
            if name != visit.truth and count:
                group[name] = [name]
                links[min(name, visit.truth), max(name, visit.truth)] += count
    chosen: dict[str, None] = {}
    for one, other in sorted(links, key=lambda pair: (-links[pair], pair)):
        if len({*chosen, one, other}) <= CLASSES_SHOWN:
            chosen |= {one: None, other: None}
            if group[one] is not group[other]:
                joined = group[one] + group[other]
                group.update(dict.fromkeys(joined, joined))
    return list(dict.fromkeys(member for name in (*chosen, *sorted(group)) for member in group[name]))


def _shares(visits: Iterable[RecordedVisit], classes: Sequence[str]) -> Rows:
    place = {name: number for number, name in enumerate(classes)}
    other, none = len(classes), len(classes) + 1
    counts = [[0] * (len(classes) + 2) for _ in classes]
    for visit in visits:
        if visit.truth in place:
            row = counts[place[visit.truth]]
            for name, count in visit.votes.items():
                row[place.get(name, other)] += count
            row[none] += sum(visit.unknown.values()) + visit.unanswered
    return [[round(count / sum(row), 4) if sum(row) else None for count in row] for row in counts]
