"""Skips and failures."""

from pathlib import Path

from divek_verl.report.problems import problems
from divek_verl.report.reading import read_run

from .fabricated import read_lines, write_lines
from .parsing import page_of


def test_skips_and_failures_are_counted_by_reason(run_dir: Path) -> None:
    lines = read_lines(run_dir / "questions.jsonl")
    lines[0]["failure"] = "unreadable_image"
    lines[1]["rollout_failures"] = {"rollout_timeout": 1}
    write_lines(run_dir / "questions.jsonl", lines)
    listed = problems(read_run(run_dir))
    found = {(problem.kind, problem.reason): (problem.training, problem.validation) for problem in listed}
    assert found == {
        ("skipped", "easy"): (5, 0),
        ("failed", "unreadable_image"): (0, 1),
        ("rollout", "rollout_timeout"): (0, 1),
    }
    assert "the picture cannot be read" in page_of(run_dir).text
