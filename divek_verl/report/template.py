"""The templates, and what every page carries with it: its style, its scripts, and the policy that allows no others."""

import base64
import functools
import hashlib
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from divek_verl.report.text import percent, points_changed
from divek_verl.templates import environment

OWN_SCRIPTS = ("charts.js", "browser.js")


def fill(template: str, context: dict[str, Any]) -> str:
    """The page of ``template``."""
    made = environment(percent=percent, points=points_changed)
    return made.get_template(template).render(context | _assets(made))


@functools.cache
def plotly() -> str:
    """plotly.js, as it lies in the plotly package."""
    return get_plotlyjs()


def csp_hash(script: str) -> str:
    """``script`` as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _assets(made: jinja2.Environment) -> dict[str, Any]:
    """The style and the scripts; a script that is not one of these, the browser does not run."""
    scripts = [plotly(), *(_asset(made, name) for name in OWN_SCRIPTS)]
    return {
        "style": Markup(_asset(made, "report.css")),
        "scripts": [Markup(script) for script in scripts],
        "script_hashes": " ".join(f"'{csp_hash(script)}'" for script in scripts),
        "plotly_megabytes": len(scripts[0].encode()) / 1e6,
    }


def _asset(made: jinja2.Environment, name: str) -> str:
    assert made.loader is not None
    return made.loader.get_source(made, name)[0]
