"""Writes a prepared set: every row checked, streamed into parquet, counted and reported."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from divek_verl import __version__
from divek_verl.class_lists import CLASSES_FILE, SET_FILE
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.prepare.classes import Classes
from divek_verl.prepare.contents import Contents
from divek_verl.prepare.examples import Example, Split
from divek_verl.prepare.grading import check_row
from divek_verl.prepare.pictures import Picture, check_picture, hash_file, in_threads
from divek_verl.prepare.report import print_report
from divek_verl.prepare.rows import EMBEDDED_SCHEMA, SCHEMA, Row, RowBuilder
from divek_verl.prompts import Wording

ROWS_PER_GROUP = 512
EMBEDDED_ROWS_PER_GROUP = 64


@dataclass(frozen=True)
class Policy:
    """What to do with a picture that cannot be used (stop or leave it out), and whether rows hold the pictures.

    `is_easy` says of a data source and a training example whether it is dropped because every vote is right already.
    """

    skip_bad: bool = False
    embed: bool = False
    is_easy: Callable[[str, Example], bool] = lambda data_source, example: False


@dataclass
class Written:
    """One parquet file: rows a class, and what was left out of it by reason."""

    name: str
    rows: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0

    def to_json(self) -> dict[str, Any]:
        facts = {"rows": self.rows.total(), "classes": len(self.rows), "duplicates": self.duplicates}
        return {**facts, "left_out": dict(self.left_out)} if self.left_out else facts


def write_set(
    folder: Path,
    dataset: str,
    classes: Classes,
    splits: Sequence[Split],
    *,
    wording: Wording = Wording(),
    root: Path | None = None,
    place: Path | None = None,
    held_out: Sequence[str] = (),
    policy: Policy | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Checks every row and writes the parquet file of each split, classes.json, set.json and a report on the screen.

    Args:
        folder: where to write, usually of `new_folder`.
        wording: nouns of the questions.
        root: folder that image paths start from; `folder` itself where it is None.
        place: where the folder will lie in the end, if not here.
        held_out: images of held-out classes that are in no split; their content may not be in training either.
        facts: how the set was made, for set.json.

    Raises:
        SetupError: a row fails its self-check, or a training image is held out elsewhere (unless bad ones are skipped).
    """
    classes.of("all")  # refuses two classes of one name, also where they are on different sides
    writer = _SetWriter(folder, dataset, classes, wording, root or folder, policy or Policy())
    writer.hold_out(held_out)
    # Validation first: only then is it known what may not be in training.
    written = {split.name: writer.write(split) for split in sorted(splits, key=lambda split: split.stage == "train")}
    files = [written[split.name] for split in splits]
    write_json(folder / CLASSES_FILE, {**classes.to_json(), "wording": asdict(wording)})
    elsewhere = None if writer.policy.embed else root
    roots = {} if elsewhere is None else {"image_roots": {dataset: recorded_root(elsewhere, place or folder)}}
    counts = {"files": {file.name: file.to_json() for file in files}, "versions": versions()}
    write_json(folder / SET_FILE, {"dataset": dataset, **roots, **(facts or {}), **counts})
    print_report(files, writer.contents)


class _SetWriter:
    """Writes splits one after another, with one memory of the pictures met."""

    def __init__(
        self, folder: Path, dataset: str, classes: Classes, wording: Wording, root: Path, policy: Policy
    ) -> None:
        self.folder = folder
        self.wording = wording
        self.dataset = dataset
        self.classes = classes
        self.root = root
        self.policy = policy
        self.contents = Contents()

    def hold_out(self, images: Sequence[str]) -> None:
        hashes = in_threads(lambda image: hash_file(self.root / image), images)
        for image, digest in tqdm(hashes, "hash held-out classes", len(images), unit="image", disable=not images):
            self.contents.hold_out(image, digest)

    def write(self, split: Split) -> Written:
        written = Written(split.name)
        names = self.classes.of(split.side)
        if not split.examples:
            raise SetupError(f"{split.name} of {self.dataset} would hold no image: give it some, or another setting.")
        schema, size = (EMBEDDED_SCHEMA, EMBEDDED_ROWS_PER_GROUP) if self.policy.embed else (SCHEMA, ROWS_PER_GROUP)
        write_rows(self.folder / f"{split.name}.parquet", schema, self._rows(split, names, written), size)
        if not written.rows:
            raise SetupError(f"No image of {split.name} of {self.dataset} can be used: mend or replace them.")
        return written

    def _rows(self, split: Split, names: ClassNames, written: Written) -> Iterator[Row]:
        builder = RowBuilder(self.dataset, split, names, self.wording)
        checked = in_threads(self._check, split.examples)
        for example, picture in tqdm(checked, f"check {split.name}", len(split.examples), unit="image"):
            if not self._accept(split, example, picture, written):
                continue
            row = builder.build(example, written.rows.total(), picture.content)
            check_row(row, names)
            written.rows[example.truth] += 1
            yield row

    def _check(self, example: Example) -> Picture:
        if any("\ud800" <= character <= "\udfff" for character in example.image):
            return Picture("has a name that is not UTF-8")
        return check_picture(self.root / example.image, keep_content=self.policy.embed)

    def _accept(self, split: Split, example: Example, picture: Picture, written: Written) -> bool:
        """Whether the example goes into the file; where not, it is counted, and unless it is easy, named."""
        problem, reason = picture.problem, "bad image"
        if split.stage == "val":
            self.contents.hold_out(example.image, picture.digest or None)
        elif problem is None:
            problem, reason = self.contents.why_not_in_training(example, picture.digest), "held out"
        if problem is not None:
            self._refuse(example, problem)
            written.left_out[reason] += 1
            return False
        if split.stage == "train" and self.policy.is_easy(f"divek/{self.dataset}/{split.side}", example):
            written.left_out["easy"] += 1
            return False
        before = len(self.contents.duplicates)
        self.contents.add(example, picture.digest)
        written.duplicates += len(self.contents.duplicates) - before
        return True

    def _refuse(self, example: Example, problem: str) -> None:
        sentence = f"{printable(self.root / example.image)} {problem}"
        if not self.policy.skip_bad:
            raise SetupError(f"{sentence}: mend or remove it, or leave such images out with --on-error skip.")
        tqdm.write(f"left out: {sentence}")


def write_rows(path: Path, schema: pa.Schema, rows: Iterator[Row], rows_per_group: int) -> None:
    """Streams rows into a parquet file, so that memory does not grow with their number."""
    with pq.ParquetWriter(path, schema) as writer:
        group: list[Row] = []
        for row in rows:
            group.append(row)
            if len(group) == rows_per_group:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """What the bytes of the files depend on."""
    return {"divek_verl": __version__, "pillow": PIL.__version__, "pyarrow": pa.__version__}


def printable(path: Path) -> str:
    """A path as one line of text for any screen: line breaks and bytes that are not UTF-8 as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def recorded_root(root: Path, place: Path) -> dict[str, str]:
    """A folder of images as set.json holds it, for a set that lies in `place`."""
    root, place = root.resolve(), place.expanduser().resolve()
    return {"absolute": str(root), "relative": Path(os.path.relpath(root, place)).as_posix()}
