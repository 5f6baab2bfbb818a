"""Whole runs of verl's own entry point with real vLLM servers, each killed with -9 and resumed.

One run in verl's synchronous trainer (two FSDP2 workers, validation, trackers, another task's rows beside DiVE-k's) and
one in the asynchronous trainer, both with votes that are reused. The model is small and untrained and the pictures are
plain colours: the tests show that nothing is lost, that sampler and policy are one model, and that the records are
true. benchmarks/claim.py shows that a model learns.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from verl_runs import (
    CLASSES,
    ROLLOUTS,
    SAMPLES,
    command,
    finish,
    kill_without_warning,
    make_model,
    prepare,
    read_records,
    wait_for,
    wait_until,
)
from wandb_file import history, tables

from divek_verl.demo.processes import running
from divek_verl.demo.run import CORRELATION, environment
from divek_verl.measures import VOTE_MEASURES
from divek_verl.records import QuestionRecord
from divek_verl.report.charts import charts
from divek_verl.report.reading import read_metrics, read_run
from divek_verl.trainer.tracking import NO_QUESTION
from divek_verl.trainer.vote_store import CHECKPOINT_FILE
from divek_verl.votes_file import read_votes_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 3
IMAGES = 4
OTHER_ROWS = 2
# Step 1 samples, step 2 uses the votes again, step 3 samples anew.
MAX_AGE = 1


@dataclass
class Run:
    """A finished run."""

    mode: str
    folder: Path
    log: str
    records: list[QuestionRecord] = field(init=False)
    metrics: dict[int, dict[str, float]] = field(init=False)

    def __post_init__(self) -> None:
        self.records = read_records(self.folder)
        self.metrics = read_metrics(self.folder)

    @property
    def training(self) -> list[QuestionRecord]:
        return [record for record in self.records if record.split == "train"]

    @property
    def last_validation(self) -> list[QuestionRecord]:
        return [record for record in self.records if record.split == "val" and record.step == STEPS]


def recorded(folder: Path) -> int:
    """The last step of which a training question is recorded."""
    return max((record.step for record in read_records(folder) if record.split == "train"), default=0)


def kill_and_resume(mode: str, home: Path, **changes: Any) -> Run:
    """Kill the run inside the step after its first checkpoint, then let the same command finish it."""
    folder = home / mode / "run"
    common = {
        "trainer__v1__trainer_mode": mode,
        "trainer__total_training_steps": STEPS,
        "divek__max_vote_age": MAX_AGE,
        "divek__skip_easy": "false",
    }
    arguments = command(home / "data", home / "model", folder, **common, **changes)
    log = home / mode / "1.log"
    for number in (1, 2):
        log = home / mode / f"{number}.log"
        trackers = home / mode / f"trackers-{number}"
        trackers.mkdir(parents=True)
        variables = {"TENSORBOARD_DIR": str(trackers), "WANDB_DIR": str(trackers)}
        with running(arguments, log, {**environment(), **variables}) as process:
            if number == 1:
                wait_for(folder / "latest_checkpointed_iteration.txt", process, log)
                wait_for(folder / "global_step_1" / CHECKPOINT_FILE, process, log)
                wait_until(lambda: recorded(folder) > 1, process, log, "a question of step 2 was recorded")
                kill_without_warning(process)
            else:
                finish(process, log)
    return Run(mode, folder, log.read_text(errors="replace"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("end_to_end")
    prepare(folder / "data", train=IMAGES)
    make_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def sync(home: Path) -> Run:
    rows = [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": f"What is {number} plus 2 ?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(number + 2)},
            "extra_info": {"index": number, "split": "train"},
        }
        for number in range(OTHER_ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), home / "other.parquet")
    return kill_and_resume(
        "sync",
        home,
        data__train_files=f"[{home / 'data' / 'train.parquet'},{home / 'other.parquet'}]",
        data__train_batch_size=IMAGES + OTHER_ROWS,
        actor_rollout_ref__actor__ppo_mini_batch_size=IMAGES + OTHER_ROWS,
        actor_rollout_ref__actor__use_kl_loss="true",
        trainer__n_gpus_per_node=2,
        trainer__val_before_train="true",
        trainer__test_freq=STEPS,
        trainer__logger="[console,tensorboard,wandb]",
        trainer__log_val_generations=9,
    )


@pytest.fixture(scope="module")
def colocate_async(home: Path) -> Run:
    return kill_and_resume("colocate_async", home)


@pytest.fixture(scope="module", params=["sync", "colocate_async"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


def test_the_resumed_run_continues_after_the_checkpoint(run: Run) -> None:
    assert "Resuming from" in run.log
    assert (run.folder / f"global_step_{STEPS}" / "actor").is_dir()
    assert max(run.metrics) == STEPS


def test_what_the_resume_made_void_is_left_out_of_the_report(sync: Run) -> None:
    """An asynchronous run samples the next batch early: whether the kill makes that void depends on the moment."""
    kept = read_run(sync.folder)
    assert kept.repeated >= 1 and kept.repeated == len(sync.training) - len(kept.training)
    visits = Counter((record.step, record.image_id) for record in kept.training)
    assert set(visits.values()) == {1}
    assert {step for step, _ in visits} == set(range(1, STEPS + 1))


def test_sampler_and_policy_are_one_model_at_every_step(run: Run) -> None:
    found = {step: data[CORRELATION] for step, data in run.metrics.items() if CORRELATION in data}
    assert STEPS in found
    # An asynchronous rollout may begin with the weights of the step before.
    assert min(found.values()) >= (0.999 if run.mode == "sync" else 0.98)


def test_training_questions_hold_the_truth_and_a_group_of_rollouts(run: Run) -> None:
    trained = [record for record in run.training if record.reason is None]
    assert trained
    for record in trained:
        assert record.answer is not None and record.options[ord(record.answer) - ord("A")] == record.truth
        assert set(record.options) <= set(CLASSES.base)
        assert len(record.rewards) == len(record.choices) == len(record.completions) == len(record.formats) == ROLLOUTS
        assert record.samples == SAMPLES


def test_votes_are_sampled_once_and_used_until_they_are_too_old(run: Run) -> None:
    assert {record.votes_from for record in run.training} == {"policy", "store"}
    assert all(record.vote_age == 0 for record in run.training if record.votes_from == "policy")
    assert all(record.policy_version is not None for record in run.training)
    assert max(record.vote_age for record in run.training) == MAX_AGE


def test_the_votes_of_the_checkpoint_are_used_after_kill_and_resume(run: Run) -> None:
    (step,) = {
        int(line.split("global_step_")[1].split("/")[0]) for line in run.log.splitlines() if "loaded the votes" in line
    }
    saved = {
        mined.image_id: mined for mined in read_votes_file(run.folder / f"global_step_{step}" / CHECKPOINT_FILE).votes
    }
    assert saved
    assert f"loaded the votes on {len(saved)} images" in run.log
    reused = [record for record in run.training if record.image_id in saved and record.votes_from == "store"]
    assert reused
    mined = [(record.image_id, record.votes) for record in run.training if record.votes_from == "policy"]
    for record in reused:
        assert record.votes == saved[record.image_id].votes.counts or (record.image_id, record.votes) in mined


def test_equal_votes_give_equal_options(run: Run) -> None:
    by_votes: dict[tuple, set[tuple[str, ...]]] = {}
    for record in run.training:
        key = (record.image_id, tuple(record.votes.items()), record.step)
        by_votes.setdefault(key, set()).add(tuple(record.options))
    assert all(len(options) == 1 for options in by_votes.values())


def test_every_checkpoint_holds_the_votes_of_its_time(run: Run) -> None:
    for step in (1, STEPS):
        file = read_votes_file(run.folder / f"global_step_{step}" / CHECKPOINT_FILE)
        assert file.complete and file.votes
        assert all(mined.votes.total == SAMPLES for mined in file.votes)
        assert all(0 <= (mined.policy_version or 0) <= step for mined in file.votes)


def test_the_metrics_tell_the_age_of_the_votes(run: Run) -> None:
    assert sum(data.get("divek/votes_reused", 0.0) for data in run.metrics.values()) >= 1
    assert max(data.get("divek/vote_age/max", 0.0) for data in run.metrics.values()) >= 1


def test_the_records_are_plain_json_lines(run: Run) -> None:
    for name in ("questions.jsonl", "metrics.jsonl"):
        for line in (run.folder / name).read_text(encoding="utf-8").splitlines():
            json.loads(line)


def test_votes_name_the_policy_that_gave_them(sync: Run) -> None:
    last = [record for record in sync.training if record.step == STEPS]
    assert {(record.policy_version, record.votes_from) for record in last} == {(STEPS - 1, "policy")}


def test_rows_of_another_task_keep_verls_own_way(sync: Run) -> None:
    assert {record.data_source for record in sync.training} == {"divek/flags/base"}
    assert sync.metrics[STEPS]["divek/images_visited"] == IMAGES


def test_every_validation_image_is_in_the_denominator(sync: Run) -> None:
    last = sync.last_validation
    assert len(last) == 5 + 4
    assert [record.failure for record in last if record.image_id == "val_base-4"] == ["unreadable_image"]
    assert all(record.greedy_failure is None for record in last)
    for side in ("base", "new"):
        source = f"divek/flags/{side}"
        assert 0.0 <= sync.metrics[STEPS][f"val-core/{source}/acc/mean@1"] <= 1.0
        for measure in VOTE_MEASURES:
            own = [getattr(record, measure) for record in last if record.data_source == source]
            assert sync.metrics[STEPS][f"val-aux/{source}/{measure}/mean@1"] == pytest.approx(sum(own) / len(own))


def test_validation_shows_no_truth_that_was_not_voted_for(sync: Run) -> None:
    assert not [record for record in sync.records if record.split == "val" and record.injected]


def test_the_divek_metrics_reach_the_trackers_under_the_same_names_and_values(sync: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    expected = sync.metrics[STEPS]
    assert expected["divek/images_mined"] >= IMAGES
    assert expected["divek/samples"] == expected["divek/images_mined"] * SAMPLES
    trackers = sync.folder.parent / "trackers-2"
    events, wandb = EventAccumulator(str(trackers)), history(trackers)[STEPS]
    events.Reload()
    assert set(expected) <= set(events.Tags()["scalars"])
    for name, value in expected.items():
        assert wandb[name] == pytest.approx(value, nan_ok=True)
        assert events.Scalars(name)[-1].value == pytest.approx(value, rel=1e-4, nan_ok=True)


def test_the_curves_of_the_report_know_the_names_of_verls_metrics(sync: Run) -> None:
    names = {name for chart in charts(read_run(sync.folder)) for name in chart.metrics.split(", ") if "<" not in name}
    logged = {name for data in sync.metrics.values() for name in data}
    assert names <= logged


def test_the_samples_of_one_image_share_its_prefill(sync: Run) -> None:
    assert sync.metrics[STEPS]["divek/cached_share"] > 0.5


def test_the_logged_generations_are_the_questions_that_were_asked(sync: Run) -> None:
    table = tables(sync.folder.parent / "trackers-2")[-1]
    row = dict(zip(table["columns"], table["data"][-1], strict=True))
    inputs = [row[f"input_{number}"] for number in range(1, 10)]
    for record in sync.last_validation:
        options = "".join(f"\n{letter}. {name}" for letter, name in zip("ABCDE", record.options, strict=False))
        assert any(options in text for text in inputs)
    assert inputs.count(NO_QUESTION) == 1  # the picture that was cut short
    assert not any("image_pad" in text for text in inputs)


def test_the_report_is_written_at_the_end(sync: Run) -> None:
    assert "divek/flags/base" in (sync.folder / "report.html").read_text(encoding="utf-8")
    assert "divek_verl: report: " in sync.log
