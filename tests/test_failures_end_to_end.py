"""A run on two Ray nodes with two real failures: an engine that stops answering, and a worker killed while it mines."""

import os
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from verl_runs import SAMPLES, command, make_model, prepare, read_records, two_ray_nodes, wait_until

from divek_verl.demo.processes import marked, running
from divek_verl.demo.run import environment, last_step
from divek_verl.records import QuestionRecord
from divek_verl.report.reading import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TIMEOUT = 5
# Far longer than it takes to notice a dead worker; the run's own stall timeout is longer still.
SECONDS_TO_NOTICE = 180


@dataclass
class Outcome:
    """The end of the run, and its records."""

    status: int | None
    log: str
    records: list[QuestionRecord]
    metrics: dict[int, dict[str, float]]
    steps_after_the_hang: int
    # Role of a process -> the nodes on which it ran, as process ids of Ray's node processes.
    nodes: dict[str, list[int]]


ROLES = ("TaskRunner", "RunRecorder", "TwoStageAgentLoopWorker", "WorkerDict", "vLLMHttpServer")


def timed_out(records: list[QuestionRecord]) -> list[QuestionRecord]:
    return [record for record in records if record.failure == "mining_timeout"]


def named(mark: str, name: str) -> list[psutil.Process]:
    """The processes of the run whose command lines hold `name`."""
    return [process for process in marked(mark) if name in " ".join(process.cmdline())]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    home = tmp_path_factory.mktemp("failures")
    prepare(home / "data")
    make_model(home / "model")
    folder, log = home / "run", home / "run.log"
    with two_ray_nodes() as (joining, mark):
        arguments = command(
            home / "data",
            home / "model",
            folder,
            trainer__total_training_steps=1000,
            trainer__save_freq=-1,
            divek__mining_timeout=TIMEOUT,
            divek__rollout_timeout=TIMEOUT,
            divek__max_refills_per_step=1000,
            **joining,
        )
        with running(arguments, log, environment()) as process:
            return watch(process, mark, folder, log)


def hang(engine: psutil.Process) -> bool:
    """Stop the engine for long enough that questions time out; verl waits for it without limit to take new weights."""
    engine.suspend()
    time.sleep(2 * TIMEOUT)
    engine.resume()
    return True


def watch(process: subprocess.Popen[bytes], mark: str, folder: Path, log: Path) -> Outcome:
    wait_until(lambda: last_step(folder) >= 2, process, log, "two steps were done")
    nodes = {role: [each.ppid() for each in named(mark, f"ray::{role}")] for role in ROLES}
    engine = named(mark, "VLLM::EngineCore")[0]
    wait_until(lambda: hang(engine) and len(timed_out(read_records(folder))) >= 2, process, log, "two images timed out")
    hung = last_step(folder)
    wait_until(lambda: last_step(folder) >= hung + 2, process, log, "it had gone on")
    steps_after_the_hang = last_step(folder) - hung
    (elsewhere,) = (
        each for each in named(mark, "ray::TwoStageAgentLoopWorker") if each.ppid() not in nodes["TaskRunner"]
    )
    os.kill(elsewhere.pid, signal.SIGKILL)
    deadline = time.monotonic() + SECONDS_TO_NOTICE
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
    status = process.poll()
    text = log.read_text(errors="replace")
    return Outcome(status, text, read_records(folder), read_metrics(folder), steps_after_the_hang, nodes)


def test_workers_and_engines_spread_over_the_nodes_and_records_stay_with_the_trainer(outcome: Outcome) -> None:
    trainer = outcome.nodes["TaskRunner"]
    assert len(trainer) == 1
    assert outcome.nodes["RunRecorder"] == trainer
    for role in ("TwoStageAgentLoopWorker", "WorkerDict", "vLLMHttpServer"):
        assert len(set(outcome.nodes[role])) == 2, role


def test_an_engine_that_hangs_costs_images_and_not_the_run(outcome: Outcome) -> None:
    assert outcome.steps_after_the_hang >= 2
    for record in timed_out(outcome.records):
        assert record.mining_seconds == pytest.approx(TIMEOUT, abs=TIMEOUT)
        assert record.choices == []


def test_no_image_is_lost_from_the_counts(outcome: Outcome) -> None:
    counted: Counter[str] = Counter()
    for data in outcome.metrics.values():
        for name, value in data.items():
            if name.startswith("divek/skips/") and not name.endswith("/total"):
                counted[name.removeprefix("divek/skips/")] += int(value)
    assert counted["mining_timeout"] >= 2
    last = max(outcome.metrics)
    written = Counter(record.reason for record in outcome.records if record.reason and record.step <= last)
    # The step during which the worker was killed may have written records that it had not yet reported.
    assert all(0 <= count - counted[reason] <= 4 for reason, count in written.items())
    assert all(record.samples == SAMPLES for record in outcome.records if record.failure is None)


def test_a_killed_worker_ends_the_run_with_its_reason(outcome: Outcome) -> None:
    assert outcome.status not in (None, 0), "the run must not wait forever for a dead worker"
    assert "An agent-loop worker died, so its prompts would never finish" in outcome.log
