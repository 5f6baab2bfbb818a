"""Ends an engine's processes when the one that started them is killed: vLLM's own would wait for it for ever.

Run as a script, it is given ``pid:start time`` of each, and waits for the end of its standard input, which comes when
the other end of the pipe dies or closes it.
"""

import subprocess
import sys
from collections.abc import Collection, Iterable

import psutil


def running_children() -> set[psutil.Process]:
    """The processes that this one has started, and theirs."""
    return set(psutil.Process().children(recursive=True))


def start_watchdog(others: Collection[psutil.Process] = ()) -> subprocess.Popen[bytes]:
    """Watch over all processes that this one has started so far, except ``others``, which were there before.

    They are ended once its ``stdin`` is closed. To be called after the engine is up, so that none of its processes
    inherits the pipe.
    """
    # The tracker of shared memory ends by itself, after it has cleaned up behind the others.
    started = [child for child in running_children().difference(others) if not _is_tracker(child)]
    names = [f"{child.pid}:{child.create_time()}" for child in started]
    # A session of its own, because Ctrl-C is not meant for it.
    return subprocess.Popen([sys.executable, __file__, *names], stdin=subprocess.PIPE, start_new_session=True)


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in part for part in process.cmdline())
    except psutil.Error:
        return False


def end(names: Iterable[str]) -> None:
    """Kill what is left of the named processes; a number that now belongs to another process is let alone."""
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
