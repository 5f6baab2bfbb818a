"""Where tables and sentences for people are printed."""

import sys

from rich.console import Console

# Wider than any table of ours: a pipe or a file gets one line for each row, and no word is cut.
_WIDE = 1000


def terminal() -> Console:
    """Standard output: as wide as the terminal, or so wide that nothing is broken where it is none."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, soft_wrap=not sys.stdout.isatty())
