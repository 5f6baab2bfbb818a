"""Running a data_prep script."""

import sys
from collections.abc import Callable

import typer

from divek_verl.errors import SetupError

WRONG_INPUT = 2


def run_script(main: Callable[..., None]) -> None:
    """Runs a script's typer function; a SetupError ends it with its sentence and status 2."""
    try:
        typer.run(main)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(WRONG_INPUT) from None
