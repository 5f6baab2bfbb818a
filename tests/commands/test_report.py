"""The command."""

from pathlib import Path

import pytest
from report.fabricated import fabricate_run

from divek_verl import cli


def test_the_command_prints_the_path(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(run_dir), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")


def test_several_runs_make_one_page(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = fabricate_run(tmp_path / "other-run", seed="other")
    assert cli.run(["report", str(run_dir), str(other)]) == 0
    assert capsys.readouterr().out.strip() == str(run_dir / "comparison.html")
    assert not (run_dir / "report.html").exists()


def test_wrong_input_ends_with_status_2_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(tmp_path / "nothing")]) == 2
    assert "give the directory that a run wrote to" in capsys.readouterr().err
    (tmp_path / "file").touch()
    (tmp_path / "questions.jsonl").touch()
    assert cli.run(["report", str(tmp_path), "--out", str(tmp_path / "file" / "page.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert cli.run(["report", "--no-such-option"]) == 2
    assert cli.run(["report"]) == 2
