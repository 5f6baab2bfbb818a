"""Text from files, servers and models on a terminal: it can neither speak to the terminal nor be read as markup."""

from rich.markup import escape


def visible(text: str) -> str:
    """``text`` with control, bidi and other hidden marks written out."""
    from divek_verl.report.text import visible as written_out

    return written_out(text)


def plain(text: str) -> str:
    """``visible`` text for where rich would read markup."""
    return escape(visible(text))
