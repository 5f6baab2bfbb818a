"""The one reader of prepared rows outside verl. Its messages equal those of ``DiveKDataset`` on the same rows."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from divek_verl.class_lists import classes_of, image_root, wording_of
from divek_verl.errors import SetupError
from divek_verl.images import picture_entry
from divek_verl.labels import ClassNames
from divek_verl.prompts import PLACEHOLDER, Message, Wording, check_stored_row, parse_data_source

Key = tuple[str, str]
Messages = Sequence[Message]

COLUMNS = ("data_source", "prompt", "images", "reward_model")
BLOCK = 1 << 20
# Groups of rows with embedded pictures that are held in memory.
GROUPS_IN_MEMORY = 4


@dataclass(frozen=True)
class PreparedRow:
    """The open question about one picture, with the nouns of its questions and chat messages as in ``Request``.

    ``data_source`` is ``divek/<set>/<side>``, empty for a person's own picture; ``image_id`` is unique in it. ``image``
    is a path, empty where the row holds the picture itself. ``truth`` is a display name, or the row's spelling where
    the class list does not know it. Without ``classes`` any answer may become an option.
    """

    data_source: str
    image_id: str
    image: str
    truth: str
    classes: ClassNames | None
    wording: Wording
    messages: Messages

    @property
    def key(self) -> Key:
        return self.data_source, self.image_id


@dataclass(frozen=True)
class DataFile:
    """A parquet file as results name it: the hash tells its content from that of another file of the same name."""

    path: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class _StoredRow:
    """A row in memory. Embedded pictures stay in the file: ``images`` is None."""

    path: Path
    group: int
    index: int
    root: Path
    truth: str
    wording: Wording
    prompt: Messages
    images: Sequence[Mapping[str, object]] | None


@dataclass
class PreparedRows:
    """The rows of DiVE-k in some files, and the number of others; messages and embedded pictures are made on demand."""

    min_pixels: int
    max_pixels: int
    keys: list[Key] = field(default_factory=list)
    classes: dict[str, ClassNames] = field(default_factory=dict)
    others: int = 0
    _stored: dict[Key, _StoredRow] = field(default_factory=dict)
    _rows_of: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._images_of_group = lru_cache(maxsize=GROUPS_IN_MEMORY)(_read_images)

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[PreparedRow]:
        return (self[key] for key in self.keys)

    def __getitem__(self, key: Key) -> PreparedRow:
        stored = self._stored[key]
        images = stored.images
        if images is None:
            images = self._images_of_group(stored.path, stored.group)[stored.index]
        bounds = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        pictures = [picture_entry(image, stored.root, **bounds) for image in images]
        path = str(pictures[0]["image"]) if pictures and stored.images is not None else ""
        messages = with_pictures(stored.prompt, pictures)
        return PreparedRow(*key, path, stored.truth, self.classes[key[0]], stored.wording, messages)

    @cached_property
    def files(self) -> list[DataFile]:
        found = []
        for path, rows in self._rows_of.items():
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
            found.append(DataFile(str(path), digest.hexdigest(), rows))
        return found


def files_of(given: Sequence[Path], pattern: str) -> list[Path]:
    """The files of ``--data``; the folder of a prepared set stands for its files that match ``pattern``.

    Raises:
        SetupError: a file is missing, or is no regular file.
    """
    files: list[Path] = []
    for path in given:
        found = sorted(path.glob(pattern)) if path.is_dir() else [path]
        if not found:
            raise SetupError(f"{path} holds no {pattern}: give --data the folder or a parquet file of a prepared set.")
        files += found
    for path in files:
        if not path.exists():
            raise SetupError(f"{path} does not exist: give --data the parquet file of a prepared set.")
        if not path.is_file():  # a pipe would be waited for
            raise SetupError(f"{path} is no regular file: give --data the parquet file of a prepared set.")
    return files


def read_rows(
    paths: Sequence[Path], *, min_pixels: int, max_pixels: int, limit: int | None = None, open_vocabulary: bool = False
) -> PreparedRows:
    """The rows of parquet files of prepared sets. A picture that cannot be read is found when it is asked about.

    Args:
        paths: parquet files of prepared sets; a folder stands for its ``*.parquet``.
        min_pixels, max_pixels: bounds of each picture.
        limit: read only the first rows of each file.
        open_vocabulary: accept a truth that is not in the class list; a judge then decides on answers.

    Raises:
        SetupError: a file, a column or a class list is missing, a row cannot be asked (``check_stored_row``), two rows
            are the same image, a truth is not in its class list, or there is no row of DiVE-k.
    """
    if not 1 <= min_pixels <= max_pixels:
        raise SetupError(f"Pictures of {min_pixels} to {max_pixels} pixels do not exist: correct one of the two.")
    found = PreparedRows(min_pixels, max_pixels)
    # The rows of a set share a few prompts, which can be long.
    prompts: dict[str, Messages] = {}
    for path in files_of(paths, "*.parquet"):
        folder = str(path.expanduser().resolve().parent)
        most = None if limit is None else len(found) + limit
        for group, index, number, row in _rows_of(path, found):
            source = row["data_source"]
            if not check_stored_row(f"Row {number} of {path}", row):
                found.others += 1
                continue
            if len(found) == most:
                break
            prompt = prompts.setdefault(json.dumps(row["prompt"]), row["prompt"])
            images = row["images"]
            embedded = any(image.get("bytes") is not None for image in images)
            key = source, _image_id(row, number)
            if key in found._stored:
                raise SetupError(
                    f"{path} holds the image {key[1]!r} of {source} a second time: "
                    "name each file once and give each row its own extra_info.image_id."
                )
            classes = classes_of(folder, source)
            known = found.classes.setdefault(source, classes)
            if known is not classes and (known.names, known.aliases) != (classes.names, classes.aliases):
                raise SetupError(f"{source} has another class list beside {path} than before: give such files singly.")
            dataset, side = parse_data_source(source)
            given: str = row["reward_model"]["ground_truth"]
            truth = classes.match(given)
            if truth is None and not open_vocabulary:
                raise SetupError(
                    f"The truth {given!r} of image {key[1]} is not among the classes {side!r} beside {path}: "
                    "prepare the data again, or let a judge decide (divek eval --judge openai)."
                )
            found.keys.append(key)
            found._stored[key] = _StoredRow(
                path,
                group,
                index,
                root=image_root(folder, dataset),
                truth=given if truth is None else truth,
                wording=wording_of(folder, source),
                prompt=prompt,
                images=None if embedded else images,
            )
    if not found.keys:
        raise SetupError(
            f"{', '.join(map(str, paths))} hold no row of DiVE-k: give the parquet files of a prepared set."
        )
    return found


def with_pictures(prompt: Messages, pictures: Sequence[Mapping[str, object]]) -> Messages:
    """A row's prompt with each ``<image>`` replaced by the next of ``pictures``, as verl does it."""
    left = iter(pictures)
    built: list[Message] = []
    for message in prompt:
        content = message["content"]
        if pictures and isinstance(content, str):
            pieces = [piece for piece in re.split(f"({PLACEHOLDER})", content) if piece]
            content = [
                {"type": "image", **next(left)} if piece == PLACEHOLDER else {"type": "text", "text": piece}
                for piece in pieces
            ]
        built.append({**message, "content": content})
    return built


def _rows_of(path: Path, found: PreparedRows) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
    """Each row with its row group, its index in the group and its index in the file."""
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise SetupError(f"{path} has no column {missing[0]!r}: prepare the data with `divek prepare`.")
        found._rows_of[path] = file.metadata.num_rows
        wanted = [name for name in (*COLUMNS, "extra_info") if name in names]
        number = 0
        for group in range(file.num_row_groups):
            for index, row in enumerate(file.read_row_group(group, columns=wanted).to_pylist()):
                yield group, index, number, row
                number += 1
    except (OSError, pa.ArrowException) as error:
        raise SetupError(f"{path} cannot be read as parquet ({error}): prepare the data again.") from None


def _read_images(path: Path, group: int) -> list[list[dict[str, object]]]:
    return [images or [] for images in pq.ParquetFile(path).read_row_group(group, columns=["images"])[0].to_pylist()]


def _image_id(row: Mapping[str, Any], number: int) -> str:
    given = row.get("extra_info") or {}
    return str(next((given[name] for name in ("image_id", "index") if given.get(name) is not None), number))
