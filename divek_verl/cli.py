"""The ``divek`` command: one table of sub-commands, each loaded when it is called.

Listing them imports none of them, so that ``divek --help`` answers at once and works where only a part is installed.
"""

import importlib
import signal
import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table

from divek_verl import __version__
from divek_verl.errors import SetupError

# name -> (module:function or module:typer app, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("divek_verl.commands.doctor:main", "Say whether this machine is ready, and what to do where it is not."),
    "prepare": ("divek_verl.commands.prepare:app", "Prepare a data set for training."),
    "inspect": ("divek_verl.commands.inspect:main", "Summarise a prepared set and draw its contact sheet."),
    "mine": ("divek_verl.commands.mine:main", "Sample K answers for each image and keep the votes."),
    "eval": (
        "divek_verl.commands.eval:evaluate_command",
        "Measure a model at both steps, on base and new classes.",
    ),
    "predict": ("divek_verl.commands.predict:predict_command", "Name the class of your own pictures, in two steps."),
    "report": ("divek_verl.commands.report:main", "Write the HTML report of a run, or of several to compare."),
}
WRONG_INPUT = 2


def load_command(name: str) -> typer.Typer:
    """The typer app behind an entry of ``COMMANDS``; a plain function becomes one."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if isinstance(target, typer.Typer):
        return target
    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    app.command(name)(target)
    return app


def show_help(console: Console) -> None:
    """Usage and the list of commands."""
    console.print("Usage: divek COMMAND [OPTIONS]    (divek COMMAND --help lists the options)\n", markup=False)
    table = Table("command", "what it does", box=None, pad_edge=False)
    for name, (_, text) in COMMANDS.items():
        table.add_row(name, text)
    console.print(table)


def run(arguments: Sequence[str]) -> int:
    """Exit status of ``divek *arguments``; wrong input ends with one sentence and status 2."""
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h"):
        show_help(Console())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        print(f"error: {name!r} is no command of divek: use one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return WRONG_INPUT
    try:
        load_command(name)(args=rest, prog_name=f"divek {name}")
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except SystemExit as ended:  # how click reports its own status
        return int(ended.code or 0)
    return 0


def main() -> None:
    """Entry point of the ``divek`` script."""
    # A `kill` unwinds as Ctrl-C does, so that half a prepared set or an engine is not left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
