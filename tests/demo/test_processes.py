"""A run leaves no process behind, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from divek_verl.demo.processes import marked, running

# A command with a child in its own session that ignores SIGTERM.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
     "print('deaf', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE, start_new_session=True,
)
child.stdout.readline()
print(child.pid, flush=True)
{then}
"""
WAITS = PARENT.format(then="time.sleep(600)")
ENDS = PARENT.format(then="")


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divek_verl.demo.processes.SECONDS_TO_END", 1.5)


def grandchild(log: Path) -> psutil.Process:
    """The detached process, once the command has written its number."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if log.is_file() and log.read_text().endswith("\n"):
            return psutil.Process(int(log.read_text().split()[-1]))
        time.sleep(0.05)
    raise AssertionError("the command did not start")


def is_gone(process: psutil.Process) -> bool:
    # An ended process that nobody has waited for stays as a zombie.
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_leaving_ends_all_processes(tmp_path: Path) -> None:
    with running([sys.executable, "-c", WAITS], tmp_path / "log", {}) as process:
        other = grandchild(tmp_path / "log")
        assert os.getsid(other.pid) not in (os.getsid(0), os.getsid(process.pid))
        assert not is_gone(other)
    assert process.poll() is not None
    assert is_gone(other)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interruption_ends_all_processes(tmp_path: Path, interruption: type[BaseException]) -> None:
    with pytest.raises(interruption), running([sys.executable, "-c", WAITS], tmp_path / "log", {}) as process:
        other = grandchild(tmp_path / "log")
        raise interruption
    assert process.poll() is not None
    assert is_gone(other)


def test_a_process_that_outlives_the_command_is_ended_too(tmp_path: Path) -> None:
    with running([sys.executable, "-c", ENDS], tmp_path / "log", {}) as process:
        other = grandchild(tmp_path / "log")
        assert process.wait(timeout=60) == 0
        assert not is_gone(other)
    assert is_gone(other)


def test_a_command_that_ended_by_itself_keeps_its_status(tmp_path: Path) -> None:
    with running([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", {}) as process:
        process.wait(timeout=60)
    assert process.returncode == 3


def test_the_command_is_first_asked_to_stop(tmp_path: Path) -> None:
    """verl and Ray shut down in order on Ctrl-C."""
    script = (
        "import time\ntry:\n    print('ready 0', flush=True)\n    time.sleep(600)\n"
        "except KeyboardInterrupt:\n    print('in order', flush=True)"
    )
    log = tmp_path / "log"
    with running([sys.executable, "-c", script], log, {}):
        while not log.read_text().startswith("ready"):
            time.sleep(0.05)
    assert log.read_text() == "ready 0\nin order\n"


def test_the_log_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log"
    script = "import os, sys; print(os.environ['DIVEK_TEST']); print('error', file=sys.stderr)"
    for value in ("first", "second"):
        with running([sys.executable, "-u", "-c", script], log, {"DIVEK_TEST": value}) as process:
            process.wait(timeout=60)
    assert log.read_text() == "first\nerror\nsecond\nerror\n"


def test_other_runs_are_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with running([sys.executable, "-c", WAITS], tmp_path / "one", {}):
            grandchild(tmp_path / "one")
            with running([sys.executable, "-c", WAITS], tmp_path / "two", {}):
                grandchild(tmp_path / "two")
            assert not is_gone(grandchild(tmp_path / "one"))
        assert bystander.poll() is None
        assert marked("no such run") == []
    finally:
        bystander.kill()
        bystander.wait()


def test_a_sigterm_to_us_unwinds_like_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), running([sys.executable, "-c", WAITS], tmp_path / "log", {}) as process:
        other = grandchild(tmp_path / "log")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    assert process.poll() is not None
    assert is_gone(other)
