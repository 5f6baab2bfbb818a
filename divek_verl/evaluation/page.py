"""Results as one self-contained HTML page that runs no script and loads nothing."""

from pathlib import Path

import jinja2

from divek_verl.evaluation.measuring import MEANINGS, TITLES
from divek_verl.evaluation.results import Results
from divek_verl.json_lines import write_aside

TEMPLATE = "evaluation.html.j2"


def write_page(results: Results, path: Path) -> None:
    """Write the page."""
    write_aside(path, render(results))


def render(results: Results) -> str:
    """The page."""
    from divek_verl.report.text import visible

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("divek_verl"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names and details come from files and models: what would turn or hide text is written out.
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters["share"] = lambda share: f"{100 * share:.1f}"
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}".replace("-", "\u2212")
    shown = list(results.groups[0].averages)
    titles = {name: TITLES[name] for name in shown}
    return environment.get_template(TEMPLATE).render(
        results=results, titles=titles, all_titles=TITLES, meanings=MEANINGS, kinds=("micro", "macro")
    )
