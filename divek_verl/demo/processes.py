"""Runs a training command and ends all of its processes, however it ends.

verl starts Ray, and Ray and vLLM start processes, some in their own sessions. All inherit one environment variable,
by which they are found again.
"""

import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MARK = "DIVEK_RUN_ID"
SECONDS_TO_END = 15.0


@contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command with its output in ``log``; on leaving, end it and every process that it started."""
    mark = uuid.uuid4().hex
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        # A script's background jobs ignore Ctrl-C; a process started here must not inherit that.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with _handlers({signal.SIGINT: signal.SIG_DFL} if ignored else {}):
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment, MARK: mark},
                # Ctrl-C reaches this process only, which then ends the run in order.
                start_new_session=True,
            )
        try:
            # SIGTERM (`kill`, a CI job that times out) unwinds like Ctrl-C, so that the run is cleaned up.
            with _handlers({signal.SIGTERM: signal.default_int_handler}):
                yield process
        finally:
            # A second Ctrl-C must not interrupt the clean-up.
            with _handlers({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
                end_all(mark, process)


@contextmanager
def _handlers(wanted: Mapping[signal.Signals, int | Callable[..., object]]) -> Iterator[None]:
    """Set signal handlers and restore them afterwards; only the main thread may, others change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, handler) for each, handler in wanted.items()}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def marked(mark: str) -> list[psutil.Process]:
    """All processes of this user that carry ``mark`` in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def end_all(mark: str, process: subprocess.Popen[bytes]) -> None:
    """Ask the command to stop, then end those of its processes that are left."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        left = marked(mark)
        for other in left:
            with suppress(psutil.NoSuchProcess):
                end(other)
        psutil.wait_procs(left, timeout=SECONDS_TO_END / 3)
    with suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_END)
