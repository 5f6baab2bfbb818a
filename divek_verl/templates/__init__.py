"""The HTML templates, the one environment that fills them, and text from outside made safe to show.

Text from outside (files, servers, models) can hide nothing, and is never read as markup.
"""

import unicodedata
from collections.abc import Callable
from typing import Any

import jinja2
from rich.markup import escape

_LAYOUT = str.maketrans("", "", "\n\t")


def visible(text: str) -> str:
    """``text`` with the marks that turn or hide text (bidi, control, zero width) written as ``\\u202e``."""
    if text.translate(_LAYOUT).isprintable():  # nearly all texts, and a hundred times as fast
        return text
    return "".join(character if _is_plain(character) else _escape(character) for character in text)


def _is_plain(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def plain(text: str) -> str:
    """``visible`` text for where rich would read markup."""
    return escape(visible(text))


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
