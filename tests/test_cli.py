"""The ``divek`` command: its table holds, help loads nothing heavy, wrong input ends with status 2 and one sentence."""

import subprocess
import sys

import pytest
import typer

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
