"""One set of options for every command."""

import inspect

import pytest
import typer
from typer.testing import CliRunner

from divek_verl.commands.prepare import COMMANDS, app
from divek_verl.prepare.options import OnError, Options, takes_options
from divek_verl.prepare.splits import EvalSplit, Setting

SHARED = set(inspect.signature(Options).parameters)


def test_a_command_gets_its_own_arguments_and_the_options() -> None:
    got: dict[str, object] = {}

    @takes_options
    def main(place: str, *, colour: str = "red", options: Options) -> None:
        """Does it."""
        got.update(place=place, colour=colour, options=options)

    app = typer.Typer()
    app.command()(main)
    arguments = ["here", "--out", "o", "--setting", "few-shot", "--shots", "2", "--embed-images"]
    result = CliRunner().invoke(app, [*arguments, "--on-error", "skip"])
    assert result.exit_code == 0, result.output
    assert (got["place"], got["colour"]) == ("here", "red")
    options = got["options"]
    assert isinstance(options, Options)
    assert (options.setting, options.shots, options.embed_images) == (Setting.FEW_SHOT, 2, True)
    assert (options.eval_split, options.seed, options.on_error) == (EvalSplit.REFERENCE, 0, OnError.SKIP)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("mix", "flags")])
def test_every_set_has_them(name: str) -> None:
    assert set(inspect.signature(COMMANDS[name]).parameters) >= SHARED


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert COMMANDS[name].__doc__ and COMMANDS[name].__doc__.strip().splitlines()[0][:20] in result.output
