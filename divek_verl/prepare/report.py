"""What preparing a set says at its end."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from divek_verl.prepare.contents import Contents

if TYPE_CHECKING:
    from divek_verl.prepare.write import Written

NAMED_DUPLICATES = 5


def print_report(files: Sequence["Written"], contents: Contents) -> None:
    """Counts of each file, duplicates by name, and what was compared to keep held-out images out of training."""
    console = Console(soft_wrap=True)
    table = Table("file", "images", "classes", "duplicates", "left out")
    for file in files:
        left_out = ", ".join(f"{count} {reason}" for reason, count in file.left_out.items()) or "0"
        table.add_row(file.name, str(file.rows.total()), str(len(file.rows)), str(file.duplicates), left_out)
    console.print(table)
    for line in (*_duplicate_lines(contents), *_held_out_lines(files, contents)):
        console.print(line, markup=False, highlight=False)


def _held_out_lines(files: Sequence["Written"], contents: Contents) -> list[str]:
    left_out = sum(file.left_out["bad image"] + file.left_out["held out"] for file in files)
    lines = [
        f"train holds none of the {contents.held_out} images of validation files and held-out classes: "
        "compared by path and by content"
    ]
    return [*lines, f"left out {left_out} images in all, each is named above"] if left_out else lines


def _duplicate_lines(contents: Contents) -> list[str]:
    found = contents.duplicates
    lines = [
        f"duplicate: {pair.image} ({pair.truth}) has the content of {pair.earlier} ({pair.earlier_truth})"
        for pair in found[:NAMED_DUPLICATES]
    ]
    rest = len(found) - NAMED_DUPLICATES
    conflicts = sum(pair.truth != pair.earlier_truth for pair in found)
    if rest > 0:
        lines.append(f"duplicate: {rest} more")
    return [*lines, f"{len(found)} duplicates, {conflicts} of them under another class"] if found else lines
