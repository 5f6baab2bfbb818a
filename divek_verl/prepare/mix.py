"""Several prepared sets as one: each row keeps its own set's class list, noun and prompt."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from divek_verl.class_lists import CLASSES_FILE, SET_FILE, image_root, read_set_file
from divek_verl.errors import SetupError
from divek_verl.prepare.division import draw_per_class
from divek_verl.prepare.folder import SPLITS, new_folder
from divek_verl.prepare.rows import EMBEDDED_SCHEMA, MIXED_SCHEMA, SCHEMA, Row
from divek_verl.prepare.stored import rows_of
from divek_verl.prepare.write import ROWS_PER_GROUP, recorded_root, versions, write_json, write_rows


@dataclass(frozen=True)
class Prepared:
    """A set to mix in: its folder, its data sets (more than one where it is mixed itself) and their class lists."""

    folder: Path
    classes: dict[str, Any]

    @property
    def files(self) -> list[str]:
        return [name for name in SPLITS if (self.folder / f"{name}.parquet").exists()]

    def roots(self) -> dict[str, Path]:
        return {name: image_root(str(self.folder), name) for name in self.classes}


def main(
    sets: Annotated[list[Path], typer.Argument(help="Folders of prepared sets.")],
    out: Annotated[Path, typer.Option(help="Folder to write, replaced if it holds a prepared set.")],
    per_class: Annotated[int | None, typer.Option(min=1, help="At most so many training images a class [all].")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the images that --per-class draws.")] = 0,
) -> None:
    """Merge prepared sets into one of mixed domains; validation files are merged whole."""
    prepared = [_open(folder) for folder in sets]
    files = _common_files(prepared)
    classes = _merged_classes(prepared)
    with new_folder(out) as folder:
        written = {name: _write(folder / f"{name}.parquet", prepared, name, per_class, seed) for name in files}
        write_json(folder / CLASSES_FILE, {"sets": classes})
        roots = {
            name: recorded_root(image_root(str(each.folder), name), out) for each in prepared for name in each.classes
        }
        facts = {"mixed": list(classes), "per_class": per_class, "seed": seed}
        write_json(folder / SET_FILE, {"image_roots": roots, **facts, "files": written, "versions": versions()})
    table = Table("file", *classes, "images")
    for name, counts in written.items():
        table.add_row(name, *(str(counts.get(dataset, 0)) for dataset in classes), str(sum(counts.values())))
    Console(soft_wrap=True).print(table)


def _open(folder: Path) -> Prepared:
    folder = folder.expanduser().resolve()
    try:
        classes = json.loads((folder / CLASSES_FILE).read_text(encoding="utf-8"))
        if "sets" in classes:
            return Prepared(folder, classes["sets"])
    except (OSError, ValueError, TypeError):
        raise SetupError(f"{folder} is no prepared set (no readable {CLASSES_FILE}): prepare it first.") from None
    recorded = read_set_file(folder).get("dataset")
    return Prepared(folder, {recorded or _dataset_of_rows(folder): classes})


def _dataset_of_rows(folder: Path) -> str:
    """The data set of a folder without set.json, from its first row."""
    first = next(rows_of(folder, "train"), None) if (folder / "train.parquet").exists() else None
    if first is None:
        raise SetupError(f"{folder} holds no rows in train.parquet: prepare it first.")
    return str(first["extra_info"]["dataset"])


def _common_files(sets: Sequence[Prepared]) -> list[str]:
    for each in sets[1:]:
        if each.files != sets[0].files:
            raise SetupError(
                f"{sets[0].folder} holds {', '.join(sets[0].files)} and {each.folder} {', '.join(each.files)}: "
                "prepare both with the same --setting."
            )
    return sets[0].files


def _merged_classes(sets: Sequence[Prepared]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for each in sets:
        for name, classes in each.classes.items():
            if name in merged:
                raise SetupError(
                    f"Two of the sets are called {name!r}: mix only one of them, or prepare one with another --name."
                )
            merged[name] = classes
    return merged


def _write(path: Path, sets: Sequence[Prepared], name: str, per_class: int | None, seed: int) -> dict[str, int]:
    """Writes one file; returns its rows by data set."""
    counts: Counter[str] = Counter()
    index = count()

    def rows() -> Iterator[Row]:
        for each in sets:
            limit = per_class if name == "train" else None
            kept = _drawn(each, name, limit, seed)
            for place, row in enumerate(rows_of(each.folder, name)):
                if kept is None or place in kept:
                    counts[row["extra_info"]["dataset"]] += 1
                    row["extra_info"]["index"] = next(index)
                    yield row

    # The type of one picture, not of the list: parquet names a list's elements as it likes.
    stored = {str(pq.read_schema(each.folder / f"{name}.parquet").field("images").type.value_type) for each in sets}
    same = [schema for schema in (SCHEMA, EMBEDDED_SCHEMA) if stored == {str(schema.field("images").type.value_type)}]
    write_rows(path, same[0] if same else MIXED_SCHEMA, rows(), ROWS_PER_GROUP)
    return dict(counts)


def _drawn(each: Prepared, name: str, per_class: int | None, seed: int) -> set[int] | None:
    """Places of the rows to keep; None for all."""
    if per_class is None:
        return None
    columns = pq.read_table(each.folder / f"{name}.parquet", columns=["data_source", "reward_model"]).to_pylist()
    keys = [f"{row['data_source']}/{row['reward_model']['ground_truth']}" for row in columns]
    return draw_per_class(keys, per_class, f"{seed}-mix")
