"""The HTML templates, the environment that renders them, and functions that make foreign text safe to show.

Text from files, servers and models is never read as markup, and cannot hide or reorder what stands beside it.
"""

import csv
import unicodedata
from collections.abc import Callable
from importlib.resources import files

import jinja2
from rich.markup import escape

LABEL_CHARACTERS = 120
_LINE_BREAKS_AND_TABS = str.maketrans("", "", "\n\t")
_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")


def visible(text: str) -> str:
    """``text`` with invisible characters (bidi marks, control characters, zero width) written as ``\\u202e``."""
    if text.translate(_LINE_BREAKS_AND_TABS).isprintable():  # true of nearly all texts, and 100 times as fast
        return text
    return "".join(
        character.encode("unicode_escape", "surrogatepass").decode("ascii")
        if character not in "\n\t" and unicodedata.category(character) in _HIDDEN_CATEGORIES
        else character
        for character in text
    )


def plain(text: str) -> str:
    """``visible`` text, escaped for rich, which would read markup in it."""
    return escape(visible(text))


def shorten(text: str, characters: int) -> str:
    """``text``, or its beginning and an ellipsis."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of a table that lies beside the templates."""
    return list(csv.DictReader((files(__name__) / name).read_text(encoding="utf-8").splitlines()))


def label(name: str) -> str:
    """A name as the scripts of a page get it: visible, and not too long."""
    return visible(shorten(name, LABEL_CHARACTERS))


def environment(**filters: Callable[..., str]) -> jinja2.Environment:
    """The templates of the package. Every value is escaped, and its invisible characters are made visible."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("divek_verl"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    templates.filters |= filters
    return templates
