"""Votes that are used again, in verl's synchronous and in its asynchronous trainer, across a kill -9 and a resume.

The synchronous run mixes another task's rows in as well: they keep verl's own rollout and reward.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from verl_runs import SAMPLES, command, finish, kill_without_warning, make_model, prepare, wait_for

from divek_verl.demo.processes import running
from divek_verl.demo.run import CORRELATION, environment, read_metrics
from divek_verl.files import read_lines
from divek_verl.trainer.vote_store import CHECKPOINT_FILE
from divek_verl.votes_file import read_votes_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MODES = ("sync", "colocate_async")
STEPS = 3
IMAGES = 4
MAX_AGE = 2


def other_task(path: Path) -> Path:
    rows = [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": f"What is {number} plus 2 ?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(number + 2)},
            "extra_info": {"index": number, "split": "train"},
        }
        for number in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


class Run:
    """What one mode's run left behind."""

    def __init__(self, mode: str, home: Path) -> None:
        self.mode = mode
        self.folder = home / mode
        self.second_log = home / f"{mode}-second.log"
        changes: dict[str, Any] = {
            "trainer__v1__trainer_mode": mode,
            "trainer__total_training_steps": STEPS,
            "divek__max_vote_age": MAX_AGE,
            "divek__skip_easy": "false",
        }
        if mode == "sync":
            changes["data__train_files"] = f"[{home / 'data' / 'train.parquet'},{other_task(home / 'other.parquet')}]"
            changes["data__train_batch_size"] = changes["actor_rollout_ref__actor__ppo_mini_batch_size"] = IMAGES + 2
        self.arguments = command(home / "data", home / "model", self.folder, **changes)

    def go(self) -> None:
        first = self.second_log.with_name(f"{self.mode}-first.log")
        with running(self.arguments, first, environment()) as process:
            wait_for(self.folder / "latest_checkpointed_iteration.txt", process, first)
            wait_for(self.folder / "global_step_1" / CHECKPOINT_FILE, process, first)
            kill_without_warning(process)
        with running(self.arguments, self.second_log, environment()) as process:
            finish(process, self.second_log)

    @property
    def visits(self) -> list[dict]:
        return read_lines(self.folder / "questions.jsonl")[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vote_age")
    prepare(folder / "data", train=IMAGES)
    make_model(folder / "model")
    return folder


@pytest.fixture(scope="module", params=MODES)
def run(request: pytest.FixtureRequest, home: Path) -> Iterator[Run]:
    found = Run(request.param, home)
    found.go()
    yield found


def test_votes_are_sampled_once_and_used_until_they_are_too_old(run: Run) -> None:
    ages = [(visit["votes_from"], visit["vote_age"]) for visit in run.visits]
    assert {source for source, _ in ages} == {"policy", "store"}
    assert all((age == 0) == (source == "policy") or age == 0 for source, age in ages)
    assert 1 <= max(age for _, age in ages) <= MAX_AGE
    mined = [visit for visit in run.visits if visit["votes_from"] == "policy"]
    assert all(visit["policy_version"] is not None for visit in mined)


def test_the_votes_of_the_checkpoint_are_used_after_kill_and_resume(run: Run) -> None:
    saved = {mined.image_id: mined for mined in read_votes_file(run.folder / "global_step_1" / CHECKPOINT_FILE).votes}
    assert saved
    log = run.second_log.read_text(errors="replace")
    assert f"took over the votes on {len(saved)} images" in log
    asked = [visit for visit in run.visits if visit["image_id"] in saved]
    reused = [visit for visit in asked if visit["votes_from"] == "store"]
    assert reused
    mine = {visit["image_id"]: visit["votes"] for visit in run.visits if visit["votes_from"] == "policy"}
    for visit in reused:
        assert visit["votes"] in (dict(saved[visit["image_id"]].votes.counts), mine.get(visit["image_id"]))


def test_equal_votes_give_equal_options(run: Run) -> None:
    by_votes: dict[tuple, set[tuple]] = {}
    for visit in run.visits:
        key = (visit["image_id"], tuple(visit["votes"].items()), visit["step"])
        by_votes.setdefault(key, set()).add(tuple(visit["options"]))
    assert all(len(options) == 1 for options in by_votes.values())


def test_every_checkpoint_holds_the_votes_of_its_time(run: Run) -> None:
    for step in (1, STEPS):
        file = read_votes_file(run.folder / f"global_step_{step}" / CHECKPOINT_FILE)
        assert file.complete
        assert all(mined.votes.total == SAMPLES for mined in file.votes)
        assert all(0 <= (mined.policy_version or 0) <= step for mined in file.votes)


def test_sampler_and_policy_are_one_model(run: Run) -> None:
    metrics = read_metrics(run.folder)
    assert max(metrics) == STEPS
    found = [data[CORRELATION] for data in metrics.values() if CORRELATION in data]
    assert found
    # An asynchronous rollout may begin with the weights of the step before.
    assert min(found) >= (0.999 if run.mode == "sync" else 0.98)


def test_the_metrics_tell_the_age_of_the_votes(run: Run) -> None:
    metrics = read_metrics(run.folder)
    assert sum(data.get("divek/votes_reused", 0.0) for data in metrics.values()) >= 1
    assert max(data.get("divek/vote_age/max", 0.0) for data in metrics.values()) >= 1


def test_rows_of_another_task_keep_verls_own_way(run: Run) -> None:
    if run.mode != "sync":
        pytest.skip("only the synchronous run mixes another task in")
    assert {visit["data_source"] for visit in run.visits} == {"divek/flags/base"}
    last = read_metrics(run.folder)[STEPS]
    assert last["divek/images_visited"] == IMAGES, "each step has all six rows: four of ours, two of the other task"
