"""Charts as figures for plotly.js."""

import html
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from divek_verl.report.charts import Chart
from divek_verl.report.text import visible

MARKERS_SHOWN = 40
SINGLE_COLOUR = "single"


def figure(chart: Chart, colours: Mapping[str, int], steps: tuple[int, int]) -> dict[str, Any]:
    """The chart for plotly.js, without colours: the page takes those of the reader's light or dark scheme.

    ``colours``: data source -> its place in the palette, the same in every chart and no other series'.
    ``steps``: the first and last step of the run, so that all charts have one x-axis.
    """
    result = go.Figure(layout={"template": None, "barmode": "stack", "showlegend": len(chart.series) != 1})
    for number in range(len(chart.series)):
        _add_series(result, chart, number, colours)
    first, last = steps
    result.update_xaxes(range=[first - 0.6, last + 0.6], dtick=1 if last - first <= 10 else None)
    result.update_yaxes(**_y_axis(chart))
    return result.to_plotly_json()


def _add_series(result: go.Figure, chart: Chart, number: int, colours: Mapping[str, int]) -> None:
    style = _style(chart, number, colours)
    if chart.kind == "count":
        result.add_bar(**style)
        return
    # Dashes too, so that two lines can be told apart without colour and where one covers the other.
    dash = "6px,3px" if number % 2 else "solid"
    mode = "lines+markers" if len(style["x"]) <= MARKERS_SHOWN else "lines"
    result.add_scatter(mode=mode, line_dash=dash, **style)


def _style(chart: Chart, number: int, colours: Mapping[str, int]) -> dict[str, Any]:
    """plotly.js reads a part of HTML in names; escaped, they are what they are."""
    alone = len(chart.series) == 1
    name, points = list(chart.series.items())[number]
    return {
        "x": list(points),
        "y": list(points.values()),
        "name": html.escape(visible(name)),
        "meta": colours.get(name, SINGLE_COLOUR if alone else len(colours) + number),
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
