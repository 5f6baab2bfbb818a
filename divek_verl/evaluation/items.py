"""Prepared rows as the pictures that an evaluation asks about."""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from divek_verl import prompts
from divek_verl.class_lists import classes_of, image_root
from divek_verl.engines.two_step import OpenQuestion, with_pictures
from divek_verl.errors import SetupError
from divek_verl.images import is_data_url
from divek_verl.votes_file import class_list_hash

BLOCK = 1 << 20


@dataclass(frozen=True)
class DataFile:
    """A parquet file as it stands in the results: what was evaluated can be told from another of the same name."""

    path: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Item:
    """One row: the open question, and what the evaluation knows beside it.

    ``truth`` is the display name where the class list knows it, else as the row spells it.
    """

    data_source: str
    image_id: str
    image: str
    truth: str
    question: OpenQuestion

    @property
    def key(self) -> tuple[str, str]:
        return self.data_source, self.image_id


def read_items(
    paths: Sequence[Path], *, min_pixels: int, max_pixels: int, open_vocabulary: bool = False
) -> tuple[list[Item], list[DataFile]]:
    """The rows of all files, sorted by data source and image: their order in the files changes nothing.

    Args:
        paths: parquet files of prepared sets.
        min_pixels, max_pixels: bounds of each picture.
        open_vocabulary: accept a truth that the class list does not know (a judge then decides).

    Raises:
        SetupError: a file or column is missing, two rows have one identity, a truth is not in its class list.
    """
    bounds = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    items: dict[tuple[str, str], Item] = {}
    files = []
    for path in paths:
        table = _read_table(path)
        files.append(DataFile(str(path), _sha256(path), table.num_rows))
        for item in _items(table, path, bounds, open_vocabulary):
            if item.key in items:
                raise SetupError(
                    f"{path} holds the image {item.image_id!r} of {item.data_source} a second time: "
                    "name each file once and give each row its own extra_info.image_id."
                )
            items[item.key] = item
    if not items:
        raise SetupError(
            f"{', '.join(map(str, paths))} hold no row of DiVE-k: give the parquet files of a prepared set."
        )
    return [items[key] for key in sorted(items)], files


def class_lists(items: Sequence[Item]) -> list[list[str]]:
    """Data source and hash of each class list that the answers about ``items`` are counted by, in order."""
    lists = {id(item.question.classes): (item.data_source, item.question.classes) for item in items}
    return sorted([source, class_list_hash(classes)] for source, classes in lists.values())


def _read_table(path: Path) -> pa.Table:
    if path.is_dir():
        raise SetupError(f"{path} is a folder: give --data its parquet files, such as {path / 'val_base.parquet'}.")
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise SetupError(f"{path} does not exist: give --data the parquet file of a prepared set.") from None
    except (OSError, pa.ArrowException) as error:
        raise SetupError(f"{path} cannot be read as parquet ({error}): prepare the data again.") from None
    missing = sorted({"data_source", "prompt", "images", "reward_model"} - set(table.column_names))
    if missing:
        raise SetupError(f"{path} has no column {missing[0]!r}: prepare the data with `divek prepare`.")
    return table


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _items(table: pa.Table, path: Path, bounds: Mapping[str, int], open_vocabulary: bool) -> Iterator[Item]:
    for index, row in enumerate(row for batch in table.to_batches(max_chunksize=256) for row in batch.to_pylist()):
        if row["data_source"].startswith("divek/"):
            yield _item(row, index, path, bounds, open_vocabulary)


def _item(row: dict[str, Any], index: int, path: Path, bounds: Mapping[str, int], open_vocabulary: bool) -> Item:
    folder = str(path.expanduser().resolve().parent)
    dataset, side = prompts.parse_data_source(row["data_source"])
    classes = classes_of(folder, row["data_source"])
    root = image_root(folder, dataset)
    given = row["reward_model"]["ground_truth"]
    truth = classes.match(given)
    image_id = str((row.get("extra_info") or {}).get("image_id") or index)
    if truth is None and not open_vocabulary:
        raise SetupError(
            f"The truth {given!r} of image {image_id} is not among the classes {side!r} beside {path}: "
            "prepare the data again, or let a judge decide with --judge openai."
        )
    pictures = [{"image": _picture(image, root), **bounds} for image in row["images"] or []]
    try:
        messages = with_pictures(row["prompt"], pictures)
    except ValueError as error:
        raise SetupError(f"Row {index} of {path} cannot be asked, {error}: prepare the data again.") from None
    asked = OpenQuestion(f"{row['data_source']}-{image_id}", dataset, classes, messages)
    return Item(row["data_source"], image_id, _shown_path(pictures), truth or given, asked)


def _picture(image: Mapping[str, Any], root: Path) -> str:
    """The path of a row's picture, or what is embedded as a ``data:`` URL, unread: damage is found when it is asked."""
    if image.get("bytes") is not None:
        return f"data:image/png;base64,{base64.b64encode(image['bytes']).decode()}"
    return str(root / str(image.get("image")))


def _shown_path(pictures: Sequence[Mapping[str, Any]]) -> str:
    """The first picture's path, for the record; empty for a picture that is no file."""
    image = pictures[0]["image"] if pictures else ""
    return "" if is_data_url(image) else image
