"""Several runs on one page: their names, curves in one chart, final tables in one, and what they differ by."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.evaluation.results import Difference
from divek_verl.evaluation.statistics import differences, with_holm
from divek_verl.intervals import RESAMPLES
from divek_verl.measures import MEASURES
from divek_verl.report.charts import Chart, LineStyle, charts
from divek_verl.report.reading import Points, Run
from divek_verl.report.validation import ScoreRow, final_table, source_order, validation_curves

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


def compared_tables(runs: Mapping[str, Run]) -> dict[str, dict[str, ScoreRow]]:
    """Data source -> run name -> its row of the final table, for the runs that validated on it."""
    tables: dict[str, dict[str, ScoreRow]] = {}
    for name, run in runs.items():
        for row in final_table(run):
            tables.setdefault(row.source, {})[name] = row
    return dict(sorted(tables.items(), key=lambda item: source_order(item[0])))


def paired_differences(runs: Mapping[str, Run]) -> dict[str, dict[str, dict[str, Difference]]]:
    """Data source or mean -> run name -> measure -> its difference to the first run, on the images that both have.

    Each run counts with its last validation. The p-values are corrected for the whole table (Holm).
    """
    first, *others = runs
    same, last = (
        [(measure, measure) for measure in MEASURES],
        {name: _last_validation(run) for name, run in runs.items()},
    )
    found = [
        (name, each)
        for name in others
        for each in differences([last[first]], [last[name]], same, seed=0, resamples=RESAMPLES)
    ]
    table: dict[str, dict[str, dict[str, Difference]]] = {}
    for (name, _), each in zip(found, with_holm([each for _, each in found]), strict=True):
        table.setdefault(each.data_source, {}).setdefault(name, {})[each.measure] = each
    return table


def _last_validation(run: Run) -> list[EvaluationRecord]:
    """The records of the last validation of each data source; the rollouts of an image count as their mean."""
    return [
        EvaluationRecord(**vars(record), two_step=record.accuracy)
        for steps in run.validation.values()
        for record in steps[max(steps)].values()
    ]


def compared_charts(runs: Mapping[str, Run]) -> tuple[list[Chart], dict[str, LineStyle]]:
    """The charts of all runs over each other, and the style of each curve: a colour per run, a dash per series.

    A single run has a colour and a dash for each data source, in all charts.
    """
    if len(runs) == 1:
        (run,) = runs.values()
        return charts(run), {source: LineStyle(index, index) for index, source in enumerate(validation_curves(run))}
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
        return replace(
            chart, kind="number", series={"": total}, note="Images without a question. Healthy: few but the easy ones."
        )
    if chart.by_source:
        return chart
    return replace(chart, series=dict(list(chart.series.items())[:METRICS_COMPARED]))
