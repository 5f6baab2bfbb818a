"""The ``divek`` command: one table of sub-commands, each loaded when it is called.

Listing them imports none of them, so that ``divek --help`` answers at once and works where only a part is installed.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from divek_verl import __version__
from divek_verl.console import STOPPED, terminal
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
EXAMPLES = {
    "mine": (
        "divek mine --model Qwen/Qwen2.5-VL-7B-Instruct --data data/cub/train.parquet --out votes.jsonl",
        "divek mine --model my-model --base-url http://localhost:8000/v1 --data data/cub --out votes.jsonl",
    ),
    "eval": (
        "divek eval --model checkpoints/my_run --data data/cub --out runs/after",
        "divek eval --model checkpoints/my_run --data data/cub --out runs/after --compare runs/before",
    ),
    "predict": (
        "divek predict bird.jpg --model checkpoints/my_run --data data/cub",
        "divek predict photographs/ --model checkpoints/my_run --classes birds.txt --thing bird --kind species --json",
    ),
}
WRONG_INPUT = 2
HELP = {"help_option_names": ["-h", "--help"]}


def load_command(name: str) -> typer.Typer:
    """The typer app behind an entry of ``COMMANDS``; a plain function becomes one, its examples the end of its help."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if isinstance(target, typer.Typer):
        return target
    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, context_settings=HELP)
    examples = "\n\n".join(f"[dim]Example:[/] {line}" for line in EXAMPLES.get(name, ()))
    app.command(name, epilog=examples)(target)
    return app


class Commands(typer.core.TyperGroup):
    """The sub-commands, which shell completion asks for too."""

    def list_commands(self, ctx: object) -> list[str]:
        return list(COMMANDS)

    def format_help(self, ctx: object, formatter: object) -> None:
        show_help(terminal())

    def get_command(self, ctx: object, cmd_name: str) -> Any:
        return typer.main.get_command(load_command(cmd_name)) if cmd_name in COMMANDS else None


app = typer.Typer(cls=Commands, pretty_exceptions_show_locals=False, context_settings=HELP)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def divek(version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False) -> None:
    """Two-step answers of vision-language models, for classes that look alike."""


def show_help(console: Console) -> None:
    """Usage and the list of commands."""
    console.print("Usage: divek COMMAND [OPTIONS]    (divek COMMAND --help lists the options)\n", markup=False)
    table = Table("command", "what it does", box=None, pad_edge=False)
    for name, (_, text) in COMMANDS.items():
        table.add_row(name, text)
    console.print(table)
    console.print("\nCompletion in your shell: divek --install-completion", markup=False)


def run(arguments: Sequence[str]) -> int:
    """Exit status of ``divek *arguments``; wrong input ends with one sentence and status 2."""
    arguments = list(arguments) or ["--help"]
    name = arguments[0]
    if name not in COMMANDS and not name.startswith("-"):
        print(f"error: {name!r} is no command of divek: use one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return WRONG_INPUT
    try:
        typer.main.get_command(app)(args=arguments, prog_name="divek")
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename} cannot be used ({error.strerror}): give another path.", file=sys.stderr)
        return WRONG_INPUT
    except SystemExit as ended:  # how click reports its own status
        return int(ended.code or 0)
    return 0


def main() -> None:
    """Entry point of the ``divek`` script."""
    # A `kill` unwinds as Ctrl-C does, so that half a prepared set or an engine is not left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = run(sys.argv[1:])
    if status == STOPPED:
        # All is put away by now, except an engine whose start was stopped: its sockets would be waited for without end.
        from divek_verl.engines.watchdog import end_children

        end_children()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STOPPED)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
