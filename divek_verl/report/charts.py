"""The curves of a run, as figures for plotly.js."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

from divek_verl.measures import MEASURES
from divek_verl.report.reading import Points, Run
from divek_verl.report.validation import LOGGED_AS, validation_curves
from divek_verl.templates import visible

# More points than a screen shows would only make the page larger.
POINTS_SHOWN = 1500
MARKERS_SHOWN = 40
DASHES = ("solid", "6px,3px", "2px,3px", "10px,3px,2px,3px")

Kind = Literal["share", "part", "number", "seconds", "count", "correlation"]


@dataclass(frozen=True)
class LineStyle:
    """How a line is drawn: indexes into the page's palette and into ``DASHES``."""

    colour: int
    dash: int


@dataclass(frozen=True)
class Chart:
    """Curves over the steps. ``metrics``: the names under which they are recorded.

    ``kind`` is the unit: a share is drawn from 0 to 1, a part from 0 to its largest value, a count as stacked bars. The
    axis of a correlation begins at 0.98, where sampler and policy begin to differ too much, or lower if needed.
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
        """Whether each curve is a validation set, not a metric."""
        return self.metrics.startswith("val-")

    @property
    def summary(self) -> str:
        """The chart in words, for screen readers."""
        return "; ".join(
            f"{name or self.title}: {points[min(points)]:.4g} at step {min(points)}, "
            f"{points[max(points)]:.4g} at step {max(points)}"
            for name, points in self.series.items()
            if points
        )


def charts(run: Run) -> list[Chart]:
    """All charts of the report, including those without data."""

    def of_metrics(title: str, note: str, metrics: dict[str, str], kind: Kind = "number") -> Chart:
        logged = {label: run.series(metric) for label, metric in metrics.items()}
        series = {label: points for label, points in logged.items() if points} or logged
        return Chart(title, note, ", ".join(metrics.values()), series, kind)

    curves = validation_curves(run)
    validation = []
    for name in sorted(MEASURES, key=lambda name: name != "two_step"):
        series = {source: curves[source].get(name, {}) for source in curves}
        metrics = f"val-*/<data_source>/{LOGGED_AS.get(name, name)}/mean@1"
        title = f"Validation: {MEASURES[name].title}"
        validation.append(Chart(title, MEASURES[name].meaning, metrics, series, "share"))
    injected = "Share of training questions whose true class had no vote and was added to the options."
    # A run without a skip logs only the total, which is 0.
    skips = run.series_by_reason("divek/skips/") or {"": run.series("divek/skips/total")}
    return [
        of_metrics("Reward", "Mean score of the rollouts of a training step.", {"": "critic/score/mean"}),
        *validation,
        of_metrics(
            "Votes on training images",
            "Measures of the K samples, including images that were skipped.",
            {MEASURES[name].title: f"divek/{name}" for name in ("one_step", "consistency", "recall")},
            "share",
        ),
        of_metrics("Injected truth", injected, {"": "divek/truth_injected_share"}, "share"),
        Chart("Skipped images", "Images without a question, by reason.", "divek/skips/<reason>", skips, "count"),
        of_metrics(
            "Samples without a usable answer",
            "Share of the K samples of training images.",
            {
                "no answer": "divek/unanswered_share",
                "not in the class list": "divek/unknown_share",
                "cut off": "divek/truncated_share",
            },
            "part",
        ),
        of_metrics(
            "Vote age",
            "Steps since the votes behind the training questions were sampled.",
            {"mean": "divek/vote_age/mean", "oldest": "divek/vote_age/max"},
        ),
        of_metrics(
            "Agreement of sampler and policy",
            "Correlation of their token probabilities; 1 if they are the same model.",
            {"": "training/rollout_actor_probs_pearson_corr"},
            "correlation",
        ),
        of_metrics(
            "Time per step",
            "A whole training step and its longest parts.",
            {
                "step": "timing_s/step",
                "sampling": "timing_s/gen",
                "policy update": "timing_s/update_actor",
                "validation": "timing_s/testing",
            },
            "seconds",
        ),
        of_metrics(
            "Time per image",
            "Mean duration of the K samples of an image and of its rollouts; images overlap.",
            {"K samples": "divek/mining_seconds/mean", "rollouts": "divek/rollout_seconds/mean"},
            "seconds",
        ),
    ]


def figure(chart: Chart, styles: Mapping[str, LineStyle], steps: tuple[int, int]) -> dict[str, object]:
    """The chart for plotly.js without colours, which the page adds by the reader's light or dark scheme.

    ``styles``: curve -> its style, the same in every chart. ``steps``: the run's first and last, so that x-axes are
    equal.
    """
    alone = len(chart.series) == 1
    result = go.Figure(layout={"template": None, "barmode": "stack", "showlegend": not alone})
    for number, (name, points) in enumerate(chart.series.items()):
        style = styles.get(name, LineStyle(len(styles) + number, number))
        points = thinned(points)
        trace = {
            "x": list(points),
            "y": list(points.values()),
            "name": html.escape(visible(name)),  # plotly.js reads some HTML in names
            "meta": "single" if alone and name not in styles else style.colour,
            "hovertemplate": "%{y}<extra></extra>" if alone else "%{y}",
        }
        if chart.kind == "count":
            result.add_bar(**trace)
        else:
            # Dashes tell two lines apart without colour, and where one covers the other.
            mode = "lines+markers" if len(points) <= MARKERS_SHOWN else "lines"
            result.add_scatter(mode=mode, line_dash=DASHES[style.dash % len(DASHES)], **trace)
    first, last = steps
    result.update_xaxes(range=[first - 0.6, last + 0.6], dtick=1 if last - first <= 10 else None)
    if chart.kind == "share":
        result.update_yaxes(range=[-0.03, 1.03], dtick=0.25, tickformat=".0%", hoverformat=".1%")
    elif chart.kind == "part":
        result.update_yaxes(rangemode="tozero", tickformat=".2~%", hoverformat=".1%")
    elif chart.kind == "correlation":
        low = min([0.98, *(value for points in chart.series.values() for value in points.values())])
        result.update_yaxes(range=[low - 0.03 * (1 - low), 1 + 0.05 * (1 - low)], hoverformat=".5f")
    else:
        suffix = " s" if chart.kind == "seconds" else ""
        result.update_yaxes(rangemode="tozero", hoverformat=".4~g", ticksuffix=suffix)
    return result.to_plotly_json()


def thinned(points: Points) -> Points:
    """At most ``POINTS_SHOWN`` of the points, evenly chosen, including the last one."""
    every = -(-len(points) // POINTS_SHOWN)
    backwards = list(points.items())[::-1]
    return dict(backwards[:: max(every, 1)][::-1])
