"""Two failures that are really made: an engine that stops answering while it mines, and a worker killed in mining."""

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from verl_runs import SAMPLES, command, make_model, mark_of, prepare, wait_until

from divek_verl.demo.processes import marked, running
from divek_verl.demo.run import environment, read_metrics
from divek_verl.files import read_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TIMEOUT = 5
# Far longer than noticing a dead worker takes; the run's own stall timeout is longer still.
SECONDS_TO_NOTICE = 180


class Outcome:
    """What the run said and left behind."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        self.status: int | None = None
        self.steps_before_the_hang = self.steps_after_the_hang = 0

    @property
    def visits(self) -> list[dict]:
        return read_lines(self.folder / "questions.jsonl")[0]

    @property
    def steps(self) -> int:
        return max(read_metrics(self.folder), default=0)

    def timed_out(self) -> list[dict]:
        return [visit for visit in self.visits if visit["failure"] == "mining_timeout"]


def named(mark: str, name: str) -> psutil.Process:
    """The one process of the run that calls itself so."""
    return next(process for process in marked(mark) if process.cmdline() and name in " ".join(process.cmdline()))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    home = tmp_path_factory.mktemp("failures")
    prepare(home / "data")
    make_model(home / "model")
    found = Outcome(home / "run", home / "run.log")
    changes: dict[str, Any] = {
        "trainer__total_training_steps": 1000,
        "trainer__save_freq": -1,
        "divek__mining_timeout": TIMEOUT,
        "divek__rollout_timeout": TIMEOUT,
        "divek__max_refills_per_step": 1000,
    }
    with running(command(home / "data", home / "model", found.folder, **changes), found.log, environment()) as process:
        wait_until(lambda: found.steps >= 2, process, found.log, "two steps were done")
        mark = mark_of(process)
        engine = named(mark, "VLLM::EngineCore")
        engine.suspend()
        try:
            wait_until(lambda: len(found.timed_out()) >= 2, process, found.log, "two images had timed out")
        finally:
            engine.resume()
        found.steps_before_the_hang = found.steps
        wait_until(lambda: found.steps >= found.steps_before_the_hang + 2, process, found.log, "it had gone on")
        found.steps_after_the_hang = found.steps
        os.kill(named(mark, "ray::TwoStageAgentLoopWorker").pid, signal.SIGKILL)
        deadline = time.monotonic() + SECONDS_TO_NOTICE
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
        found.status = process.poll()
    return found


def test_an_engine_that_hangs_costs_images_and_not_the_run(outcome: Outcome) -> None:
    assert outcome.steps_after_the_hang >= outcome.steps_before_the_hang + 2
    for visit in outcome.timed_out():
        assert visit["mining_seconds"] == pytest.approx(TIMEOUT, abs=TIMEOUT)
        assert visit["choices"] == []


def test_no_image_is_lost_from_the_counts(outcome: Outcome) -> None:
    metrics = read_metrics(outcome.folder)
    last = max(metrics)
    counted: Counter[str] = Counter()
    for data in metrics.values():
        for name, value in data.items():
            if name.startswith("divek/skips/") and not name.endswith("/total"):
                counted[name.removeprefix("divek/skips/")] += int(value)
    written = Counter(
        visit["skip"] or visit["failure"]
        for visit in outcome.visits
        if visit["step"] <= last and (visit["skip"] or visit["failure"])
    )
    assert counted["mining_timeout"] >= 2
    # What the step under way when the worker was killed had not reported yet may be written already.
    assert all(0 <= count - counted[reason] <= 4 for reason, count in written.items())
    for visit in outcome.visits:
        if visit["failure"] is None:
            assert sum(visit["votes"].values()) + sum(visit["unknown"].values()) + visit["unanswered"] == SAMPLES


def test_a_killed_worker_ends_the_run_with_its_reason(outcome: Outcome) -> None:
    assert outcome.status not in (None, 0), "the run must not wait for ever for a worker that is gone"
    assert "An agent-loop worker died, so its prompts would never finish" in outcome.log.read_text(errors="replace")
