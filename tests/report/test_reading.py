"""Reading a run directory, including torn, repeated and older lines."""

import json
import math
from pathlib import Path

import pytest

from divek_verl.records import SCHEMA
from divek_verl.report.reading import read_metrics, read_run
from divek_verl.trainer.recorder import MetricsFile, RunRecorder

from .fabricated import make_record, read_logged, read_records, write_logged, write_records
from .parsing import page_of

# Written by Visit.to_json of the release before: no schema, votes_from "nowhere", waves.
OLDER_LINE = (
    '{"step": 2, "split": "val", "data_source": "divek/flags/base", "image_id": "val_1", "image": "chad.png", "truth": '
    '"Chad", "policy_version": 2, "votes": {"Chad": 2}, "unknown": {}, "unanswered": 1, "truncated": 0, '
    '"failed_samples": 0, "votes_from": "nowhere", "vote_age": 0, "waves": 2, "options": ["Romania", "Chad"], '
    '"answer": "B", "injected": false, "skip": null, "failure": null, "detail": null, "choices": ["B"], '
    '"completions": ["<answer>B</answer>"], "rewards": [2.0], "rollout_failures": {}, "one_step": 0.6666666666666666, '
    '"consistency": 1.0, "recall": 1.0, "pass_at_k": 1.0, "mining_seconds": 1.5, "rollout_seconds": 0.4, '
    '"cached_share": 0.6666666666666666}\n'
)


def test_the_last_of_two_lines_of_a_step_counts(run_dir: Path) -> None:
    write_logged(run_dir, [*read_logged(run_dir), (30, {"critic/score/mean": 1.75})])
    run = read_run(run_dir)
    assert read_metrics(run_dir) == run.metrics
    assert read_metrics(run_dir / "not begun") == {}
    assert run.metrics[30]["critic/score/mean"] == 1.75
    assert "divek/skips/easy" not in run.metrics[30]
    assert "val-core/divek/flags/base/acc/mean@1" in run.metrics[30]


def test_a_resume_leaves_the_abandoned_steps_behind(run_dir: Path) -> None:
    write_logged(run_dir, [*read_logged(run_dir), (21, {"critic/score/mean": 1.5})])
    run = read_run(run_dir)
    assert max(run.metrics) == 21 and run.metrics[21]["critic/score/mean"] == 1.5
    assert run.replaced_steps == 10
    text = page_of(run_dir).text
    assert "10 steps logged again after a resume" in text and "are left out" not in text


def test_questions_of_steps_that_ran_again_are_left_out_and_counted(run_dir: Path) -> None:
    records = read_records(run_dir)
    steps = {record.step for record in records if record.split == "train"}
    again = next(record for record in records if record.split == "train" and record.step == max(steps))
    void = sum(record.split == "train" and record.step == max(steps) for record in records)
    RunRecorder(str(run_dir)).write(again)
    run = read_run(run_dir)
    assert (run.repeated, len([r for r in run.training if r.step == max(steps)])) == (void, 1)
    questions = "question" if void == 1 else "questions"
    assert f"{void} training {questions} of steps that ran again after a resume are left out" in page_of(run_dir).text


def test_records_that_were_lost_are_said(run_dir: Path) -> None:
    write_logged(run_dir, [*read_logged(run_dir), (32, {"divek/records_lost": 7.0})])
    assert "7 records could not be written and are missing here" in page_of(run_dir).text


def test_the_last_validation_record_of_an_image_counts(run_dir: Path) -> None:
    records = read_records(run_dir)
    again = next(record for record in records if record.split == "val")
    write_records(run_dir, [*records, make_record(again.image_id, completions=["said after the resume"])])
    found = read_run(run_dir).validation[again.data_source][again.step]
    assert len(found) == 20
    assert found[again.image_id].completions == ["said after the resume"]


def test_torn_lines_are_counted_and_named(run_dir: Path) -> None:
    assert "unreadable" not in page_of(run_dir).text
    for name, torn in (("questions.jsonl", '{"step": 30, "split": "val", "tru'), ("metrics.jsonl", '{"step": 31')):
        with (run_dir / name).open("ab") as file:
            file.write(b'[1]\n{"step": "one"}\n' + torn.encode() + b"\xc3")
    assert read_run(run_dir).unreadable == {"questions.jsonl": 3, "metrics.jsonl": 3}
    text = page_of(run_dir).text
    assert "3 unreadable lines in questions.jsonl: A line is not a question record" in text
    assert "3 unreadable lines in metrics.jsonl" in text


def test_a_line_of_the_release_before_is_read_and_shown(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text(OLDER_LINE, encoding="utf-8")
    run = read_run(tmp_path)
    (record,) = run.validation_records
    assert (record.votes, record.samples, record.accuracy, record.votes_from) == ({"Chad": 2}, 3, 1.0, "none")
    assert (record.option_source, record.num_options) == (None, None)
    page = page_of(tmp_path)
    assert run.unreadable == {"questions.jsonl": 0} and "Answers of 3 samples" in page.text
    columns = page.data["questions"]["columns"]
    assert (columns["option_source"], columns["num_options"], columns["vote_age"]) == ([-1], [None], [None])


def test_a_line_of_a_later_release_is_refused_with_a_sentence(tmp_path: Path) -> None:
    line = make_record().to_json() | {"schema": SCHEMA + 1}
    (tmp_path / "questions.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert f"1 unreadable line in questions.jsonl: A record has schema {SCHEMA + 1}" in page_of(tmp_path).text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_was_logged_but_is_in_no_curve(tmp_path: Path, value: float) -> None:
    MetricsFile(str(tmp_path)).log({"x": value}, 1)
    MetricsFile(str(tmp_path)).log({"x": 0.5}, 2)
    assert math.isnan(read_metrics(tmp_path)[1]["x"])
    assert read_run(tmp_path).series("x") == {2: 0.5}
