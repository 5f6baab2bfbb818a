"""Ends an engine's processes when the process that started them is killed: vLLM's own would wait for it for ever.

Run as a script, it gets ``pid:start time`` of each process, and waits for the end of its standard input, which comes
when the other end of the pipe dies or closes it.
"""

import subprocess
import sys
from collections.abc import Collection, Iterable

import psutil


def running_children() -> set[psutil.Process]:
    """All descendants of this process."""
    return set(psutil.Process().children(recursive=True))


def start_watchdog(others: Collection[psutil.Process] = ()) -> subprocess.Popen[bytes]:
    """Watch over all descendants of this process so far except ``others``; they end when its ``stdin`` is closed.

    Call it after the engine is up, so that none of the engine's processes inherits the pipe.
    """
    # The tracker of shared memory ends by itself, after it has cleaned up behind the other processes.
    started = [child for child in running_children().difference(others) if not _is_tracker(child)]
    names = [f"{child.pid}:{child.create_time()}" for child in started]
    # In a session of its own, so that Ctrl-C does not reach it.
    return subprocess.Popen([sys.executable, __file__, *names], stdin=subprocess.PIPE, start_new_session=True)


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
