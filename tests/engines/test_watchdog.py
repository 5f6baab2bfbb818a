"""What an engine started ends with the process that started it, even with SIGKILL."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from divek_verl.engines.watchdog import end, redirected, running_children, start_watchdog, starting

STARTS_A_CHILD = """
import subprocess, sys, time
from divek_verl.engines.watchdog import start_watchdog
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
watchdog = start_watchdog()
print(child.pid, watchdog.pid, flush=True)
time.sleep(600)
"""


def wait_until_gone(pids: list[int], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.1)


def test_a_killed_process_takes_its_children_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS_A_CHILD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert all(map(psutil.pid_exists, pids))
        process.kill()
        process.wait()
        wait_until_gone(pids)


def test_what_was_begun_ends_when_the_start_is_stopped() -> None:
    with pytest.raises(KeyboardInterrupt), starting():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    assert child.wait(timeout=30) == -signal.SIGKILL


def test_messages_of_this_process_and_of_those_it_starts_go_elsewhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    print("before", flush=True)
    with open(tmp_path / "log", "w") as file, redirected(file.fileno(), 1, 2):
        subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
        os.write(2, b"own\n")
    print("after", flush=True)
    assert capfd.readouterr() == ("before\nafter\n", "")
    assert (tmp_path / "log").read_text() == "of a child\nown\n"


def test_what_another_engine_has_started_is_let_alone() -> None:
    """Two engines in one process: the end of one is not the end of the other."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        others = running_children()
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as own:
            start_watchdog(others).communicate()
            own.wait(timeout=30)
        assert other.poll() is None
        other.kill()


def test_a_number_that_belongs_to_another_process_by_now_is_let_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        end([f"{process.pid}:1.0", "999999999:1.0"])
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
        process.kill()
