"""Breakdowns of a run's questions, each number beside a reference: one table for a step's metrics and the report."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from string import ascii_uppercase

from divek_verl.labels import canonical
from divek_verl.records import QuestionRecord

# (part, value, reference); the reference is nan where there is none.
Cell = tuple[str, float, float]


@dataclass(frozen=True)
class Breakdown:
    """``healthy`` says what a healthy run looks like; ``cells`` are a record's contributions, averaged by part."""

    healthy: str
    cells: Callable[[QuestionRecord], Iterable[Cell]]


@dataclass(frozen=True)
class Part:
    """The averages of ``count`` cells."""

    count: int
    value: float
    reference: float


def averages(breakdown: Breakdown, records: Iterable[QuestionRecord]) -> dict[str, Part]:
    """Part -> its averages, in the order of letters and numbers."""
    sums: dict[str, tuple[int, float, float]] = {}
    for record in records:
        for part, value, reference in breakdown.cells(record):
            count, values, references = sums.get(part, (0, 0.0, 0.0))
            sums[part] = count + 1, values + value, references + reference
    ordered = sorted(sums.items(), key=lambda item: (len(item[0]), item[0]))
    return {part: Part(count, value / count, reference / count) for part, (count, value, reference) in ordered}


def vote_entropy(record: QuestionRecord) -> float:
    """Entropy of the answers in bits, unknown names included; 0.0 where all are equal."""
    counts = [count for count in (*record.votes.values(), *record.unknown.values()) if count]
    return sum(count / sum(counts) * math.log2(sum(counts) / count) for count in counts)


def _by(part: Callable[[QuestionRecord], str | None]) -> Callable[[QuestionRecord], Iterator[Cell]]:
    """The accuracy of the second step by ``part``, beside the chance level."""

    def cells(record: QuestionRecord) -> Iterator[Cell]:
        name = part(record) if record.options and (record.choices or record.rollout_failures) else None
        if name is not None:
            yield name, record.accuracy, (record.answer is not None) / len(record.options)

    return cells


def _origin(record: QuestionRecord) -> str:
    if record.answer is None:
        return "not an option"
    return "injected" if record.injected else "voted for" if record.votes.get(record.truth) else "filler"


def _fillers(record: QuestionRecord) -> str:
    known = {*record.votes, *([record.truth] if record.injected else [])}
    return "with fillers" if set(record.options) - known else "without fillers"


def _letters(record: QuestionRecord) -> Iterator[Cell]:
    chosen = [letter for letter in record.choices if letter is not None]
    if record.answer is not None and chosen:
        for letter in ascii_uppercase[: len(record.options)]:
            yield letter, chosen.count(letter) / len(chosen), float(letter == record.answer)


def _second_step(record: QuestionRecord) -> Iterator[Cell]:
    top = record.counted.top
    chosen = dict(zip(ascii_uppercase, record.options, strict=False))
    for letter in record.choices:
        if top is not None and letter in chosen:
            part = "keeps the majority" if chosen[letter] == top else "overrides it"
            yield part, float(letter == record.answer), float(top == record.truth)


def _groups(record: QuestionRecord) -> Iterator[Cell]:
    if len(record.rewards) > 1:
        mixed, right = len(set(record.rewards)) > 1, record.accuracy > 0.5
        for part, holds in (
            ("mixed", mixed),
            ("all right", not mixed and right),
            ("all wrong", not mixed and not right),
        ):
            yield part, float(holds), math.nan


def _rewards(record: QuestionRecord) -> Iterator[Cell]:
    yield from (("format", value, math.nan) for value in record.formats)
    if record.choices:
        yield "answer", record.accuracy, math.nan


# Name -> breakdown. verl's trackers know the value of a part as divek/<name>/<part>.
BREAKDOWNS = {
    "groups": Breakdown("Most are mixed: a group of equal rewards teaches GRPO nothing.", _groups),
    "reward": Breakdown("The format is near 100 % after some steps; the answer rises for longer.", _rewards),
    "chosen_letter": Breakdown("Each letter is chosen about as often as it is right (the mark).", _letters),
    "accuracy_by_position": Breakdown(
        "The accuracy is about equal wherever the truth stands. The mark is chance.", _by(lambda record: record.answer)
    ),
    "accuracy_by_options": Breakdown(
        "Above chance (the mark) at every number of options.", _by(lambda record: str(len(record.options)))
    ),
    "accuracy_by_truth": Breakdown(
        "Highest where the truth was voted for (accuracy given recall). If injected truths are found more easily, the "
        "policy may look for the name that it did not answer.",
        _by(_origin),
    ),
    "accuracy_by_fillers": Breakdown("About equal: fillers are easy to rule out and teach little.", _by(_fillers)),
    "second_step": Breakdown(
        "Where it overrides the majority of the votes, it is right more often than the majority (the mark).",
        _second_step,
    ),
}


def base_classes(records: Iterable[QuestionRecord]) -> set[str]:
    """The classes that ``records`` have in training or in a base set."""
    return {r.truth for r in records if r.split == "train" or r.data_source.endswith("/base")}


def base_names(base_classes: Iterable[str]) -> Breakdown:
    """How many samples on new images name one of ``base_classes``."""
    base = {canonical(name) for name in base_classes}

    def cells(record: QuestionRecord) -> Iterator[Cell]:
        if base and record.samples and record.data_source.endswith("/new") and canonical(record.truth) not in base:
            answers = {**record.votes, **record.unknown}
            named = sum(count for name, count in answers.items() if canonical(name) in base)
            yield record.data_source, named / record.samples, math.nan

    return Breakdown("Near 0 % of the samples: the policy reads the class list.", cells)
