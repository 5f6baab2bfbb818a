"""Results as one self-contained HTML page that runs no script and loads nothing."""

from pathlib import Path

from divek_verl.evaluation.measuring import MEANINGS, TITLES
from divek_verl.evaluation.results import Results
from divek_verl.files import write_aside
from divek_verl.templates import environment

TEMPLATE = "evaluation.html.j2"


def write_page(results: Results, path: Path) -> None:
    """Write the page."""
    write_aside(path, render(results))


def render(results: Results) -> str:
    """The page."""
    made = environment(
        share=lambda share: f"{100 * share:.1f}",
        points=lambda share: f"{100 * share:+.1f}".replace("-", "\u2212"),
    )
    shown = list(results.groups[0].averages)
    titles = {name: TITLES[name] for name in shown}
    return made.get_template(TEMPLATE).render(
        results=results, titles=titles, all_titles=TITLES, meanings=MEANINGS, kinds=("micro", "macro")
    )
