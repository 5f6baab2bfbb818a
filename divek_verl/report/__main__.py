"""``python -m divek_verl.report RUN_DIR [--out FILE]``."""

from pathlib import Path
from typing import Annotated

import typer

from divek_verl.errors import SetupError
from divek_verl.report.page import write_report


def main(
    run_dir: Annotated[Path, typer.Argument(help="The directory with the records of a run.")],
    out: Annotated[Path | None, typer.Option(help="The page to write [RUN_DIR/report.html].")] = None,
) -> None:
    """Write a self-contained HTML report of a run."""
    try:
        print(write_report(run_dir, out))
    except SetupError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
