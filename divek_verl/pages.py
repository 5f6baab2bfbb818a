"""The one environment in which every HTML page is filled: text from outside can be nothing but text in it."""

from collections.abc import Callable
from typing import Any

import jinja2

from divek_verl.visible_text import visible


def environment(**filters: Callable[[Any], str]) -> jinja2.Environment:
    """The package's templates with autoescaping; marks that turn or hide text are written out before it is printed."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("divek_verl"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    made.filters |= filters
    return made
