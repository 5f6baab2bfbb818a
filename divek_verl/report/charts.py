"""The curves of a run, as figures for plotly.js."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, cast

import plotly.graph_objects as go

from divek_verl.measures import MEASURES
from divek_verl.report.reading import Points, Run
from divek_verl.report.validation import LOGGED_AS, validation_curves
from divek_verl.templates import read_table, visible

# More points than a screen shows would only make the page larger.
POINTS_SHOWN = 1500
MARKERS_SHOWN = 40
DASHES = ("solid", "6px,3px", "2px,3px", "10px,3px,2px,3px")

Kind = Literal["share", "part", "number", "seconds", "count", "correlation"]

STAGES_SHOWN = 6
# verl's names of the stages -> ours.
STAGES = {
    "gen": "sampling",
    "update_actor": "policy update",
    "testing": "validation",
    "old_log_prob": "log probabilities",
}


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
    def flat(self) -> bool:
        """Whether a number says it: every curve has at most two points or is level."""
        return all(len(points) <= 2 or len(set(points.values())) == 1 for points in self.series.values())

    @property
    def by_source(self) -> bool:
        """Whether each curve is a validation set, not a metric."""
        return self.metrics.startswith("val-")

    @property
    def summary(self) -> str:
        """The chart in words: its first and last values."""

        def number(value: float) -> str:
            return f"{100 * value:.1f} %" if self.kind in ("share", "part") else f"{value:.4g}"

        words = []
        for name, points in self.series.items():
            ends = {number(points[step]): step for step in (max(points), min(points))} if points else {}
            said = " → ".join(f"{value} (step {step})" for value, step in reversed(ends.items()))
            words += [f"{name}: {said}" if name else said] if points else []
        return "; ".join(words)


def charts(run: Run) -> list[Chart]:
    """All charts of the report, including those without data."""

    curves = validation_curves(run)
    validation = []
    for name in sorted(MEASURES, key=lambda name: name != "two_step"):
        series = {source: curves[source].get(name, {}) for source in curves}
        metrics = f"val-*/<data_source>/{LOGGED_AS.get(name, name)}/mean@1"
        title = f"Validation: {MEASURES[name].title}"
        validation.append(
            Chart(title, f"{MEASURES[name].meaning} Healthy: rising, on new classes too.", metrics, series, "share")
        )
    # A run without a skip logs only the total, which is 0.
    skips = run.series_by_reason("divek/skips/") or {"": run.series("divek/skips/total")}
    skips_note = "Images without a question, by reason. Healthy: few but the easy ones."
    drawn = []
    for row in read_table("curves.csv"):
        named = dict(spec.rpartition("=")[::2] for spec in row["metrics"].split("; "))
        logged = {label: run.series(metric) for label, metric in named.items()}
        series = {label: points for label, points in logged.items() if points} or logged
        drawn.append(Chart(row["title"], row["note"], ", ".join(named.values()), series, cast(Kind, row["kind"])))
    skipped = Chart("Skipped images", skips_note, "divek/skips/<reason>", skips, "count")
    return [drawn[0], *validation, *drawn[1:], skipped, _stages(run)]


def _stages(run: Run) -> Chart:
    """The time of a step and of its longest stages; stages within a stage are left out."""
    means = {
        name: fmean(points.values())
        for name in {name for data in run.metrics.values() for name in data}
        if re.fullmatch(r"timing_s/\w+", name) and (points := run.series(name))
    }
    longest = sorted(means, key=lambda name: (name != "timing_s/step", -means[name], name))[:STAGES_SHOWN]
    series = {STAGES.get(stage := name.removeprefix("timing_s/"), stage): run.series(name) for name in longest}
    note = "A whole step and its longest stages. Healthy: sampling and the update take most of it."
    return Chart("Time of a step by stage", note, "timing_s/<stage>", series or {"step": {}}, "seconds")


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
