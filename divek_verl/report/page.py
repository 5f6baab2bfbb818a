"""The page of one run and the page of several runs, each one file that loads nothing."""

import base64
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from divek_verl.errors import SetupError
from divek_verl.files import write_aside
from divek_verl.measures import MEASURES
from divek_verl.records import sentence_of
from divek_verl.report.browser import browser
from divek_verl.report.charts import figure
from divek_verl.report.comparison import compared_charts, compared_tables, name_runs, paired_differences
from divek_verl.report.confusions import confusions, matrices
from divek_verl.report.diagnosis import findings, panels
from divek_verl.report.examples import answer_bars, choose_examples, picture_of
from divek_verl.report.reading import Run, read_run
from divek_verl.report.validation import OUTCOMES, heading, image_pairs, is_right, outcomes
from divek_verl.templates import environment

REPORT_FILE, COMPARISON_FILE = "report.html", "comparison.html"
# Mail and chat programs still accept this much, with a margin.
PAGE_BYTES = 14_500_000
# Reserved in it for tables, examples, style and the page's own scripts.
TABLE_BYTES = 600_000
# A file of 5 MB, which is read once.
plotly_js = functools.cache(get_plotlyjs)


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page to ``out``, by default the run's ``report.html``; a SetupError if there are no records."""
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    return _write(render({run.name: run}), Path(out) if out is not None else run_dir / REPORT_FILE)


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about several runs to ``out``, by default ``comparison.html`` of the first."""
    folders = [Path(folder) for folder in run_dirs]
    for folder in folders:
        if sum(other.resolve() == folder.resolve() for other in folders) > 1:
            raise SetupError(f"{folder} is named twice: give each run once.")
    runs = dict(zip(name_runs(folders), map(read_run, folders), strict=True))
    return _write(render(runs), Path(out) if out is not None else folders[0] / COMPARISON_FILE)


def _write(page: str, target: Path) -> Path:
    try:
        write_aside(target, page)
    except OSError as error:
        raise SetupError(f"{target} cannot be written ({error.strerror}): name another file with --out.") from None
    return target


def render(runs: Mapping[str, Run]) -> str:
    """The page of one run, or of several; the question browser gets the bytes that plotly.js and the charts leave."""
    pairs = {name: image_pairs(run) for name, run in runs.items()}
    drawn, styles = compared_charts(runs)
    recorded = [chart for chart in drawn if chart.recorded]
    plotted = [chart for chart in recorded if not chart.flat]
    steps = [step for chart in recorded for points in chart.series.values() for step in points]
    figures = [figure(chart, styles, (min(steps, default=0), max(steps, default=0))) for chart in plotted]
    templates = environment(percent=percent, points=points_changed, heading=heading, duration=duration)
    assert templates.loader is not None
    names = ("report.css", "charts.js", "browser.js")
    style, *own_scripts = (templates.loader.get_source(templates, name)[0] for name in names)
    scripts = [plotly_js(), *own_scripts]
    room = PAGE_BYTES - TABLE_BYTES - len(scripts[0].encode()) - len(json.dumps(figures))
    first = next(iter(pairs.values()))
    return templates.get_template("report.html.j2").render(
        runs=runs,
        findings={name: findings(run) for name, run in runs.items()},
        measures=MEASURES,
        tables=compared_tables(runs),
        differences=paired_differences(runs),
        charts=plotted,
        flat=[chart for chart in recorded if chart.flat],
        unrecorded=[chart for chart in drawn if not chart.recorded],
        figures=figures,
        panels=panels(runs),
        # Of several runs, the table of questions shows these.
        examples=[(pair, picture_of(pair)) for pair in choose_examples(first)] if len(runs) == 1 else [],
        answer_bars=answer_bars,
        is_right=is_right,
        outcomes=outcomes(first),
        outcome_names=OUTCOMES,
        confusions=confusions(first),
        compared=any(pair.after is not None for pair in first),
        matrices=[matrix for name in runs for matrix in matrices(name, pairs[name])],
        problems={name: problems(run) for name, run in runs.items()},
        browser=browser(runs, room),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        script_hashes=" ".join(f"'{csp_hash(script)}'" for script in scripts),
        plotly_megabytes=len(scripts[0].encode()) / 1e6,
    )


def csp_hash(script: str) -> str:
    """``script`` as a content security policy names it; a browser runs no script that the policy does not name."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{seconds / 60:.1f} min"


def points_changed(change: float | None) -> str:
    """Percentage points with a sign; a change that rounds to 0 is written as ±0.0."""
    if change is None:
        return "–"
    rounded = round(100 * change, 1)
    return "±0.0" if rounded == 0 else f"{'+' if rounded > 0 else '−'}{abs(rounded):.1f}"


@dataclass(frozen=True)
class Problem:
    """Counts of one reason; None where that part of the records is missing."""

    kind: str
    reason: str
    training: int | None
    validation: int | None

    @property
    def sentence(self) -> str:
        return sentence_of(self.reason)


def problems(run: Run) -> list[Problem]:
    """Skips and failures by reason, from the questions or, without them, from the training metrics."""
    if not run.has_questions:
        return [
            Problem(kind, reason, round(sum(points.values())), None)
            for kind, prefix in (("no question", "divek/skips/"), ("rollout failed", "divek/rollout_failures/"))
            for reason, points in run.series_by_reason(prefix).items()
        ]
    counts: list[Counter[tuple[str, str]]] = []
    for records in (run.training, run.validation_records):
        found: Counter[tuple[str, str]] = Counter()
        for record in records:
            found.update({("rollout failed", reason): count for reason, count in record.rollout_failures.items()})
            found.update([("skipped", record.skip)] if record.skip else [])
            found.update([("image failed", record.failure)] if record.failure else [])
        counts.append(found)
    training, validation = counts
    total = training + validation
    ranked = sorted(total, key=lambda key: (-total[key], key))
    return [Problem(*key, training[key], validation[key]) for key in ranked]
