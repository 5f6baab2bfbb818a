"""``divek inspect``: the counts of a prepared set, and a page with some of its pictures."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Annotated

import pyarrow.parquet as pq
import typer
from rich.table import Table

from divek_verl.console import terminal
from divek_verl.errors import SetupError
from divek_verl.files import parse_json
from divek_verl.images import PictureLimits, UnreadableImage, open_picture, thumbnail, to_data_url, upright_size
from divek_verl.prepare.folder import SHEET_FILE, SPLITS
from divek_verl.prepare.rows import picture_of, rows_of
from divek_verl.progress import progress
from divek_verl.prompts import check_stored_row
from divek_verl.settings import DEFAULTS
from divek_verl.templates import environment

THUMBNAIL_PIXELS = 112
MAX_PICTURES = 3000  # about 9 MB of page


@dataclass
class Summary:
    """Counts of one parquet file: rows of each (data set, class), upright sizes of readable pictures, tokens."""

    name: str
    classes: Counter[tuple[str, str]] = field(default_factory=Counter)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def main(
    folder: Annotated[Path, typer.Argument(help="A prepared set.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of a tokenizer, to count the prompts' tokens.")] = None,
    max_prompt_length: Annotated[int, typer.Option(min=1, help="Count the prompts that are longer than this.")] = 1024,
    max_pixels: Annotated[int, typer.Option(min=784, help="Maximum pixels of a picture, as divek.max_pixels.")] = (
        DEFAULTS.max_pixels
    ),
    per_class: Annotated[int, typer.Option(min=1, help="Pictures of each class and file on the sheet.")] = 3,
    out: Annotated[Path | None, typer.Option(help=f"The page to write; by default {SHEET_FILE} in FOLDER.")] = None,
) -> None:
    """Summarise a prepared set and write an HTML contact sheet of it."""
    folder = folder.expanduser()
    files = [name for name in SPLITS if (folder / f"{name}.parquet").is_file()]
    if not files:
        raise SetupError(f"{folder} holds no parquet file of a prepared set: give the folder that --out named.")
    counter = None if tokenizer is None else PromptCounter(tokenizer, max_pixels)
    summaries = [summarise(folder, name, counter) for name in files]
    console = terminal()
    table = Table("file", "rows", "classes", "rows a class", "width", "height", "unreadable")
    for each in summaries:
        counts = (each.classes.total(), len(each.classes))
        ranges = (each.classes.values(), each.widths, each.heights)
        table.add_row(each.name, *map(str, counts), *map(spread, ranges), str(len(each.unreadable)))
    console.print(table)
    for each in summaries:
        lines = [f"{each.name}: unreadable: {', '.join(each.unreadable[:5])}"] if each.unreadable else []
        if counter is not None:
            over = sum(tokens > max_prompt_length for tokens in each.tokens)
            share = over / len(each.tokens) if each.tokens else 0.0
            counted = f"over {max_prompt_length}: {over} rows, {share:.1%}"
            lines.append(f"{each.name}: prompt tokens {spread(each.tokens)}; {counted}")
        for line in lines:
            console.print(line, markup=False, highlight=False)
    page = write_sheet(folder, files, out or folder / SHEET_FILE, per_class)
    console.print(f"contact sheet: {page}", markup=False, highlight=False)


def summarise(folder: Path, name: str, counter: "PromptCounter | None" = None) -> Summary:
    """Counts of one file; only the header of each picture is read."""
    summary = Summary(name)
    with pq.ParquetFile(folder / f"{name}.parquet") as file:
        total = file.metadata.num_rows
    for number, row in enumerate(progress(rows_of(folder, name), f"read {name}", total, unit="image")):
        check_stored_row(f"Row {number} of {folder / name}.parquet", row)
        summary.classes[(row["extra_info"]["dataset"], row["reward_model"]["ground_truth"])] += 1
        try:
            with open_picture(picture_of(row, folder)) as picture:
                width, height = upright_size(picture)
        except UnreadableImage:
            summary.unreadable.append(row["extra_info"]["image_id"])
            continue
        summary.widths.append(width)
        summary.heights.append(height)
        if counter is not None:
            summary.tokens.append(counter.count(row["prompt"], width, height))
    return summary


def spread(values: Iterable[int]) -> str:
    """`min / median / max`, or a dash for no values."""
    values = list(values)
    return f"{min(values)} / {median(values):g} / {max(values)}" if values else "-"


@dataclass
class SheetGroup:
    """The rows of one class in one file, and (image id, data URL) of its first pictures; None where unreadable."""

    truth: str
    rows: int = 0
    pictures: list[tuple[str, str | None]] = field(default_factory=list)


def write_sheet(folder: Path, names: Sequence[str], out: Path, per_class: int = 3) -> Path:
    """Write the page for the parquet files `names` and return its path."""
    left = MAX_PICTURES
    # file -> data source -> class, in the order of the rows
    sections: dict[str, dict[str, dict[str, SheetGroup]]] = {name: {} for name in names}
    for name, sources in sections.items():
        for row in rows_of(folder, name):
            truth = row["reward_model"]["ground_truth"]
            group = sources.setdefault(row["data_source"], {}).setdefault(truth, SheetGroup(truth))
            group.rows += 1
            if len(group.pictures) < per_class and left > 0:
                small = thumbnail(picture_of(row, folder), THUMBNAIL_PIXELS, 80, "JPEG", PictureLimits())
                group.pictures.append((row["extra_info"]["image_id"], to_data_url(small) if small else None))
                left -= 1
    page = environment().get_template("sheet.html.j2").render(title=folder.resolve().name, sections=sections)
    out.write_text(page, encoding="utf-8")
    return out


class PromptCounter:
    """Counts a prompt's tokens: its text with a tokenizer and its chat template, its picture by size alone."""

    def __init__(self, folder: Path, max_pixels: int) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # transformers raises many kinds for a folder that is no tokenizer
            raise SetupError(f"{folder} holds no tokenizer ({' '.join(str(error).split())[:200]}).") from error
        if not self.tokenizer.chat_template:
            raise SetupError(f"The tokenizer of {folder} has no chat template: give the model's own folder.")
        # Pixels of a patch's side times patches of a token's side; the defaults are Qwen2.5-VL's, for a folder with a
        # tokenizer and no processor.
        self.side = 14 * 2
        for file in ("preprocessor_config.json", "processor_config.json"):
            try:
                content = parse_json((folder / file).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            content = content.get("image_processor", content)
            self.side = int(content.get("patch_size", 14)) * int(content.get("merge_size", 2))
            break
        self.max_pixels = max_pixels
        # There are few different prompts, one for each class list.
        self._text_tokens = lru_cache(maxsize=64)(self._count_text)

    def count(self, prompt: Sequence[dict[str, str]], width: int, height: int) -> int:
        """Tokens of a conversation with one picture of this size."""
        from qwen_vl_utils.vision_process import smart_resize

        bounds = {"min_pixels": DEFAULTS.min_pixels, "max_pixels": self.max_pixels}
        rows, columns = smart_resize(height, width, factor=self.side, **bounds)
        return self._text_tokens(json.dumps(list(prompt))) + rows * columns // self.side**2

    def _count_text(self, prompt: str) -> int:
        text = self.tokenizer.apply_chat_template(json.loads(prompt), add_generation_prompt=True, tokenize=False)
        # The two tokens around a picture replace <image>.
        return len(self.tokenizer.encode(text.replace("<image>", ""), add_special_tokens=False)) + 2
