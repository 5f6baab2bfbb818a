"""Several runs on one page: their names, their curves in one chart, their final tables in one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from divek_verl.report.charts import Chart, LineStyle, charts
from divek_verl.report.reading import Points, Run
from divek_verl.report.validation import ScoreRow, final_table, source_order

SEPARATOR = " · "
# Only this many metrics of a chart are compared: more lines of several runs cannot be told apart.
METRICS_COMPARED = 2


def name_runs(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: as many of its last parts as tell it apart, or its name and a number."""
    resolved = [folder.resolve() for folder in folders]
    for parts in range(1, max(len(folder.parts) for folder in resolved) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in resolved]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({number})" for number, folder in enumerate(resolved, start=1)]


@dataclass(frozen=True)
class ComparedTable:
    """A data source in the final tables: run name -> its row, for the runs that validated on it."""

    source: str
    rows: dict[str, ScoreRow]


def compared_tables(runs: Mapping[str, Run]) -> list[ComparedTable]:
    tables = {name: {row.source: row for row in final_table(run)} for name, run in runs.items()}
    sources = sorted({source for table in tables.values() for source in table}, key=source_order)
    rows_of = {source: {name: table[source] for name, table in tables.items() if source in table} for source in sources}
    return [ComparedTable(source, rows) for source, rows in rows_of.items()]


def compared_charts(runs: Mapping[str, Run]) -> tuple[list[Chart], dict[str, LineStyle]]:
    """The charts of all runs over each other, and the style of each curve: a colour per run, a dash per series."""
    styles: dict[str, LineStyle] = {}
    merged = []
    for same in zip(*(charts(run) for run in runs.values()), strict=True):
        series: dict[str, Points] = {}
        comparable = [_comparable(chart, run) for chart, run in zip(same, runs.values(), strict=True)]
        labels = list(dict.fromkeys(label for chart in comparable for label in chart.series))
        for colour, (name, chart) in enumerate(zip(runs, comparable, strict=True)):
            for label, points in chart.series.items():
                key = SEPARATOR.join(part for part in (name, label) if part)
                series[key] = points
                styles[key] = LineStyle(colour, labels.index(label))
        recorded = {key: points for key, points in series.items() if points}
        merged.append(replace(comparable[0], series=recorded or series))
    return merged, styles


def _comparable(chart: Chart, run: Run) -> Chart:
    """Bars by reason cannot be drawn over each other, so their total is; of many metrics, the first ones are drawn."""
    if chart.kind == "count":
        total = run.series("divek/skips/total")
        if not total:
            steps = sorted({step for points in chart.series.values() for step in points})
            total = {step: sum(points.get(step, 0.0) for points in chart.series.values()) for step in steps}
        return replace(chart, kind="number", series={"": total}, note="Training images without a question.")
    if chart.by_source:
        return chart
    return replace(chart, series=dict(list(chart.series.items())[:METRICS_COMPARED]))
