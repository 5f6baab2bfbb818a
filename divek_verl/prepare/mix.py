"""Several prepared sets as one: each row keeps its own set's class list, wording and prompt."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer
from rich.table import Table

from divek_verl.class_lists import CLASSES_FILE, SET_FILE, image_root, read_set_file
from divek_verl.console import terminal
from divek_verl.errors import SetupError
from divek_verl.files import parse_json
from divek_verl.prepare.folder import SPLITS, new_folder, recorded_root, versions, write_json
from divek_verl.prepare.rows import EMBEDDED_SCHEMA, MIXED_SCHEMA, SCHEMA, Row, rows_of, write_rows


def main(
    sets: Annotated[list[Path], typer.Argument(help="Folders of prepared sets.")],
    out: Annotated[Path, typer.Option(help="Folder to write, replaced if it holds a prepared set.")],
    per_class: Annotated[int | None, typer.Option(min=1, help="Maximum training images per class; unset: all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the images that --per-class draws.")] = 0,
) -> None:
    """Merge prepared sets into one of mixed domains; validation files are merged whole."""
    folders = [folder.expanduser().resolve() for folder in sets]
    classes: dict[str, object] = {}
    roots = {}
    for folder in folders:
        for name, lists in _class_lists(folder).items():
            if name in classes:
                raise SetupError(f"Two of the sets are called {name!r}: prepare one of them with another --name.")
            classes[name] = lists
            roots[name] = recorded_root(image_root(str(folder), name), out)
    files = [[name for name in SPLITS if (folder / f"{name}.parquet").exists()] for folder in folders]
    for folder, names in zip(folders, files, strict=True):
        if names != files[0]:
            raise SetupError(
                f"{folders[0]} holds {', '.join(files[0])} and {folder} {', '.join(names)}: "
                "prepare both with the same --setting."
            )
    with new_folder(out) as folder:
        written = {name: _write(folder / f"{name}.parquet", folders, name, per_class, seed) for name in files[0]}
        write_json(folder / CLASSES_FILE, {"sets": classes})
        facts = {"mixed": list(classes), "per_class": per_class, "seed": seed}
        write_json(folder / SET_FILE, {"image_roots": roots, **facts, "files": written, "versions": versions()})
    table = Table("file", *classes, "images")
    for name, counts in written.items():
        table.add_row(name, *(str(counts.get(dataset, 0)) for dataset in classes), str(sum(counts.values())))
    terminal().print(table)


def _class_lists(folder: Path) -> dict[str, object]:
    """The part of each data set in a set's classes.json; a mixed set has several."""
    try:
        content = parse_json((folder / CLASSES_FILE).read_text(encoding="utf-8"))
        if "sets" in content:
            return dict(content["sets"])
    except (OSError, ValueError, TypeError):
        raise SetupError(f"{folder} is no prepared set (no readable {CLASSES_FILE}): prepare it first.") from None
    dataset = read_set_file(folder).get("dataset")
    if dataset is None:  # rows that another program wrote
        first = next(rows_of(folder, "train"), None) if (folder / "train.parquet").exists() else None
        if first is None:
            raise SetupError(f"{folder} holds no rows in train.parquet: prepare it first.")
        dataset = first["extra_info"]["dataset"]
    return {str(dataset): content}


def _write(path: Path, folders: Sequence[Path], name: str, per_class: int | None, seed: int) -> dict[str, int]:
    """Write one file; the number of its rows per data set."""
    counts: Counter[str] = Counter()
    numbers = count()

    def rows() -> Iterator[Row]:
        for folder in folders:
            drawn = None if per_class is None or name != "train" else _drawn(folder, name, per_class, f"{seed}-mix")
            for index, row in enumerate(rows_of(folder, name)):
                if drawn is None or index in drawn:
                    counts[row["extra_info"]["dataset"]] += 1
                    row["extra_info"]["index"] = next(numbers)
                    yield row

    # The type of one picture, not of the list: parquet names a list's elements as it likes.
    stored = {str(pq.read_schema(folder / f"{name}.parquet").field("images").type.value_type) for folder in folders}
    same = [schema for schema in (SCHEMA, EMBEDDED_SCHEMA) if stored == {str(schema.field("images").type.value_type)}]
    write_rows(path, same[0] if same else MIXED_SCHEMA, rows())
    return dict(counts)


def _drawn(folder: Path, name: str, per_class: int, seed: str) -> set[int]:
    groups: dict[str, list[int]] = {}
    columns = pq.read_table(folder / f"{name}.parquet", columns=["data_source", "reward_model"]).to_pylist()
    for index, row in enumerate(columns):
        groups.setdefault(f"{row['data_source']}/{row['reward_model']['ground_truth']}", []).append(index)
    return {
        index
        for key, group in groups.items()
        for index in random.Random(f"{seed}-{key}").sample(group, min(per_class, len(group)))
    }
