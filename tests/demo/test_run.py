"""The demo's command for verl, its results, its progress, and when it stops with an error."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from divek_verl.demo.run import (
    CORRELATION,
    Plan,
    check_correlation,
    last_step,
    progress_of,
    results,
    results_table,
    train,
    training_command,
)
from divek_verl.errors import SetupError
from divek_verl.files import append_line
from divek_verl.records import QuestionRecord
from divek_verl.report.reading import read_metrics


def write_metrics(folder: Path, steps: dict[int, dict[str, float]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, "data": data}) + "\n" for step, data in steps.items()]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def validation(base: float, new: float) -> dict[str, float]:
    return {
        "val-core/divek/flags/base/acc/mean@1": base,
        "val-core/divek/flags/new/acc/mean@1": new,
        "val-aux/divek/flags/base/one_step/mean@1": base / 2,
    }


def test_before_and_after_are_the_first_and_the_last_validation(tmp_path: Path) -> None:
    run = write_metrics(tmp_path, {0: validation(0.4, 0.1), 5: validation(0.5, 0.1), 9: validation(0.7, 0.2)})
    assert results(run) == {
        "base": {"two_step": {"before": 0.4, "after": 0.7}, "one_step": {"before": 0.2, "after": 0.35}},
        "new": {"two_step": {"before": 0.1, "after": 0.2}},
    }


def test_the_table_shows_percent_and_the_change(tmp_path: Path) -> None:
    table = results_table(write_metrics(tmp_path, {0: validation(0.4, 0.1), 9: validation(0.7, 0.05)}))
    cells = list(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert ("base", "two-step accuracy", "40.0", "70.0", "+30.0") in cells
    assert ("new", "two-step accuracy", "10.0", "5.0", "-5.0") in cells


def test_without_a_first_validation_there_is_no_change(tmp_path: Path) -> None:
    table = results_table(write_metrics(tmp_path, {9: validation(0.7, 0.05)}))
    cells = list(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert ("base", "two-step accuracy", "none", "70.0", "") in cells and "no validation before" in str(table.caption)


def test_the_lowest_correlation_of_all_steps_counts(tmp_path: Path) -> None:
    run = write_metrics(tmp_path, {1: {CORRELATION: 0.9999}, 2: {CORRELATION: 0.991}, 3: {CORRELATION: 0.9995}})
    assert check_correlation(run) == 0.991


@pytest.mark.parametrize(
    "steps", [{1: {CORRELATION: 0.5}, 2: {CORRELATION: 0.9999}}, {1: {CORRELATION: None}}, {1: {"other": 1.0}}, {}]
)
def test_a_sampler_that_is_not_the_policy_stops_the_demo(tmp_path: Path, steps: dict) -> None:
    with pytest.raises(SetupError, match="samples from another model"):
        check_correlation(write_metrics(tmp_path, steps))


def test_a_half_written_line_is_ignored(tmp_path: Path) -> None:
    run = write_metrics(tmp_path, {0: validation(0.4, 0.1)})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "da')
    assert last_step(run) == 0
    assert list(read_metrics(run)) == [0]


def test_a_run_that_has_not_begun_has_no_step(tmp_path: Path) -> None:
    assert last_step(tmp_path) == -1


def test_progress_follows_the_records_and_metrics(tmp_path: Path) -> None:
    plan = Plan(run_dir=tmp_path, home=tmp_path, steps=4)

    def done() -> list[int]:
        return [count for count, _ in progress_of(plan, images=9).values()]

    assert done() == [0, 0, 0]
    for step, split, images in ((0, "val", 3), (1, "train", 16)):
        for number in range(images):
            record = QuestionRecord(step, split, "divek/flags/base", str(number), "", "Chad")
            append_line(tmp_path / "questions.jsonl", record.to_json())
    assert done() == [3, 0, 0]
    write_metrics(tmp_path, {0: validation(0.4, 0.1), 2: {"critic/score/mean": 1.25, "divek/one_step": 0.5}})
    assert done() == [9, 2, 0]
    assert progress_of(plan, images=9)["GRPO steps"][1] == "reward 1.25, one-step 0.50"
    append_line(tmp_path / "questions.jsonl", QuestionRecord(4, "val", "divek/flags/new", "1", "", "Chad").to_json())
    assert done() == [9, 4, 1]


def test_a_finished_training_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    plan = Plan(run_dir=write_metrics(tmp_path / "run", {3: {"x": 1.0}}), home=tmp_path, steps=3)
    train(plan, Console())
    assert "already done" in capsys.readouterr().out
    assert not (plan.run_dir / "train.log").exists()


def test_the_command_is_verls_own_entry_point_with_settings_that_compose(compose, tmp_path: Path) -> None:
    plan = Plan(run_dir=tmp_path / "run", home=tmp_path, seed=7, steps=11, overrides=("divek.num_options=3",))
    command = training_command(plan)
    assert command[1:5] == ["-m", "verl.trainer.main_ppo", "--config-name", "divek_demo"]
    overrides = [override for override in command[5:] if not override.startswith("hydra.")]
    config: DictConfig = compose(*overrides, name="divek_demo")
    assert config.trainer.total_training_steps == config.trainer.test_freq == 11
    assert config.divek.seed == config.data.seed == 7
    assert config.divek.num_options == 3
    assert config.divek.run_dir == str(tmp_path / "run")
    assert list(config.data.val_files) == [str(tmp_path / "data" / f"val_{side}.parquet") for side in ("base", "new")]
