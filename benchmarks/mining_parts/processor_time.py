"""Where the processor's time goes in a run of many processes."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

SECONDS_BETWEEN_LOOKS = 0.5


def seconds_by_process(processes: list[psutil.Process]) -> dict[int, tuple[str, float]]:
    """Process id -> the name that it goes by, and its processor seconds so far."""
    seconds = {}
    for process in processes:
        try:
            times, words = process.cpu_times(), process.cmdline()
        except psutil.Error:
            continue
        # One that has ended, and is not yet waited for, has no words left.
        if words and words[0]:
            seconds[process.pid] = (Path(words[0]).name.split(".")[0], times.user + times.system)
    return seconds


class Watch:
    """Processor seconds by process, from ``start``'s first yes to the last look.

    Args:
        processes: gives those to look at.
        start: whether the time that counts has begun.
    """

    def __init__(self, processes: Callable[[], list[psutil.Process]], start: Callable[[], bool]) -> None:
        self._processes, self._start = processes, start
        self._first: dict[int, tuple[str, float]] | None = None
        self._last: dict[int, tuple[str, float]] = {}

    @property
    def used(self) -> dict[str, float]:
        """By name; a process of Ray's has two (of its class, and of the class that names the running method)."""
        used: Counter[str] = Counter()
        for pid, (name, seconds) in self._last.items():
            name, before = (self._first or {}).get(pid, (name, 0.0))
            used[name] += seconds - before
        return dict(+used)

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
