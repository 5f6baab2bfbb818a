"""Up to three example images: how they are chosen, and what the page shows of each before and after training."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from markupsafe import Markup

from divek_verl.images import thumbnail, to_data_url
from divek_verl.records import QuestionRecord
from divek_verl.report.validation import Pair, is_right, source_order

THUMBNAIL_PIXELS = 360
BARS_SHOWN = 7

# One image that was learned, one of look-alikes, one that was wrong all along.
KINDS: tuple[Callable[[Pair], bool], ...] = (
    lambda pair: pair.outcome == "Wrong before, right after",
    lambda pair: is_right(pair.latest),
    lambda pair: not is_right(pair.latest) and not is_right(pair.before),
)


def choose_examples(pairs: Sequence[Pair]) -> list[Pair]:
    """Up to three instructive images, one of each kind or else the next best; the same records give the same choice.

    Among the images of a kind, the one whose samples are most evenly split between truth and another class is chosen.
    """
    chosen: list[Pair | None] = []
    for kind in KINDS:
        chosen.append(_most_instructive(filter(kind, pairs), chosen))
    if chosen[-1] is None:
        chosen[-1] = _most_instructive([pair for pair in pairs if not is_right(pair.latest)], chosen)
    for index, pair in enumerate(chosen):
        chosen[index] = pair or _most_instructive(pairs, chosen)
    return [pair for pair in chosen if pair is not None]


def _most_instructive(pairs: Iterable[Pair], chosen: Sequence[Pair | None]) -> Pair | None:
    """Prefer a class not shown yet, then an image that could be right, then evenly split samples."""
    keys = {pair.before.key for pair in chosen if pair}
    truths = {pair.before.truth for pair in chosen if pair}

    def rank(pair: Pair) -> tuple:
        could_be_right = sum(record.answer is not None for record in pair.records)
        split = max(_split(record) for record in pair.records)
        return pair.before.truth in truths, -could_be_right, -split, source_order(pair.before.key[0]), pair.before.key

    return min((pair for pair in pairs if pair.before.key not in keys), key=rank, default=None)


def _split(record: QuestionRecord) -> float:
    """How evenly the samples are split between the truth and one other class, from 0 to 0.5."""
    others = [count for name, count in record.votes.items() if name != record.truth]
    return min(record.votes.get(record.truth, 0), max(others, default=0)) / max(record.samples, 1)


@dataclass(frozen=True)
class Bar:
    """One answer among the K samples. ``kind``: truth, other, unknown, none or rest."""

    label: str
    count: int
    share: float
    kind: str


@dataclass(frozen=True)
class Option:
    letter: str
    name: str
    is_truth: bool
    is_chosen: bool


@dataclass(frozen=True)
class ValidationView:
    """An image at one validation: the answers, the options and the choice."""

    title: str
    record: QuestionRecord
    right: bool
    bars: list[Bar]
    options: list[Option]
    choice: str | None
    text: str | None


@dataclass(frozen=True)
class Example:
    """A validation image before and after. ``picture``: a data URL, None where the picture cannot be read."""

    outcome: str
    right: bool
    record: QuestionRecord
    file_name: str
    picture: Markup | None
    views: list[ValidationView]


def describe(pair: Pair) -> Example:
    latest = pair.latest
    jpeg = thumbnail(latest.image, THUMBNAIL_PIXELS, 82, "JPEG")
    picture = Markup(to_data_url(jpeg)) if jpeg else None
    views = []
    for title, record in zip(("Before", "After") if pair.after else ("Validation",), pair.records, strict=True):
        title = f"{title} · step {record.step}"
        choice, text = next(iter(record.choices), None), next(iter(record.completions), None)
        options = [
            Option(letter, name, letter == record.answer, letter == choice)
            for letter, name in zip(ascii_uppercase, record.options, strict=False)
        ]
        views.append(ValidationView(title, record, is_right(record), answer_bars(record), options, choice, text))
    return Example(pair.outcome, is_right(latest), latest, Path(latest.image).name, picture, views)


def answer_bars(record: QuestionRecord) -> list[Bar]:
    """The most frequent answers, then all others as one bar, so that the counts add up to K."""
    answers = [(name, count, "truth" if name == record.truth else "other") for name, count in record.votes.items()]
    answers += [(text, count, "unknown") for text, count in record.unknown.items()]
    answers.sort(key=lambda answer: -answer[1])
    shown, rest = answers[:BARS_SHOWN], answers[BARS_SHOWN:]
    if rest:
        shown.append((f"{len(rest)} other answers", sum(count for _, count, _ in rest), "rest"))
    if record.unanswered:
        shown.append(("no answer", record.unanswered, "none"))
    return [Bar(name, count, count / record.samples, kind) for name, count, kind in shown if count]
