"""Charts as figures for plotly.js."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from divek_verl.report.charts import Chart
from divek_verl.report.reading import Points
from divek_verl.templates import visible

MARKERS_SHOWN = 40
# No screen shows more, and the page stays small after a long run.
POINTS_SHOWN = 1500
SINGLE_COLOUR = "single"
DASHES = ("solid", "6px,3px", "2px,3px", "10px,3px,2px,3px")


@dataclass(frozen=True)
class Look:
    """How a line is drawn: its place in the palette, and its place in ``DASHES``."""

    colour: int
    dash: int


def figure(chart: Chart, looks: Mapping[str, Look], steps: tuple[int, int]) -> dict[str, Any]:
    """The chart for plotly.js, without colours: the page takes those of the reader's light or dark scheme.

    ``looks``: series -> its look, the same in every chart and no other series'.
    ``steps``: the first and last step of the run, so that all charts have one x-axis.
    """
    result = go.Figure(layout={"template": None, "barmode": "stack", "showlegend": len(chart.series) != 1})
    for number in range(len(chart.series)):
        _add_series(result, chart, number, looks)
    first, last = steps
    result.update_xaxes(range=[first - 0.6, last + 0.6], dtick=1 if last - first <= 10 else None)
    result.update_yaxes(**_y_axis(chart))
    return result.to_plotly_json()


def _add_series(result: go.Figure, chart: Chart, number: int, looks: Mapping[str, Look]) -> None:
    name, points = list(chart.series.items())[number]
    look = looks.get(name, Look(len(looks) + number, number))
    style = _style(chart, name, thinned(points), name in looks, look)
    if chart.kind == "count":
        result.add_bar(**style)
        return
    # Dashes too, so that two lines can be told apart without colour and where one covers the other.
    dash = DASHES[look.dash % len(DASHES)]
    mode = "lines+markers" if len(style["x"]) <= MARKERS_SHOWN else "lines"
    result.add_scatter(mode=mode, line_dash=dash, **style)


def thinned(points: Points) -> Points:
    """At most ``POINTS_SHOWN`` of the points, evenly chosen, the last one among them."""
    every = -(-len(points) // POINTS_SHOWN)
    backwards = list(points.items())[::-1]
    return dict(backwards[:: max(every, 1)][::-1])


def _style(chart: Chart, name: str, points: Points, known: bool, look: Look) -> dict[str, Any]:
    """plotly.js reads a part of HTML in names; escaped, they are what they are."""
    alone = len(chart.series) == 1
    return {
        "x": list(points),
        "y": list(points.values()),
        "name": html.escape(visible(name)),
        "meta": SINGLE_COLOUR if alone and not known else look.colour,
        "hovertemplate": "%{y}<extra></extra>" if alone else "%{y}",
    }


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
