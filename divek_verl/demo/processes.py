"""Runs a training command so that nothing of it is left behind, however it ends.

verl starts Ray, and Ray and vLLM start processes of their own, some in sessions of their own. All inherit one
variable of the environment, by which they are found again.
"""

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

MARK = "DIVEK_RUN_ID"
SECONDS_TO_END = 15.0


@contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """The started command, its output going to ``log``; on leaving, it and all that it started are ended."""
    mark = uuid.uuid4().hex
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        with _interruptible():
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment, MARK: mark},
                # Ctrl-C reaches us alone; we then end the run in order.
                start_new_session=True,
            )
        try:
            with _ended_in_order():
                yield process
        finally:
            with _undisturbed():
                end_all(mark, process)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let what is started here end at Ctrl-C, even where we were started to ignore it (in a script's background)."""
    if not _in_main_thread() or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let a SIGTERM (``kill``, a CI that times out) unwind like Ctrl-C does, so that the run is cleaned up."""
    if not _in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep a second Ctrl-C from interrupting the clean-up that the first one asked for."""
    if not _in_main_thread():
        yield
        return
    before = [(each, signal.signal(each, signal.SIG_IGN)) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for each, handler in before:
            signal.signal(each, handler)


def marked(mark: str) -> list[psutil.Process]:
    """All processes of this user that carry ``mark`` in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def end_all(mark: str, process: subprocess.Popen) -> None:
    """Ask the command to stop, then end whatever of its processes is still there."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        _wait(process, SECONDS_TO_END)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        left = marked(mark)
        for other in left:
            _ignore_missing(end, other)
        psutil.wait_procs(left, timeout=SECONDS_TO_END / 3)
    _wait(process, SECONDS_TO_END)


def _ignore_missing(end, process: psutil.Process) -> None:
    try:
        end(process)
    except psutil.NoSuchProcess:
        return


def _wait(process: subprocess.Popen, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
