"""An engine's processes: where their messages go, and how they end when this process is stopped or killed.

vLLM's own would wait for a killed process for ever.

Run as a script, it gets ``pid:start time`` of each process, and waits for the end of its standard input, which comes
when the other end of the pipe dies or closes it.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import psutil


def running_children() -> set[psutil.Process]:
    """All descendants of this process."""
    return set(psutil.Process().children(recursive=True))


@contextmanager
def redirected(target: int, *streams: int) -> Iterator[None]:
    """Send what is written to the file descriptors ``streams`` to ``target``; processes started inside keep to that."""
    kept = {stream: os.dup(stream) for stream in streams}
    _flush()
    try:
        for stream in streams:
            os.dup2(target, stream)
        yield
    finally:
        _flush()
        for stream, copy in kept.items():
            os.dup2(copy, stream)
            os.close(copy)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def end_children(others: Collection[psutil.Process] = ()) -> None:
    """Kill all descendants of this process except ``others``."""
    end(_names(others))


class _Stopped(BaseException):
    """Ctrl-C while an engine starts: vLLM 0.28 swallows a KeyboardInterrupt there (zmq_socket_ctx), and waits on."""


def _stop(*_: object) -> None:
    raise _Stopped


@contextmanager
def starting() -> Iterator[set[psutil.Process]]:
    """Ctrl-C or `kill` raises KeyboardInterrupt at once, where asyncio would wait for the next ``await``.

    Yields the descendants of this process that were there before; after any exception, those begun since then end.
    """
    others = running_children()
    numbers = [signal.SIGINT]
    if signal.getsignal(signal.SIGTERM) is signal.default_int_handler:  # as ``divek`` sets it
        numbers.append(signal.SIGTERM)
    # Only the main thread may set handlers.
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, _stop) for number in numbers} if main else {}
    try:
        yield others
    except BaseException as error:
        end_children(others)
        if isinstance(error, _Stopped):
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_watchdog(others: Collection[psutil.Process] = ()) -> subprocess.Popen[bytes]:
    """Watch over all descendants of this process so far except ``others``; they end when its ``stdin`` is closed.

    Call it after the engine is up, so that none of the engine's processes inherits the pipe.
    """
    # In a session of its own, so that Ctrl-C does not reach it.
    return subprocess.Popen([sys.executable, __file__, *_names(others)], stdin=subprocess.PIPE, start_new_session=True)


def _names(others: Collection[psutil.Process]) -> list[str]:
    """``pid:start time`` of each descendant of this process but ``others``."""
    # The tracker of shared memory ends by itself, after it has cleaned up behind the other processes.
    started = [child for child in running_children().difference(others) if not _is_tracker(child)]
    return [f"{child.pid}:{child.create_time()}" for child in started]


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in part for part in process.cmdline())
    except psutil.Error:
        return False


def end(names: Iterable[str]) -> None:
    """Kill the named processes that still run, but no other process that has got one of their numbers since."""
    for name in names:
        pid, _, started = name.partition(":")
        try:
            process = psutil.Process(int(pid))
            if process.create_time() == float(started):
                process.kill()
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1:])
