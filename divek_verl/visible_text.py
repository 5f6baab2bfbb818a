"""Text from files, servers and models, for a page or a terminal: it can hide nothing, and is not read as markup."""

import unicodedata

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
