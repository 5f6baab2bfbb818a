"""The whole of it, once: verl's own entry point, two FSDP2 workers, two real vLLM servers, a kill -9 and a resume.

The model is small and untrained, the pictures are plain colours: what is shown here is that nothing is lost, that
sampler and policy are one model, and that the records say what happened. That it *learns* is benchmarks/.
"""

import json
from pathlib import Path

import pytest
from verl_runs import CLASSES, ROLLOUTS, SAMPLES, command, finish, kill_without_warning, make_model, prepare, wait_for
from wandb_file import history, tables

from divek_verl.demo.processes import running
from divek_verl.demo.run import CORRELATION, environment, read_metrics
from divek_verl.files import read_lines
from divek_verl.trainer.tracking import NO_QUESTION

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 2


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("end_to_end")
    prepare(home / "data")
    make_model(home / "model")
    folder, first, second = home / "run", home / "first.log", home / "second.log"
    arguments = command(
        home / "data",
        home / "model",
        folder,
        actor_rollout_ref__actor__use_kl_loss="true",
        trainer__n_gpus_per_node=2,
        trainer__total_training_steps=STEPS,
        trainer__val_before_train="true",
        trainer__test_freq=STEPS,
        trainer__logger="[console,tensorboard,wandb]",
        trainer__log_val_generations=9,
    )
    (home / "wandb").mkdir()
    settings = {**environment(), "TENSORBOARD_DIR": str(folder / "tensorboard"), "WANDB_DIR": str(home / "wandb")}
    with running(arguments, first, settings) as process:
        wait_for(folder / "latest_checkpointed_iteration.txt", process, first)
        kill_without_warning(process)
    with running(arguments, second, settings | {"WANDB_DIR": str(folder)}) as process:
        finish(process, second)
    return folder


@pytest.fixture(scope="module")
def visits(run_dir: Path) -> list[dict]:
    return read_lines(run_dir / "questions.jsonl")[0]


def test_the_resumed_run_goes_on_after_the_checkpointed_step(run_dir: Path) -> None:
    log = (run_dir.parent / "second.log").read_text(errors="replace")
    assert "Resuming from" in log
    assert (run_dir / f"global_step_{STEPS}" / "actor").is_dir()
    assert sorted(read_metrics(run_dir))[-1] == STEPS


def test_sampler_and_policy_are_one_model_at_every_step(run_dir: Path) -> None:
    found = {step: data[CORRELATION] for step, data in read_metrics(run_dir).items() if CORRELATION in data}
    assert STEPS in found
    assert min(found.values()) >= 0.999


def test_every_validation_image_is_in_the_denominator(run_dir: Path, visits: list[dict]) -> None:
    last = [visit for visit in visits if visit["split"] == "val" and visit["step"] == STEPS]
    assert len(last) == 5 + 4
    assert [visit["failure"] for visit in last if visit["image_id"] == "val_base-4"] == ["unreadable_image"]
    metrics = read_metrics(run_dir)[STEPS]
    for side in ("base", "new"):
        source = f"divek/flags/{side}"
        assert 0.0 <= metrics[f"val-core/{source}/acc/mean@1"] <= 1.0
        for measure in ("one_step", "consistency", "recall", "pass_at_k"):
            own = [visit[measure] for visit in last if visit["data_source"] == source]
            assert metrics[f"val-aux/{source}/{measure}/mean@1"] == pytest.approx(sum(own) / len(own))


def test_validation_shows_no_truth_that_was_not_voted_for(visits: list[dict]) -> None:
    assert not [visit for visit in visits if visit["split"] == "val" and visit["injected"]]


def test_training_questions_hold_the_truth_and_a_group_of_rollouts(visits: list[dict]) -> None:
    trained = [visit for visit in visits if visit["split"] == "train" and visit["skip"] is None]
    assert trained
    for visit in trained:
        assert visit["options"][ord(visit["answer"]) - ord("A")] == visit["truth"]
        assert set(visit["options"]) <= set(CLASSES.base)
        assert len(visit["rewards"]) == len(visit["choices"]) == len(visit["completions"]) == ROLLOUTS
        assert sum(visit["votes"].values()) + sum(visit["unknown"].values()) + visit["unanswered"] == SAMPLES


def test_votes_say_which_policy_they_come_from(visits: list[dict]) -> None:
    assert {visit["policy_version"] for visit in visits if visit["step"] == STEPS and visit["split"] == "train"} == {
        STEPS - 1
    }


def test_the_divek_metrics_reach_verls_tracker(run_dir: Path) -> None:
    metrics = read_metrics(run_dir)[STEPS]
    assert metrics["divek/images_mined"] >= 4
    assert metrics["divek/samples"] == metrics["divek/images_mined"] * SAMPLES
    assert list((run_dir / "tensorboard").rglob("events.out.tfevents.*"))


def test_the_samples_of_one_image_share_its_prefill(run_dir: Path) -> None:
    assert read_metrics(run_dir)[STEPS]["divek/cached_share"] > 0.5


def test_the_trackers_have_the_names_and_values_of_the_metrics_file(run_dir: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    expected, wandb = read_metrics(run_dir)[STEPS], history(run_dir)[STEPS]
    assert set(expected) <= set(events.Tags()["scalars"])
    for name, value in expected.items():
        assert wandb[name] == pytest.approx(value, nan_ok=True)
        assert events.Scalars(name)[-1].value == pytest.approx(value, rel=1e-4, nan_ok=True)


def test_the_logged_generations_are_the_questions_that_were_asked(run_dir: Path, visits: list[dict]) -> None:
    table = tables(run_dir)[-1]
    row = dict(zip(table["columns"], table["data"][-1], strict=True))
    inputs = [row[f"input_{number}"] for number in range(1, 10)]
    last = [visit for visit in visits if visit["split"] == "val" and visit["step"] == STEPS]
    asked = ["".join(f"\n{letter}. {name}" for letter, name in zip("ABCDE", v["options"], strict=False)) for v in last]
    assert all(any(options in text for text in inputs) for options in asked)
    assert inputs.count(NO_QUESTION) == 1  # the picture that was cut short
    assert not any("image_pad" in text for text in inputs)


def test_the_report_was_written_at_the_end(run_dir: Path) -> None:
    assert "divek/flags/base" in (run_dir / "report.html").read_text(encoding="utf-8")
    assert "divek_verl: report: " in (run_dir.parent / "second.log").read_text(errors="replace")


def test_the_records_are_plain_json_lines(run_dir: Path) -> None:
    for name in ("questions.jsonl", "metrics.jsonl"):
        for line in (run_dir / name).read_text(encoding="utf-8").splitlines():
            json.loads(line)
