"""Progress bars: tqdm's on a terminal, at most one line every ten seconds anywhere else."""

import sys
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class _Lines(tqdm):
    """Writes whole lines, for logs and pipes, which cannot draw over a line."""

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        last = ""

        def write(status: str) -> None:
            nonlocal last
            # Cleared, or closed right after its last line.
            if status in ("", last):
                return
            # tqdm itself ends the last line when the bar is closed.
            print(f"\n{status}" if last else status, end="", file=file, flush=True)
            last = status

        return write

    def refresh(self, *args: object, **options: object) -> None:
        # Called between two updates too, as by `tqdm.write`; there is no last line before the first one.
        if self._time() - getattr(self, "last_print_t", float("-inf")) >= self.mininterval:
            super().refresh(*args, **options)
            # tqdm's monitor thread refreshes too; the next update has to wait as long after that.
            self.last_print_n, self.last_print_t = self.n, self._time()


def progress(*args: object, **options: object) -> tqdm:
    """``tqdm(*args, **options)`` for standard error, whatever that is."""
    if sys.stderr.isatty():
        return tqdm(*args, **options)
    return _Lines(*args, **{**options, "mininterval": SECONDS_BETWEEN_LINES})
