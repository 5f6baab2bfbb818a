"""Up to three example images: how they are chosen, and what the page shows of each before and after training."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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


def picture_of(pair: Pair) -> Markup | None:
    """The picture as a data URL; None where it cannot be read."""
    jpeg = thumbnail(pair.latest.image, THUMBNAIL_PIXELS, 82, "JPEG")
    return Markup(to_data_url(jpeg)) if jpeg else None


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
