"""An example question as the page shows it: picture, votes, options, choice and text, before and after."""

import base64
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from divek_verl.report.lines import RecordedVisit
from divek_verl.report.pairs import Pair
from divek_verl.report.pictures import thumbnail

THUMBNAIL_PIXELS = 360
BARS_SHOWN = 7


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
class Sight:
    """What the policy made of an image at one validation."""

    title: str
    visit: RecordedVisit
    bars: list[Bar]
    options: list[Option]

    @property
    def choice(self) -> str | None:
        return next(iter(self.visit.choices), None)

    @property
    def text(self) -> str | None:
        return next(iter(self.visit.completions), None)


@dataclass(frozen=True)
class Example:
    """One validation image, before and after. ``picture``: a data URI, None where it cannot be read."""

    outcome: str
    improved: bool
    truth: str
    source: str
    image_id: str
    file_name: str
    picture: Markup | None
    sights: list[Sight]


def describe(pair: Pair) -> Example:
    """The example as the page shows it."""
    latest = pair.latest
    return Example(
        outcome=pair.outcome,
        improved=latest.right,
        truth=latest.truth,
        source=latest.data_source,
        image_id=latest.image_id,
        file_name=Path(latest.image).name,
        picture=_picture(latest.image),
        sights=[_sight(title, visit) for title, visit in zip(("Before", "After"), pair.visits, strict=False)],
    )


def _sight(title: str, visit: RecordedVisit) -> Sight:
    return Sight(f"{title} · step {visit.step}", visit, answer_bars(visit), _options(visit))


def _options(visit: RecordedVisit) -> list[Option]:
    choice = next(iter(visit.choices), None)
    lettered = [(chr(ord("A") + index), name) for index, name in enumerate(visit.options)]
    return [Option(letter, name, letter == visit.answer, letter == choice) for letter, name in lettered]


def answer_bars(visit: RecordedVisit) -> list[Bar]:
    """The most frequent answers first, the others as one bar, so that the counts add up to K."""
    answers = _answers(visit)
    shown, rest = answers[:BARS_SHOWN], answers[BARS_SHOWN:]
    if rest:
        shown.append((f"{len(rest)} other answers", sum(count for _, count, _ in rest), "rest"))
    if visit.unanswered:
        shown.append(("no answer", visit.unanswered, "none"))
    return [Bar(label, count, count / visit.samples, kind) for label, count, kind in shown if count]


def _answers(visit: RecordedVisit) -> list[tuple[str, int, str]]:
    answers = [(name, count, "truth" if name == visit.truth else "other") for name, count in visit.votes.items()]
    answers += [(text, count, "unknown") for text, count in visit.unknown.items()]
    return sorted(answers, key=lambda answer: -answer[1])


def _picture(path: str) -> Markup | None:
    """A small JPEG as a data URI; None where the picture is not on this disk or cannot be read."""
    jpeg = thumbnail(path, THUMBNAIL_PIXELS, 82, "JPEG")
    if jpeg is None:
        return None
    return Markup("data:image/jpeg;base64,") + base64.b64encode(jpeg).decode("ascii")
