"""Which classes the K samples confuse: the most frequent pairs, and the confusion matrix, before and after."""

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from divek_verl.records import QuestionRecord
from divek_verl.report.validation import Pair
from divek_verl.templates import label, shorten

CONFUSIONS_SHOWN = 12
CLASSES_SHOWN = 20
LABEL_CHARACTERS = 26
OTHER, NONE = "another class", "no class"
Rows = list[list[float | None]]


@dataclass(frozen=True)
class Confusion:
    """Share of the samples on images of ``truth`` that answered ``answer``; None where there are no samples."""

    source: str
    truth: str
    answer: str
    before: float | None
    after: float | None


def confusions(pairs: Sequence[Pair]) -> list[Confusion]:
    """The wrong classes with the most votes in the first and the last validation together."""
    # One pair of counters for each validation: votes for a wrong class, and samples on images of a class.
    votes: tuple[Counter[tuple[str, str, str]], ...] = Counter(), Counter()
    samples: tuple[Counter[tuple[str, str]], ...] = Counter(), Counter()
    for pair in pairs:
        for when, record in enumerate(pair.records):
            samples[when][record.data_source, record.truth] += record.samples
            for name, count in record.votes.items():
                if name != record.truth and count:
                    votes[when][record.data_source, record.truth, name] += count

    def share(when: int, source: str, truth: str, answer: str) -> float | None:
        total = samples[when][source, truth]
        return votes[when][source, truth, answer] / total if total else None

    total = votes[0] + votes[1]
    ranked = sorted(total, key=lambda key: (-total[key], key))
    return [Confusion(*key, before=share(0, *key), after=share(1, *key)) for key in ranked[:CONFUSIONS_SHOWN]]


@dataclass(frozen=True)
class Matrix:
    """Shares of the samples on images of a class (row) by the class answered (column), from 0 to 1.

    The columns are ``classes``, then another class and no class of the list. A class without images has a row of None.
    ``after`` is None after a single validation. ``classes`` are those confused most of all ``num_classes``.
    """

    run: str
    source: str
    classes: list[str]
    before: Rows
    after: Rows | None
    num_classes: int

    @property
    def columns(self) -> list[str]:
        return [*self.classes, OTHER, NONE]

    @property
    def data(self) -> dict[str, object]:
        """The matrix for the page's script; plotly.js reads some HTML in labels, so they are escaped."""
        return {
            "run": self.run,
            "source": self.source,
            "classes": self.classes,
            "labels": [html.escape(shorten(name, LABEL_CHARACTERS)) for name in self.columns],
            "before": self.before,
            "after": self.after,
        }


def matrices(run: str, pairs: Sequence[Pair]) -> list[Matrix]:
    by_source: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_source.setdefault(pair.before.data_source, []).append(pair)
    found = []
    for source, own in by_source.items():
        classes = group_confused([record for pair in own for record in pair.records])
        shown = classes[:CLASSES_SHOWN]
        before = _shares([pair.before for pair in own], shown)
        after = [pair.after for pair in own if pair.after is not None]
        names, shares = [label(name) for name in shown], _shares(after, shown) if after else None
        found.append(Matrix(label(run), label(source), names, before, shares, len(classes)))
    return found


def group_confused(records: Iterable[QuestionRecord]) -> list[str]:
    """All classes, most confused first; each confused pair, from the top on, joins the groups of its classes."""
    links: Counter[tuple[str, str]] = Counter()
    group: dict[str, list[str]] = {}
    for record in records:
        group[record.truth] = [record.truth]
        for name, count in record.votes.items():
            if name != record.truth and count:
                group[name] = [name]
                links[min(name, record.truth), max(name, record.truth)] += count
    chosen: dict[str, None] = {}
    for one, other in sorted(links, key=lambda pair: (-links[pair], pair)):
        if len({*chosen, one, other}) <= CLASSES_SHOWN:
            chosen |= {one: None, other: None}
            if group[one] is not group[other]:
                joined = group[one] + group[other]
                group.update(dict.fromkeys(joined, joined))
    return list(dict.fromkeys(member for name in (*chosen, *sorted(group)) for member in group[name]))


def _shares(records: Iterable[QuestionRecord], classes: Sequence[str]) -> Rows:
    index = {name: number for number, name in enumerate(classes)}
    other, none = len(classes), len(classes) + 1
    counts = [[0] * (len(classes) + 2) for _ in classes]
    for record in records:
        if record.truth in index:
            row = counts[index[record.truth]]
            for name, count in record.votes.items():
                row[index.get(name, other)] += count
            row[none] += sum(record.unknown.values()) + record.unanswered
    return [[round(count / sum(row), 4) if sum(row) else None for count in row] for row in counts]
