"""The console that commands print on, and their exit status after Ctrl-C."""

import sys

from rich.console import Console

STOPPED = 130
# Wider than our tables, so that a row stays on one line and no word is cut.
_WIDE = 1000


def terminal() -> Console:
    """Standard output, with the width of its terminal; ``_WIDE`` for a pipe or a file."""
    on_terminal = sys.stdout.isatty()
    return Console(width=None if on_terminal else _WIDE, soft_wrap=not on_terminal)
