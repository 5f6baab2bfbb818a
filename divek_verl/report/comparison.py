"""Several runs beside each other: what they are called, their curves in one chart, their final tables in one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from divek_verl.report.charts import Chart, charts
from divek_verl.report.figures import Look
from divek_verl.report.reading import Points, Run
from divek_verl.report.scores import ScoreRow, final_table, source_order

SEPARATOR = " · "
# Of a chart with a line a metric, so many are compared: more lines of several runs cannot be told apart.
METRICS_COMPARED = 2


def name_runs(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: as many of its last parts as it takes to tell them apart, else a number too."""
    resolved = [folder.resolve() for folder in folders]
    for parts in range(1, max(len(folder.parts) for folder in resolved) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in resolved]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({number})" for number, folder in enumerate(resolved, start=1)]


@dataclass(frozen=True)
class Compared:
    """A data source in the final table: the row of each run that validated on it, by the run's name."""

    source: str
    rows: dict[str, ScoreRow]


def compared_tables(runs: Mapping[str, Run]) -> list[Compared]:
    """The final tables of all runs, grouped by data source."""
    tables = {name: {row.source: row for row in final_table(run)} for name, run in runs.items()}
    sources = sorted({source for table in tables.values() for source in table}, key=source_order)
    return [
        Compared(source, {name: table[source] for name, table in tables.items() if source in table})
        for source in sources
    ]


def compared_charts(runs: Mapping[str, Run]) -> tuple[list[Chart], dict[str, Look]]:
    """The charts of all runs over each other, and the look of each line: a colour a run, a dash a series of it."""
    looks: dict[str, Look] = {}
    drawn = [[_to_be_compared(chart, run) for chart in charts(run)] for run in runs.values()]
    return [_merge(dict(zip(runs, same, strict=True)), looks) for same in zip(*drawn, strict=True)], looks


def _to_be_compared(chart: Chart, run: Run) -> Chart:
    """Bars by reason cannot be laid over each other: their total can. Of many lines, the first ones."""
    if chart.kind == "count":
        series = {"": run.series("divek/skips/total") or _sums(chart.series.values())}
        return replace(chart, kind="number", series=series, note="Training images without a question.")
    if chart.by_source:
        return chart
    return replace(chart, series=dict(list(chart.series.items())[:METRICS_COMPARED]))


def _sums(parts: Iterable[Points]) -> Points:
    sums: Points = {}
    for points in parts:
        for step, value in points.items():
            sums[step] = sums.get(step, 0.0) + value
    return dict(sorted(sums.items()))


def _merge(by_run: Mapping[str, Chart], looks: dict[str, Look]) -> Chart:
    first = next(iter(by_run.values()))
    series: dict[str, Points] = {}
    labels = list(dict.fromkeys(label for chart in by_run.values() for label in chart.series))
    for place, (name, chart) in enumerate(by_run.items()):
        for label, points in chart.series.items():
            key = SEPARATOR.join(part for part in (name, label) if part)
            series[key] = points
            looks[key] = Look(place, labels.index(label))
    return replace(first, series={key: points for key, points in series.items() if points} or series)
