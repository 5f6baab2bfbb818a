"""``divek inspect``: the counts of a prepared set, and a page with some of its pictures."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from divek_verl.errors import SetupError
from divek_verl.images import open_picture, upright_size
from divek_verl.prepare.folder import SHEET_FILE, SPLITS
from divek_verl.prepare.rows import picture_of, rows_of
from divek_verl.prepare.sheet import write_sheet
from divek_verl.prepare.tokens import PromptCounter
from divek_verl.progress import progress
from divek_verl.settings import Settings


@dataclass
class Summary:
    """Counts of one parquet file.

    Attributes:
        classes: rows of each (data set, class).
        widths, heights: sizes of the readable pictures, upright.
        unreadable: image ids.
        tokens: lengths of whole prompts.
    """

    name: str
    classes: Counter[tuple[str, str]] = field(default_factory=Counter)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.classes.total()


def main(
    folder: Annotated[Path, typer.Argument(help="A prepared set.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of a tokenizer, to count the prompts' tokens.")] = None,
    max_prompt_length: Annotated[int, typer.Option(min=1, help="Count the prompts that are longer than this.")] = 1024,
    max_pixels: Annotated[int, typer.Option(min=784, help="Maximum pixels of a picture, as divek.max_pixels.")] = (
        Settings().max_pixels
    ),
    per_class: Annotated[int, typer.Option(min=1, help="Pictures of each class and file on the sheet.")] = 3,
    out: Annotated[Path | None, typer.Option(help=f"The page to write [DIR/{SHEET_FILE}].")] = None,
) -> None:
    """Summarise a prepared set and write an HTML contact sheet of it."""
    folder = folder.expanduser()
    files = [name for name in SPLITS if (folder / f"{name}.parquet").is_file()]
    if not files:
        raise SetupError(f"{folder} holds no parquet file of a prepared set: give the folder that --out named.")
    counter = None if tokenizer is None else PromptCounter(tokenizer, max_pixels)
    summaries = [summarise(folder, name, counter) for name in files]
    console = Console(soft_wrap=True)
    console.print(_table(summaries))
    for summary in summaries:
        for line in _lines(summary, max_prompt_length if counter else None):
            console.print(line, markup=False, highlight=False)
    page = write_sheet(folder, files, out or folder / SHEET_FILE, per_class)
    console.print(f"contact sheet: {page}", markup=False, highlight=False)


def summarise(folder: Path, name: str, counter: PromptCounter | None = None) -> Summary:
    """Counts of one file; only the header of each picture is read."""
    summary = Summary(name)
    with pq.ParquetFile(folder / f"{name}.parquet") as file:
        total = file.metadata.num_rows
    for row in progress(rows_of(folder, name), f"read {name}", total, unit="image"):
        summary.classes[(row["extra_info"]["dataset"], row["reward_model"]["ground_truth"])] += 1
        source = picture_of(row, folder)
        try:
            with open_picture(source) as picture:
                width, height = upright_size(picture)
        except Exception:  # whatever Pillow raises on a broken file
            summary.unreadable.append(row["extra_info"]["image_id"])
            continue
        summary.widths.append(width)
        summary.heights.append(height)
        if counter is not None:
            summary.tokens.append(counter.count(row["prompt"], width, height))
    return summary


def _table(summaries: Sequence[Summary]) -> Table:
    table = Table("file", "rows", "classes", "rows a class", "width", "height", "unreadable")
    for summary in summaries:
        counts = (summary.rows, len(summary.classes))
        ranges = (summary.classes.values(), summary.widths, summary.heights)
        table.add_row(summary.name, *map(str, counts), *map(spread, ranges), str(len(summary.unreadable)))
    return table


def _lines(summary: Summary, limit: int | None) -> Iterator[str]:
    if summary.unreadable:
        yield f"{summary.name}: unreadable: {', '.join(summary.unreadable[:5])}"
    if limit is not None:
        over = sum(tokens > limit for tokens in summary.tokens)
        share = over / len(summary.tokens) if summary.tokens else 0.0
        yield f"{summary.name}: prompt tokens {spread(summary.tokens)}; over {limit}: {over} rows, {share:.1%}"


def spread(values: Any) -> str:
    """`min / median / max`, or a dash for no values."""
    values = list(values)
    return f"{min(values)} / {median(values):g} / {max(values)}" if values else "-"
