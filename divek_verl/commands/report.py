"""``divek report RUN_DIR [RUN_DIR ...]``, also as ``python -m divek_verl.report``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from divek_verl.report.page import write_comparison, write_report


def main(
    run_dir: Annotated[list[Path], typer.Argument(help="The directory with the records of a run; several to compare.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write [RUN_DIR/report.html; several: comparison.html].")
    ] = None,
) -> None:
    """Write a self-contained HTML report of a run, or of several beside each other."""
    print(write_report(run_dir[0], out) if len(run_dir) == 1 else write_comparison(run_dir, out))


if __name__ == "__main__":
    from divek_verl.cli import run

    raise SystemExit(run(["report", *sys.argv[1:]]))
