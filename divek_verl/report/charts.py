"""Which curves the report shows."""

from dataclasses import dataclass
from typing import Literal

from divek_verl.report.reading import Points, Run
from divek_verl.report.scores import MEASURES, validation_curves

Kind = Literal["share", "part", "number", "seconds", "count", "correlation"]


@dataclass(frozen=True)
class Chart:
    """Some series over the steps. ``metrics``: their names in the records.

    ``kind`` is the unit: a share is drawn from 0 to 1, a part from 0 to the largest value. ``correlation`` is drawn
    from 0.98, below which sampler and policy can no longer pass for one model, or lower if need be.
    """

    title: str
    note: str
    metrics: str
    series: dict[str, Points]
    kind: Kind = "number"

    @property
    def recorded(self) -> bool:
        return any(self.series.values())

    @property
    def by_source(self) -> bool:
        """Whether each series is a validation set, not a metric."""
        return self.metrics.startswith("val-")

    @property
    def summary(self) -> str:
        """The chart in words, for those who cannot see it."""
        return "; ".join(_in_words(name or self.title, points) for name, points in self.series.items() if points)


def _in_words(name: str, points: Points) -> str:
    first, last = min(points), max(points)
    return f"{name}: {points[first]:.4g} at step {first}, {points[last]:.4g} at step {last}"


@dataclass(frozen=True)
class _Plan:
    """A chart of metrics with fixed names. ``metrics``: label -> name; one that is alone needs no label."""

    title: str
    note: str
    metrics: dict[str, str]
    kind: Kind = "number"

    def chart(self, run: Run) -> Chart:
        logged = {label: run.series(metric) for label, metric in self.metrics.items()}
        series = {label: points for label, points in logged.items() if points} or logged
        return Chart(self.title, self.note, ", ".join(self.metrics.values()), series, self.kind)


REWARD = _Plan("Reward", "Mean score of the rollouts of a training step.", {"": "critic/score/mean"})
VOTES = _Plan(
    "Votes on training images",
    "What the K samples say of the images of a step, those without a question included.",
    {"one-step": "divek/one_step", "consistency": "divek/consistency", "recall": "divek/recall"},
    "share",
)
INJECTED = _Plan(
    "Truth put among the options",
    "Share of training questions whose true class the K samples missed.",
    {"": "divek/truth_injected_share"},
    "share",
)
UNUSABLE = _Plan(
    "Samples without a usable answer",
    "Share of the K samples of training images.",
    {
        "no answer": "divek/unanswered_share",
        "not in the class list": "divek/unknown_share",
        "cut off": "divek/truncated_share",
    },
    "part",
)
VOTE_AGE = _Plan(
    "Age of the votes",
    "Steps since the votes behind the training questions were sampled.",
    {"mean": "divek/vote_age/mean", "oldest": "divek/vote_age/max"},
)
AGREEMENT = _Plan(
    "Sampler and policy agree",
    "Correlation of the token probabilities of sampler and policy; 1 where they are one model.",
    {"": "training/rollout_actor_probs_pearson_corr"},
    "correlation",
)
STEP_TIME = _Plan(
    "Time of a step",
    "A whole training step, and its longest parts.",
    {
        "step": "timing_s/step",
        "sampling": "timing_s/gen",
        "policy update": "timing_s/update_actor",
        "validation": "timing_s/testing",
    },
    "seconds",
)
IMAGE_TIME = _Plan(
    "Time of an image",
    "From the start of its K samples to their end, and the same of its rollouts; images overlap.",
    {"K samples": "divek/mining_seconds/mean", "rollouts": "divek/rollout_seconds/mean"},
    "seconds",
)


def charts(run: Run) -> list[Chart]:
    """Every chart of the report, those without data included."""
    return [
        REWARD.chart(run),
        *_validation_charts(run),
        VOTES.chart(run),
        INJECTED.chart(run),
        _skips(run),
        UNUSABLE.chart(run),
        VOTE_AGE.chart(run),
        AGREEMENT.chart(run),
        STEP_TIME.chart(run),
        IMAGE_TIME.chart(run),
    ]


def _validation_charts(run: Run) -> list[Chart]:
    """One a measure, the two-step accuracy first."""
    curves = validation_curves(run)
    keys = sorted(MEASURES, key=lambda key: key != "acc")
    return [_validation_chart(key, {source: curves[source].get(key, {}) for source in curves}) for key in keys]


def _validation_chart(key: str, series: dict[str, Points]) -> Chart:
    title, note = MEASURES[key]
    accuracy = " accuracy" if key in ("acc", "one_step") else ""
    return Chart(f"{title}{accuracy}", f"Validation: {note}.", f"val-*/<data_source>/{key}/mean@1", series, "share")


def _skips(run: Run) -> Chart:
    """A run without a skip logs the total alone, which shows its zeros."""
    series = run.series_by_reason("divek/skips/") or {"": run.series("divek/skips/total")}
    note = "Training images without a question, by reason."
    return Chart("Skipped images", note, "divek/skips/<reason>", series, "count")
