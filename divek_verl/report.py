"""A self-contained HTML report of a run: final table, curves, example questions, confusions, failures.

Reads ``questions.jsonl`` and ``metrics.jsonl`` of a run directory; the page opens without a network. What a
run did not record is shown as missing and never as 0. Names and completions are untrusted text: everything is
escaped, and the page's own policy lets no script run but the two it was built with.
"""

import base64
import hashlib
import html
import io
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jinja2
import plotly.graph_objects as go
import typer
from markupsafe import Markup
from PIL import Image, ImageOps
from plotly.offline import get_plotlyjs
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from divek_verl.errors import SetupError

# As in divek_verl.records, which starts Ray and so is not imported to read two files.
QUESTIONS_FILE = "questions.jsonl"
METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"

# Key in the metrics -> (title, what it says), in the order of the table.
MEASURES = {
    "one_step": ("One-step", "share of the K samples that name the true class"),
    "consistency": ("Consistency", "the most frequent answer is the true class"),
    "acc": ("Two-step", "the option chosen from the policy's own answers is the true class"),
    "recall": ("Recall", "the true class is among the options"),
    "pass_at_k": ("Pass@K", "at least one of the K samples names the true class"),
}
REASONS = {
    "easy": "every sample already names the true class, so there is nothing to learn",
    "unreadable_image": "the picture cannot be read",
    "overlong_prompt": "the open question is longer than data.max_prompt_length",
    "overlong_question": "the multiple-choice question is longer than data.max_prompt_length",
    "mining_timeout": "the K samples took longer than divek.mining_timeout",
    "rollout_timeout": "a rollout took longer than divek.rollout_timeout",
    "sampling_failed": "none of the K samples could be drawn",
}
THUMBNAIL_PIXELS = 360
BARS_SHOWN = 7
CONFUSIONS_SHOWN = 12
MARKERS_SHOWN = 40
SINGLE_COLOUR = "single"

_VALIDATION = re.compile(r"val-(?:core|aux)/(?P<source>.+)/(?P<key>[^/]+)/mean@\d+")
Points = dict[int, float]


# ---------------------------------------------------------------- reading the records


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class RecordedVisit(_Line):
    """What the report reads of a line of ``questions.jsonl``; a measure that the line lacks is None."""

    step: int
    split: Literal["train", "val"]
    data_source: str
    image_id: str
    truth: str
    image: str = ""
    votes: dict[str, NonNegativeInt] = {}
    unknown: dict[str, NonNegativeInt] = {}
    unanswered: NonNegativeInt = 0
    options: list[str] = []
    answer: str | None = None
    skip: str | None = None
    failure: str | None = None
    choices: list[str | None] = []
    completions: list[str] = []
    rollout_failures: dict[str, NonNegativeInt] = {}
    one_step: float | None = None
    consistency: float | None = None
    recall: float | None = None
    pass_at_k: float | None = None

    @property
    def samples(self) -> int:
        """The completions behind the votes, K."""
        return sum(self.votes.values()) + sum(self.unknown.values()) + self.unanswered

    @property
    def acc(self) -> float:
        """Share of the rollouts that chose the true class; 0.0 where there was no question or no rollout."""
        rollouts = len(self.choices) + sum(self.rollout_failures.values())
        right = sum(choice is not None and choice == self.answer for choice in self.choices)
        return right / rollouts if rollouts else 0.0

    @property
    def right(self) -> bool:
        return self.acc > 0.5

    @property
    def closeness(self) -> float:
        """From 0 to 0.5: how evenly the samples are split between the truth and one other class."""
        others = [count for name, count in self.votes.items() if name != self.truth]
        return min(self.votes.get(self.truth, 0), max(others, default=0)) / max(self.samples, 1)


class MetricsLine(_Line):
    """A line of ``metrics.jsonl``."""

    step: int
    data: dict[str, Any]


AnyLine = TypeVar("AnyLine", bound=_Line)


@dataclass
class Run:
    """The records of a run. ``unreadable``: file -> lines that are no record, such as one torn by a kill."""

    name: str
    training: list[RecordedVisit] = field(default_factory=list)
    validation: dict[str, dict[int, dict[str, RecordedVisit]]] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    replaced_steps: int = 0
    summary: dict[str, str] = field(default_factory=dict)

    def series(self, metric: str) -> Points:
        """step -> value, for the steps that have one."""
        return {step: data[metric] for step, data in sorted(self.metrics.items()) if metric in data}


def read_run(run_dir: Path) -> Run:
    """The records in ``run_dir``.

    Raises:
        SetupError: where the directory holds neither of the two record files.
    """
    run = Run(name=run_dir.resolve().name)
    questions, metrics = run_dir / QUESTIONS_FILE, run_dir / METRICS_FILE
    if not questions.is_file() and not metrics.is_file():
        neither = f"{run_dir} holds neither {QUESTIONS_FILE} nor {METRICS_FILE}"
        raise SetupError(f"{neither}; give the directory that a run wrote to.")
    if questions.is_file():
        _add_visits(run, _read_lines(run, questions, RecordedVisit))
    if metrics.is_file():
        _add_metrics(run, _read_lines(run, metrics, MetricsLine))
    run.summary = _read_summary(run_dir / SUMMARY_FILE)
    return run


def _read_lines(run: Run, path: Path, kind: type[AnyLine]) -> list[AnyLine]:
    lines = []
    run.unreadable[path.name] = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                lines.append(kind.model_validate_json(line))
            except ValueError:
                run.unreadable[path.name] += bool(line.strip())
    return lines


def _add_visits(run: Run, visits: Iterable[RecordedVisit]) -> None:
    """A resumed run validates a step again: the last visit of an image counts."""
    for visit in visits:
        if visit.split == "train":
            run.training.append(visit)
        else:
            steps = run.validation.setdefault(visit.data_source, {})
            steps.setdefault(visit.step, {})[visit.image_id] = visit


def _add_metrics(run: Run, lines: Iterable[MetricsLine]) -> None:
    """A step that goes back means a resume: what the abandoned attempt logged later is not of this policy."""
    last = None
    for line in lines:
        if last is not None and line.step < last:
            for step in [step for step in run.metrics if step > line.step]:
                del run.metrics[step]
                run.replaced_steps += 1
        last = line.step
        run.replaced_steps += _replace(run.metrics.setdefault(line.step, {}), line.data)


def _replace(known: dict[str, float], logged: Mapping[str, Any]) -> int:
    """Put a line's numbers in the place of an earlier line's; training and validation may have one each."""
    replaced = 0
    for validation in (True, False):
        part = {name: value for name, value in logged.items() if _is_validation(name) == validation}
        outdated = [name for name in known if _is_validation(name) == validation] if part else []
        replaced += bool(outdated)
        for name in outdated:
            del known[name]
        known.update({name: float(value) for name, value in part.items() if _is_number(value)})
    return replaced


def _is_validation(metric: str) -> bool:
    return metric.startswith("val-")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_summary(path: Path) -> dict[str, str]:
    """The plain values of the optional summary; an unreadable one is no reason to show no report."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    plain = summary.items() if isinstance(summary, dict) else ()
    return {key: str(value) for key, value in plain if isinstance(value, str | int | float | bool)}


# ---------------------------------------------------------------- the final table


@dataclass(frozen=True)
class Score:
    """A measure of one data source at its first and last validation; None is missing."""

    title: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class ScoreRow:
    """A data source in the final table. ``images``: how many the records hold, None where they hold none."""

    source: str
    first: int
    last: int | None
    images: int | None
    scores: list[Score]


def validation_curves(run: Run) -> dict[str, dict[str, Points]]:
    """data_source -> measure -> step -> value, as verl logged it or else averaged over the questions."""
    curves: dict[str, dict[str, Points]] = {}
    for step, data in sorted(run.metrics.items()):
        for metric, value in data.items():
            if match := _VALIDATION.fullmatch(metric):
                curves.setdefault(match["source"], {}).setdefault(match["key"], {})[step] = value
    for source, steps in run.validation.items():
        if source not in curves:
            curves[source] = {key: _averages(steps, key) for key in MEASURES}
    return {source: curves[source] for source in sorted(curves, key=_source_order)}


def _averages(steps: Mapping[int, Mapping[str, RecordedVisit]], key: str) -> Points:
    averages = {}
    for step, visits in sorted(steps.items()):
        values = [getattr(visit, key) for visit in visits.values()]
        if all(_is_number(value) for value in values):
            averages[step] = sum(values) / len(values)
    return averages


def _source_order(source: str) -> tuple[bool, str, int, str]:
    """Our own sets first; of each set base, then new, then all."""
    dataset, _, side = source.rpartition("/")
    sides = ("base", "new", "all")
    return not source.startswith("divek/"), dataset, sides.index(side) if side in sides else len(sides), side


def validation_steps(curves: Mapping[str, Points]) -> tuple[int, int | None] | None:
    """The first and the last validated step; the last is None where there is one alone."""
    steps = sorted({step for points in curves.values() for step in points})
    if not steps:
        return None
    return steps[0], steps[-1] if len(steps) > 1 else None


def final_table(run: Run) -> list[ScoreRow]:
    """One row a data source."""
    rows = []
    for source, curves in validation_curves(run).items():
        if (span := validation_steps(curves)) is not None:
            first, last = span
            recorded = run.validation.get(source, {}).get(first if last is None else last)
            scores = []
            for key, (title, _) in MEASURES.items():
                points = curves.get(key, {})
                scores.append(Score(title, points.get(first), None if last is None else points.get(last)))
            rows.append(ScoreRow(source, first, last, len(recorded) if recorded else None, scores))
    return rows


# ---------------------------------------------------------------- charts


@dataclass(frozen=True)
class Chart:
    """Some series over the steps. ``metrics``: their names in the records.

    ``kind`` is the unit: a share is drawn from 0 to 1, a part from 0 to the largest value. ``correlation`` is
    drawn from 0.98, below which sampler and policy can no longer pass for one model, or lower if need be.
    """

    title: str
    note: str
    metrics: str
    series: dict[str, Points]
    kind: Literal["share", "part", "number", "seconds", "count", "correlation"] = "number"

    @property
    def recorded(self) -> bool:
        return any(self.series.values())

    @property
    def summary(self) -> str:
        """The chart in words, for those who cannot see it."""
        parts = []
        for name, points in self.series.items():
            if points:
                first, last = min(points), max(points)
                values = f"{points[first]:.4g} at step {first}, {points[last]:.4g} at step {last}"
                parts.append(f"{name or self.title}: {values}")
        return "; ".join(parts)


def charts(run: Run) -> list[Chart]:
    """Every chart of the report, those without data included."""

    def by_label(metrics: Mapping[str, str]) -> dict[str, Points]:
        return {label: run.series(metric) for label, metric in metrics.items()}

    curves = validation_curves(run)
    validated = [
        Chart(
            f"{title}{' accuracy' if key in ('acc', 'one_step') else ''}",
            f"Validation: {note}.",
            f"val-*/<data_source>/{key}/mean@1",
            {source: curves[source].get(key, {}) for source in curves},
            "share",
        )
        for key, (title, note) in sorted(MEASURES.items(), key=lambda item: item[0] != "acc")
    ]
    return [
        Chart(
            "Reward",
            "Mean score of the rollouts of a training step.",
            "critic/score/mean",
            by_label({"": "critic/score/mean"}),
        ),
        *validated,
        Chart(
            "Truth put among the options",
            "Share of training questions whose true class the K samples missed.",
            "divek/truth_injected_share",
            by_label({"": "divek/truth_injected_share"}),
            "share",
        ),
        Chart(
            "Samples without a usable answer",
            "Share of the K samples of training images.",
            "divek/unanswered_share, divek/unknown_share",
            by_label({"no answer": "divek/unanswered_share", "not in the class list": "divek/unknown_share"}),
            "part",
        ),
        Chart(
            "Skipped images",
            "Training images without a question, by reason.",
            "divek/skips/<reason>",
            by_label(_metrics_below(run, "divek/skips/") or {"": "divek/skips/total"}),
            "count",
        ),
        Chart(
            "Sampler and policy agree",
            "Correlation of the token probabilities of sampler and policy; 1 where they are one model.",
            "training/rollout_actor_probs_pearson_corr",
            by_label({"": "training/rollout_actor_probs_pearson_corr"}),
            "correlation",
        ),
        Chart(
            "Time",
            "A whole training step, and the K samples of one image on average.",
            "timing_s/step, divek/mining_seconds/mean",
            by_label({"step": "timing_s/step", "mining, per image": "divek/mining_seconds/mean"}),
            "seconds",
        ),
    ]


def _metrics_below(run: Run, prefix: str) -> dict[str, str]:
    """reason -> metric, without the total."""
    names = sorted({name for data in run.metrics.values() for name in data if name.startswith(prefix)})
    return {name.removeprefix(prefix): name for name in names if name != f"{prefix}total"}


def figure(chart: Chart, colours: Mapping[str, int], steps: tuple[int, int]) -> dict[str, Any]:
    """The chart for plotly.js, without colours: the page takes those of the reader's light or dark scheme.

    ``colours``: data source -> its place in the palette, the same in every chart and no other series'.
    ``steps``: the first and last step of the run, so that all charts have one x-axis.
    """
    alone = len(chart.series) == 1
    result = go.Figure(layout={"template": None, "barmode": "stack", "showlegend": not alone})
    for number, (name, points) in enumerate(chart.series.items()):
        # plotly.js reads a part of HTML in names; escaped, they are what they are.
        style = {
            "x": list(points),
            "y": list(points.values()),
            "name": html.escape(visible(name)),
            "meta": colours.get(name, SINGLE_COLOUR if alone else len(colours) + number),
            "hovertemplate": "%{y}<extra></extra>" if alone else "%{y}",
        }
        if chart.kind == "count":
            result.add_bar(**style)
        else:
            # Dashes too, so that two lines can be told apart without colour and where one covers the other.
            dash = "6px,3px" if number % 2 else "solid"
            mode = "lines+markers" if len(points) <= MARKERS_SHOWN else "lines"
            result.add_scatter(mode=mode, line_dash=dash, **style)
    first, last = steps
    result.update_xaxes(range=[first - 0.6, last + 0.6], dtick=1 if last - first <= 10 else None)
    result.update_yaxes(**_y_axis(chart))
    return result.to_plotly_json()


def _y_axis(chart: Chart) -> dict[str, Any]:
    if chart.kind == "share":
        return {"range": [-0.03, 1.03], "dtick": 0.25, "tickformat": ".0%", "hoverformat": ".1%"}
    if chart.kind == "part":
        return {"rangemode": "tozero", "tickformat": ".2~%", "hoverformat": ".1%"}
    if chart.kind == "correlation":
        low = min([0.98, *(value for points in chart.series.values() for value in points.values())])
        return {"range": [low - 0.03 * (1 - low), 1 + 0.05 * (1 - low)], "hoverformat": ".5f"}
    suffix = " s" if chart.kind == "seconds" else ""
    return {"rangemode": "tozero", "hoverformat": ".4~g", "ticksuffix": suffix}


# ---------------------------------------------------------------- questions


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


@dataclass(frozen=True)
class Pair:
    """An image at the first and the last validation; ``after`` is None where there was one alone."""

    before: RecordedVisit
    after: RecordedVisit | None

    @property
    def latest(self) -> RecordedVisit:
        return self.after or self.before

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
    pairs = []
    for source, curves in validation_curves(run).items():
        if (span := validation_steps(curves)) is None:
            continue
        steps = run.validation.get(source, {})
        first, last = (None if step is None else steps.get(step, {}) for step in span)
        for image_id, before in sorted((first or {}).items()):
            if last is None or image_id in last:
                pairs.append(Pair(before, None if last is None else last[image_id]))
    return pairs


def choose_examples(pairs: Sequence[Pair]) -> list[Pair]:
    """Up to three instructive images: one learnt, one of look-alikes, one that the policy still gets wrong.

    Of those that qualify, the one whose samples are most evenly split between the truth and a look-alike; a
    kind without an image gives its place to the next look-alike. The same records give the same choice.
    """
    kinds: list[Callable[[Pair], bool]] = [
        lambda pair: pair.outcome == "Wrong before, right after",
        lambda pair: pair.latest.right,
        lambda pair: not pair.latest.right and not pair.before.right,
    ]
    chosen: list[Pair | None] = []
    for kind in kinds:
        chosen.append(_most_instructive([pair for pair in pairs if kind(pair)], chosen))
    if chosen[-1] is None:
        chosen[-1] = _most_instructive([pair for pair in pairs if not pair.latest.right], chosen)
    for place, pair in enumerate(chosen):
        if pair is None:
            chosen[place] = _most_instructive(pairs, chosen)
    return [pair for pair in chosen if pair is not None]


def _most_instructive(pairs: Iterable[Pair], chosen: Sequence[Pair | None]) -> Pair | None:
    names = {pair.name for pair in chosen if pair}
    truths = {pair.before.truth for pair in chosen if pair}

    def rank(pair: Pair) -> tuple:
        visits = [visit for visit in (pair.before, pair.after) if visit is not None]
        could_be_right = sum(visit.answer is not None for visit in visits)
        split = max(visit.closeness for visit in visits)
        return pair.before.truth in truths, -could_be_right, -split, _source_order(pair.name[0]), pair.name

    return min((pair for pair in pairs if pair.name not in names), key=rank, default=None)


def describe(pair: Pair) -> Example:
    """The example as the page shows it."""
    sights = [_sight("Before", pair.before)]
    if pair.after is not None:
        sights.append(_sight("After", pair.after))
    latest = pair.latest
    return Example(
        outcome=pair.outcome,
        improved=latest.right,
        truth=latest.truth,
        source=latest.data_source,
        image_id=latest.image_id,
        file_name=Path(latest.image).name,
        picture=thumbnail(latest.image),
        sights=sights,
    )


def _sight(title: str, visit: RecordedVisit) -> Sight:
    choice = next(iter(visit.choices), None)
    options = [
        Option(
            chr(ord("A") + index),
            name,
            chr(ord("A") + index) == visit.answer,
            chr(ord("A") + index) == choice,
        )
        for index, name in enumerate(visit.options)
    ]
    return Sight(f"{title} · step {visit.step}", visit, _bars(visit), options)


def _bars(visit: RecordedVisit) -> list[Bar]:
    """The most frequent answers first, the others as one bar, so that the counts add up to K."""
    kinds = {name: "truth" if name == visit.truth else "other" for name in visit.votes}
    answers = [(name, count, kinds[name]) for name, count in visit.votes.items()]
    answers += [(text, count, "unknown") for text, count in visit.unknown.items()]
    answers.sort(key=lambda answer: -answer[1])
    rest = answers[BARS_SHOWN:]
    shown = answers[:BARS_SHOWN]
    if rest:
        shown.append((f"{len(rest)} other answers", sum(count for _, count, _ in rest), "rest"))
    if visit.unanswered:
        shown.append(("no answer", visit.unanswered, "none"))
    return [Bar(label, count, count / visit.samples, kind) for label, count, kind in shown if count]


def thumbnail(path: str) -> Markup | None:
    """A small JPEG as a data URI; None where the picture is not on this disk or cannot be read."""
    try:
        with Image.open(path.removeprefix("file://")) as file:
            picture = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    jpeg = io.BytesIO()
    flat.save(jpeg, "JPEG", quality=82)
    return Markup("data:image/jpeg;base64,") + base64.b64encode(jpeg.getvalue()).decode("ascii")


# ---------------------------------------------------------------- confusions, outcomes, failures


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
    counts: tuple[Counter, Counter] = (Counter(), Counter())
    samples: tuple[Counter, Counter] = (Counter(), Counter())
    for pair in pairs:
        for when, visit in enumerate((pair.before, pair.after)):
            if visit is not None:
                samples[when][visit.data_source, visit.truth] += visit.samples
                for name, count in visit.votes.items():
                    if name != visit.truth and count:
                        counts[when][visit.data_source, visit.truth, name] += count

    def share(when: int, key: tuple[str, str, str]) -> float | None:
        total = samples[when][key[:2]]
        return counts[when][key] / total if total else None

    ranked = sorted(set(counts[0]) | set(counts[1]), key=lambda key: (-counts[0][key] - counts[1][key], key))
    return [
        Confusion(source, truth, answer, share(0, (source, truth, answer)), share(1, (source, truth, answer)))
        for source, truth, answer in ranked[:CONFUSIONS_SHOWN]
    ]


def outcomes(pairs: Sequence[Pair]) -> dict[str, dict[str, int]]:
    """data_source -> outcome -> images, for the images seen both before and after."""
    table: dict[str, dict[str, int]] = {}
    for pair in pairs:
        if pair.after is not None:
            row = table.setdefault(pair.before.data_source, dict.fromkeys(OUTCOMES, 0))
            row[pair.outcome] += 1
    return table


OUTCOMES = ("Wrong before, right after", "Right both times", "Right before, wrong after", "Still wrong")


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
    if QUESTIONS_FILE not in run.unreadable:
        return _problems_of_metrics(run)
    by_step = [visits for steps in run.validation.values() for visits in steps.values()]
    validation = [visit for visits in by_step for visit in visits.values()]
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for column, visits in enumerate((run.training, validation)):
        for visit in visits:
            for kind, reason, count in _problems_of_visit(visit):
                found[kind, reason][column] += count
    ranked = sorted(found.items(), key=lambda item: (-sum(item[1]), item[0]))
    return [Problem(*key, *counts) for key, counts in ranked]


def _problems_of_visit(visit: RecordedVisit) -> list[tuple[str, str, int]]:
    result = [("rollout", reason, count) for reason, count in visit.rollout_failures.items() if count]
    result += [("skipped", visit.skip, 1)] if visit.skip else []
    return result + ([("failed", visit.failure, 1)] if visit.failure else [])


def _problems_of_metrics(run: Run) -> list[Problem]:
    return [
        Problem(kind, reason, round(sum(run.series(metric).values())), None)
        for kind, prefix in (("no question", "divek/skips/"), ("rollout", "divek/rollout_failures/"))
        for reason, metric in _metrics_below(run, prefix).items()
    ]


# ---------------------------------------------------------------- the page


def visible(text: str) -> str:
    """``text`` with the marks that turn or hide text (bidi, control, zero width) written as ``\\u202e``."""
    return "".join(character if _is_plain(character) else _escape(character) for character in text)


def _is_plain(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def render(run: Run) -> str:
    """The page."""
    environment = _environment()
    curves = validation_curves(run)
    colours = {source: slot for slot, source in enumerate(curves)}
    drawn = charts(run)
    recorded = [chart for chart in drawn if chart.recorded]
    steps = [step for chart in recorded for points in chart.series.values() for step in points]
    pairs = image_pairs(run)
    scripts = {"plotly": get_plotlyjs(), "own": _asset(environment, "charts.js")}
    return environment.get_template("report.html.j2").render(
        run=run,
        table=final_table(run),
        measures=MEASURES,
        charts=recorded,
        figures=[figure(chart, colours, (min(steps), max(steps))) for chart in recorded],
        unrecorded=[chart for chart in drawn if not chart.recorded],
        pairs=pairs,
        examples=[describe(pair) for pair in choose_examples(pairs)],
        outcomes=outcomes(pairs),
        outcome_names=OUTCOMES,
        confusions=confusions(pairs),
        problems=problems(run),
        images_validated=sum(len(visits) for steps in run.validation.values() for visits in steps.values()),
        questions_recorded=QUESTIONS_FILE in run.unreadable,
        style=Markup(_asset(environment, "report.css")),
        scripts={name: Markup(script) for name, script in scripts.items()},
        script_hashes=" ".join(f"'{_csp_hash(script)}'" for script in scripts.values()),
        plotly_megabytes=len(scripts["plotly"].encode()) / 1e6,
    )


def _environment() -> jinja2.Environment:
    """Autoescaping, and every text that is printed made visible first."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("divek_verl"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters |= {"percent": percent, "points": points_changed}
    return environment


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def points_changed(change: float | None) -> str:
    """Percentage points with a sign; a change that rounds to nothing has none."""
    if change is None:
        return "–"
    rounded = round(100 * change, 1)
    return "±0.0" if rounded == 0 else f"{'+' if rounded > 0 else '−'}{abs(rounded):.1f}"


def _asset(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _csp_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of ``run_dir`` to ``out``, by default its ``report.html``, and return the path.

    Raises:
        SetupError: where the directory holds no records.
    """
    run_dir = Path(run_dir)
    target = Path(out) if out is not None else run_dir / REPORT_FILE
    page = render(read_run(run_dir))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Aside and renamed, so that a reader never sees half a page.
    aside = target.with_name(f".{target.name}.part")
    aside.write_text(page, encoding="utf-8")
    aside.replace(target)
    return target


def main(
    run_dir: Annotated[Path, typer.Argument(help="The directory with the records of a run.")],
    out: Annotated[Path | None, typer.Option(help="The page to write [RUN_DIR/report.html].")] = None,
) -> None:
    """Write a self-contained HTML report of a run."""
    try:
        print(write_report(run_dir, out))
    except SetupError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
