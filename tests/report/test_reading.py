"""What is read of a run directory, torn and repeated lines included."""

import math
from pathlib import Path

import pytest

from divek_verl.report.reading import METRICS_FILE, QUESTIONS_FILE, read_lines, read_metrics, read_run

from .fabricated import write_lines
from .parsing import page_of


def test_the_last_of_two_lines_of_a_step_counts(run_dir: Path) -> None:
    lines = read_lines(run_dir / "metrics.jsonl")
    lines.append({"step": 30, "data": {"critic/score/mean": 1.75}})
    write_lines(run_dir / "metrics.jsonl", lines)
    run = read_run(run_dir)
    assert run.metrics[30]["critic/score/mean"] == 1.75
    assert "divek/skips/easy" not in run.metrics[30]
    assert "val-core/divek/flags/base/acc/mean@1" in run.metrics[30]


def test_a_resume_leaves_the_abandoned_steps_behind(run_dir: Path) -> None:
    lines = read_lines(run_dir / "metrics.jsonl")
    lines.append({"step": 21, "data": {"critic/score/mean": 1.5}})
    write_lines(run_dir / "metrics.jsonl", lines)
    run = read_run(run_dir)
    assert max(run.metrics) == 21 and run.metrics[21]["critic/score/mean"] == 1.5
    assert run.replaced_steps == 10
    assert "10 steps logged again after a resume" in page_of(run_dir).text


def test_the_last_validation_visit_of_an_image_counts(run_dir: Path) -> None:
    lines = read_lines(run_dir / "questions.jsonl")
    again = {**lines[0], "completions": ["said after the resume"]}
    write_lines(run_dir / "questions.jsonl", [*lines, again])
    visits = read_run(run_dir).validation[again["data_source"]][again["step"]]
    assert len(visits) == 20
    assert visits[again["image_id"]].completions == ["said after the resume"]


def test_torn_lines_are_counted_and_named(run_dir: Path) -> None:
    for name, torn in (
        ("questions.jsonl", '{"step": 30, "split": "val", "tru'),
        ("metrics.jsonl", '{"step": 31'),
    ):
        with (run_dir / name).open("ab") as file:
            file.write(b'[1]\n{"step": "one"}\n' + torn.encode() + b"\xc3")
    assert read_run(run_dir).unreadable == {"questions.jsonl": 3, "metrics.jsonl": 3}
    text = page_of(run_dir).text
    assert "3 unreadable lines in questions.jsonl" in text and "3 unreadable lines in metrics.jsonl" in text


def test_a_whole_run_has_no_unreadable_line(run_dir: Path) -> None:
    assert "unreadable" not in page_of(run_dir).text


def test_it_reads_what_the_recorder_writes(tmp_path: Path) -> None:
    records = pytest.importorskip("divek_verl.records")
    assert (QUESTIONS_FILE, METRICS_FILE) == (records.QUESTIONS_FILE, records.METRICS_FILE)
    visit = records.Visit(0, "val", "divek/flags/base", "val_1", "", "Chad", votes={"Chad": 2}, unanswered=1)
    write_lines(tmp_path / "questions.jsonl", [visit.to_json()])
    records.MetricsFile(str(tmp_path)).log({"critic/score/mean": 1.0}, step=1)
    run = read_run(tmp_path)
    assert run.unreadable == {"questions.jsonl": 0, "metrics.jsonl": 0}
    assert run.validation["divek/flags/base"][0]["val_1"].samples == visit.samples == 3
    assert run.metrics == {1: {"critic/score/mean": 1.0}}


def test_the_metrics_alone_are_those_of_the_run(run_dir: Path, tmp_path: Path) -> None:
    assert read_metrics(run_dir) == read_run(run_dir).metrics
    assert read_metrics(tmp_path / "not begun") == {}


def test_a_number_that_is_not_finite_was_logged_but_is_in_no_curve(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "data": {"x": None}}, {"step": 2, "data": {"x": 0.5}}])
    assert math.isnan(read_metrics(tmp_path)[1]["x"])
    assert read_run(tmp_path).series("x") == {2: 0.5}


def test_raw_lines_are_read_as_they_stand_and_torn_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    assert read_lines(path) == []
    path.write_text('{"step": 1, "new field": [1]}\n{"step": 2, "ne', encoding="utf-8")
    assert read_lines(path) == [{"step": 1, "new field": [1]}]


def test_the_fields_of_an_older_release_are_enough(tmp_path: Path) -> None:
    oldest = {"step": 0, "split": "val", "data_source": "divek/x/base", "image_id": "1", "truth": "Chad"}
    newest = oldest | {"image_id": "2", "votes_from": "store", "vote_age": 3, "waves": 2, "a field to come": {}}
    write_lines(tmp_path / "questions.jsonl", [oldest, newest])
    run = read_run(tmp_path)
    first, second = run.validation["divek/x/base"][0].values()
    assert (first.votes_from, first.vote_age, first.waves) == (None, None, None)
    assert (second.votes_from, second.vote_age, second.waves) == ("store", 3, 2)
