"""The ``divek`` command: its table holds, help loads nothing heavy, wrong input ends with status 2 and one sentence."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from evaluation.fabricated_set import write_set

from divek_verl import __version__, cli


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_loads_and_shows_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(cli.load_command(name), typer.Typer)
    assert cli.run([name, "--help"]) == 0
    assert f"divek {name}" in capsys.readouterr().out


def test_help_lists_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_of_eval_lists_its_options_by_subject(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["eval", flag]) == 0
    shown = capsys.readouterr().out
    panels = [line.strip("╭╮─ ") for line in shown.splitlines() if line.startswith("╭")]
    assert panels == ["Options", "Engine", "Server (an engine that runs elsewhere)", "Sampling", "Judge", "Output"]
    starred = [line.split()[2] for line in shown.splitlines() if line.startswith("│ *")]
    assert starred == ["--model", "--data"]
    assert shown.count("Example: divek eval") == 2


def test_the_examples_of_a_command_name_its_options() -> None:
    for name, examples in cli.EXAMPLES.items():
        known = {flag for parameter in typer.main.get_command(cli.load_command(name)).params for flag in parameter.opts}
        assert len(examples) == 2
        for example in examples:
            words = shlex.split(example)
            assert words[:2] == ["divek", name]
            assert {word for word in words if word.startswith("--")} <= known


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str) -> str:
        variables = {"_DIVEK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        script = "import sys; from divek_verl import cli; sys.argv = ['divek']; cli.main()"
        return subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **variables}
        ).stdout

    assert "eval" in completed("divek ev").split()
    assert "--min-options" in completed("divek eval --min-o").split()


@pytest.mark.parametrize(
    "arguments",
    [
        ["mine", "--model", "org/m", "--data", "none.parquet", "--out", "votes.jsonl"],
        ["mine", "--model", "runs/none/model", "--data", "{data}", "--out", "votes.jsonl"],
        ["eval", "--model", "org/m", "--data", "none.parquet"],
        ["eval", "--model", "runs/none/model", "--data", "{data}"],
        ["predict", "none.png", "--model", "org/m", "--data", "{data}"],
        ["predict", "none.png", "--model", "runs/none/model", "--data", "{data}"],
    ],
)
def test_wrong_paths_are_found_before_the_engines_packages_are_imported(arguments: list[str], tmp_path: Path) -> None:
    write_set(tmp_path / "data", {"base": 1})
    script = (
        "import sys; from divek_verl import cli; status = cli.run(sys.argv[1:]); "
        "print('LOADED', status, *"
        "({'torch', 'verl', 'vllm', 'ray', 'transformers', 'datasets', 'statsmodels'} & set(sys.modules)))"
    )
    given = [word.format(data=tmp_path / "data" / "val_base.parquet") for word in arguments]
    command = [sys.executable, "-c", script, *given]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.splitlines()[-1] == "LOADED 2"
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_a_place_that_cannot_be_written_ends_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "data", {"base": 1})
    (tmp_path / "file").touch()
    server = ["--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--data", str(tmp_path / "data/val_base.parquet")]
    assert cli.run(["mine", *server, "--out", str(tmp_path / "file" / "votes.jsonl")]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {tmp_path / 'file'} cannot be used (File exists): give another path.\n"


def test_help_loads_none_of_the_heavy_packages() -> None:
    script = (
        "import sys; from divek_verl import cli; cli.run(['--help']); "
        "print('LOADED', *({'torch', 'verl', 'vllm', 'ray', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1].strip() == "LOADED"


def test_an_unknown_command_ends_with_a_sentence_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["traim"]) == 2
    names = ", ".join(cli.COMMANDS)
    assert capsys.readouterr().err == f"error: 'traim' is no command of divek: use one of {names}.\n"


def test_a_setup_error_ends_with_its_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "fail", ("tests_cli_fail:main", "Fails."))
    monkeypatch.setitem(sys.modules, "tests_cli_fail", type(sys)("tests_cli_fail"))
    vars(sys.modules["tests_cli_fail"])["main"] = _fail
    assert cli.run(["fail"]) == 2
    assert capsys.readouterr().err == "error: the folder is missing: make it\n"


def _fail() -> None:
    from divek_verl.errors import SetupError

    raise SetupError("the folder is missing: make it")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_a_kill_unwinds_what_was_begun() -> None:
    script = (
        "import os, signal\nfrom divek_verl import cli\n"
        "def run(arguments):\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n        signal.pause()\n"
        "    finally:\n        print('put away', flush=True)\n"
        "cli.run = run\ncli.main()"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.stdout == "put away\n" and result.returncode != 0


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_traceback_shows_local_variables(name: str) -> None:
    """They hold keys and addresses with passwords."""
    assert not cli.load_command(name).pretty_exceptions_show_locals
