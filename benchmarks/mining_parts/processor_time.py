"""Where the processor's time goes in a run of many processes."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

SECONDS_BETWEEN_LOOKS = 0.5


def seconds_by_process(processes: list[psutil.Process]) -> Counter[str]:
    """Processor seconds so far, by the name that a process goes by."""
    seconds: Counter[str] = Counter()
    for process in processes:
        try:
            times, words = process.cpu_times(), process.cmdline()
        except psutil.Error:
            continue
        # One that has ended, and is not yet waited for, has no words left.
        if words and words[0]:
            seconds[Path(words[0]).name.split(".")[0]] += times.user + times.system
    return seconds


class Watch:
    """Processor seconds by process, from ``start``'s first yes to the last look.

    Args:
        processes: gives those to look at.
        start: whether the time that counts has begun.
    """

    def __init__(self, processes: Callable[[], list[psutil.Process]], start: Callable[[], bool]) -> None:
        self._processes, self._start = processes, start
        self._first: Counter[str] | None = None
        self._last: Counter[str] = Counter()

    @property
    def used(self) -> dict[str, float]:
        first = self._first or Counter()
        return {name: seconds - first[name] for name, seconds in self._last.items() if seconds > first[name]}

    @contextmanager
    def looking(self) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _look(self, ended: threading.Event) -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            if self._first is None and not self._start():
                continue
            seconds = seconds_by_process(self._processes())
            if self._first is None:
                self._first = seconds
            # A process that ended keeps what it had used.
            self._last |= seconds
