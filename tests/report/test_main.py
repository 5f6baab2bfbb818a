"""The command."""

from pathlib import Path

import typer
from typer.testing import CliRunner

from divek_verl.report.__main__ import main


def test_the_command_prints_the_path(run_dir: Path, tmp_path: Path) -> None:
    command = typer.Typer()
    command.command()(main)
    done = CliRunner().invoke(command, [str(run_dir), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0 and done.stdout.strip() == str(tmp_path / "page.html")
    refused = CliRunner().invoke(command, [str(tmp_path / "nothing")])
    assert refused.exit_code == 1 and "give the directory that a run wrote to" in refused.output
