"""``divek report RUN_DIR [RUN_DIR ...]``: the HTML page of a run, or of several runs."""

from pathlib import Path
from typing import Annotated

import typer

from divek_verl.report.page import write_comparison, write_report


def main(
    run_dir: Annotated[list[Path], typer.Argument(help="Directory with a run's records; several to compare runs.")],
    out: Annotated[Path | None, typer.Option(help="Page; unset: report.html or comparison.html in RUN_DIR.")] = None,
) -> None:
    """Write a self-contained HTML report of a run, or of several runs side by side."""
    print(write_report(run_dir[0], out) if len(run_dir) == 1 else write_comparison(run_dir, out))
