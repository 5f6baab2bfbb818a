"""The page of a run and the page of several, each in one file that loads nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from divek_verl.errors import SetupError
from divek_verl.files import write_aside
from divek_verl.report.browser import browser
from divek_verl.report.charts import Chart, charts
from divek_verl.report.choosing import choose_examples
from divek_verl.report.comparison import compared_charts, compared_tables, name_runs
from divek_verl.report.confusions import confusions
from divek_verl.report.figures import Look, figure
from divek_verl.report.matrix import matrices
from divek_verl.report.pairs import OUTCOMES, image_pairs, outcomes
from divek_verl.report.problems import problems
from divek_verl.report.questions import describe
from divek_verl.report.reading import Run, read_run
from divek_verl.report.scores import MEASURES, final_table, validation_curves
from divek_verl.report.template import fill, plotly

REPORT_FILE, COMPARISON_FILE = "report.html", "comparison.html"
# Of a page: what mail and chat programs still take, with a margin.
PAGE_BYTES = 14_500_000
# Of it, tables, examples, style and own scripts.
TABLE_BYTES = 600_000


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of ``run_dir`` to ``out``, by default its ``report.html``, and return the path.

    Raises:
        SetupError: where the directory holds no records.
    """
    run_dir = Path(run_dir)
    return _write(render(read_run(run_dir)), Path(out) if out is not None else run_dir / REPORT_FILE)


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page on several runs to ``out``, by default ``comparison.html`` of the first, and return the path.

    Raises:
        SetupError: where one of the directories holds no records, or is named twice.
    """
    folders = [Path(folder) for folder in run_dirs]
    for folder in folders:
        if sum(other.resolve() == folder.resolve() for other in folders) > 1:
            raise SetupError(f"{folder} is named twice: give each run once.")
    runs = dict(zip(name_runs(folders), map(read_run, folders), strict=True))
    return _write(render_comparison(runs), Path(out) if out is not None else folders[0] / COMPARISON_FILE)


def _write(page: str, target: Path) -> Path:
    try:
        # Aside and renamed, so that a reader never sees half a page.
        write_aside(target, page)
    except OSError as error:
        raise SetupError(f"{target} cannot be written ({error.strerror}): name another file with --out.") from None
    return target


def render(run: Run) -> str:
    """The page of one run."""
    looks = {source: Look(slot, slot) for slot, source in enumerate(validation_curves(run))}
    context = _results(run) | _curves(charts(run), looks) | _images(run)
    return _fill("report.html.j2", {run.name: run}, context)


def render_comparison(runs: Mapping[str, Run]) -> str:
    """The page of several runs, by the names that they have on it."""
    pairs = {name: image_pairs(run) for name, run in runs.items()}
    context = {
        "runs": runs,
        "tables": compared_tables(runs),
        "measures": MEASURES,
        "matrices": [matrix for name in runs for matrix in matrices(name, pairs[name])],
        "problems": {name: problems(run) for name, run in runs.items()},
    }
    return _fill("comparison.html.j2", runs, context | _curves(*compared_charts(runs)))


def _fill(template: str, runs: Mapping[str, Run], context: dict[str, Any]) -> str:
    """The page with the question browser in the room that plotly.js and the charts leave."""
    used = len(plotly().encode()) + len(json.dumps(context["figures"])) + TABLE_BYTES
    return fill(template, context | {"browser": browser(runs, PAGE_BYTES - used)})


def _results(run: Run) -> dict[str, Any]:
    return {
        "run": run,
        "questions_recorded": run.has_questions,
        "images_validated": len(run.validation_visits),
        "table": final_table(run),
        "measures": MEASURES,
        "problems": problems(run),
    }


def _curves(drawn: Sequence[Chart], looks: Mapping[str, Look]) -> dict[str, Any]:
    recorded = [chart for chart in drawn if chart.recorded]
    steps = _first_and_last_step(recorded)
    return {
        "charts": recorded,
        "figures": [figure(chart, looks, steps) for chart in recorded],
        "unrecorded": [chart for chart in drawn if not chart.recorded],
    }


def _first_and_last_step(recorded: Sequence[Chart]) -> tuple[int, int]:
    steps = [step for chart in recorded for points in chart.series.values() for step in points]
    return min(steps, default=0), max(steps, default=0)


def _images(run: Run) -> dict[str, Any]:
    pairs = image_pairs(run)
    return {
        "pairs": pairs,
        "examples": [describe(pair) for pair in choose_examples(pairs)],
        "outcomes": outcomes(pairs),
        "outcome_names": OUTCOMES,
        "confusions": confusions(pairs),
        "matrices": matrices(run.name, pairs),
    }
