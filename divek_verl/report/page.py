"""The page: the templates, filled with what the records say, in one file that loads nothing."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from divek_verl.report.charts import Chart, charts
from divek_verl.report.choosing import choose_examples
from divek_verl.report.confusions import confusions
from divek_verl.report.figures import figure
from divek_verl.report.pairs import OUTCOMES, image_pairs, outcomes
from divek_verl.report.problems import problems
from divek_verl.report.questions import describe
from divek_verl.report.reading import Run, read_run
from divek_verl.report.scores import MEASURES, final_table, validation_curves
from divek_verl.report.text import percent, points_changed, visible

REPORT_FILE = "report.html"


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


def render(run: Run) -> str:
    """The page."""
    environment = _environment()
    context = _results(run) | _curves(run) | _images(run) | _assets(environment)
    return environment.get_template("report.html.j2").render(context)


def _results(run: Run) -> dict[str, Any]:
    return {
        "run": run,
        "questions_recorded": run.has_questions,
        "images_validated": len(run.validation_visits),
        "table": final_table(run),
        "measures": MEASURES,
        "problems": problems(run),
    }


def _curves(run: Run) -> dict[str, Any]:
    drawn = charts(run)
    recorded = [chart for chart in drawn if chart.recorded]
    colours = {source: slot for slot, source in enumerate(validation_curves(run))}
    steps = _first_and_last_step(recorded)
    return {
        "charts": recorded,
        "figures": [figure(chart, colours, steps) for chart in recorded],
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
    }


def _assets(environment: jinja2.Environment) -> dict[str, Any]:
    """The style and the scripts; a script that is not one of these two, the browser does not run."""
    scripts = {"plotly": get_plotlyjs(), "own": _asset(environment, "charts.js")}
    return {
        "style": Markup(_asset(environment, "report.css")),
        "scripts": {name: Markup(script) for name, script in scripts.items()},
        "script_hashes": " ".join(f"'{csp_hash(script)}'" for script in scripts.values()),
        "plotly_megabytes": len(scripts["plotly"].encode()) / 1e6,
    }


def _asset(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def csp_hash(script: str) -> str:
    """``script`` as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


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
