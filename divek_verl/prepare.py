"""What all data_prep scripts share: rows in verl's schema, their self-check, and the files of a prepared set.

A prepared set is a folder with train.parquet, val_base.parquet, val_new.parquet and classes.json. Image paths
in its rows are relative to it, so that it can be moved; a set with images elsewhere stores absolute paths.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.prompts import open_question, user_prompt
from divek_verl.question import Question, build_question
from divek_verl.reward import compute_score
from divek_verl.votes import count_votes

MIN_SIDE = 8
_CONTENTS = {"train.parquet", "val_base.parquet", "val_new.parquet", "classes.json", "images"}

SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "images": pa.list_(pa.struct({"image": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct(
            {"index": pa.int64(), "split": pa.string(), "image_id": pa.string(), "dataset": pa.string()}
        ),
    }
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One labelled image: its path (relative to the prepared set, or absolute), class name and identity."""

    image: str
    truth: str
    image_id: str


@dataclass(frozen=True)
class Classes:
    """The classes of a data set in label order, split into base (trained on) and new (held out)."""

    all: tuple[str, ...]
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def base(self) -> tuple[str, ...]:
        """The first half, rounded up: the split of the base-to-novel literature (CoOp and after)."""
        return self.all[: (len(self.all) + 1) // 2]

    @property
    def new(self) -> tuple[str, ...]:
        return self.all[len(self.base) :]

    def of(self, side: str) -> ClassNames:
        """Class list of "base", "new" or "all", with the aliases of its classes."""
        names = {"base": self.base, "new": self.new, "all": self.all}[side]
        return ClassNames(names, aliases={name: self.aliases[name] for name in names if name in self.aliases})

    def to_json(self) -> dict[str, Any]:
        sides = {"base": list(self.base), "new": list(self.new), "all": list(self.all)}
        aliases = {name: list(spellings) for name, spellings in self.aliases.items()}
        return {**sides, "aliases": aliases} if aliases else sides


@dataclass(frozen=True)
class Split:
    """The examples of one parquet file `name`, all asked about the classes of one `side`."""

    name: str
    side: str
    examples: Sequence[Example]

    @property
    def stage(self) -> str:
        return "train" if self.name == "train" else "val"


def build_row(dataset: str, split: Split, classes: ClassNames, index: int) -> Row:
    """Row `index` of a split in verl's schema: the open question about one image."""
    example = split.examples[index]
    extra_info = {"index": index, "split": split.stage, "image_id": example.image_id, "dataset": dataset}
    return {
        "data_source": f"divek/{dataset}/{split.side}",
        "prompt": user_prompt(open_question(dataset, classes.names)),
        "images": [{"image": example.image}],
        "ability": "classification",
        "reward_model": {"style": "rule", "ground_truth": example.truth},
        "extra_info": extra_info,
    }


def check_row(row: Row, classes: ClassNames, folder: Path) -> None:
    """Raises SetupError for a row that could not be trained on: truth, image or grading is wrong."""
    truth, image = row["reward_model"]["ground_truth"], folder / row["images"][0]["image"]
    if truth not in classes.names:
        raise SetupError(f"{image} is labelled {truth!r}, no class of {row['data_source']}: mend the label.")
    _check_image(image)
    _check_grading(row, classes, truth)


def _check_image(path: Path) -> None:
    try:
        with Image.open(path) as image:
            size = image.convert("RGB").size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SetupError(f"{path} cannot be read as an image ({error}): fetch it again.") from None
    if min(size) < MIN_SIDE:
        raise SetupError(f"{path} is {size[0]}x{size[1]} pixels, the least is {MIN_SIDE}: leave it out.")


def _check_grading(row: Row, classes: ClassNames, truth: str) -> None:
    """The right letter of a question about this row must earn full marks and any other none."""
    votes = count_votes([f"<answer>{name}</answer>" for name in classes.names], classes)
    question = build_question(votes, classes, truth=truth, skip_easy=False, seed=row["extra_info"]["index"])
    if not isinstance(question, Question):
        raise SetupError(f"No question about {truth!r} can be built ({question.reason}): rename the class.")
    for letter, name in zip(ascii_uppercase, question.options, strict=False):
        if _accuracy(row, question, letter) != float(name == truth):
            raise SetupError(f"{name!r} is graded wrongly where {truth!r} is right: rename one of the two.")


def _accuracy(row: Row, question: Question, letter: str) -> float:
    extra_info = {
        **row["extra_info"],
        "options": list(question.options),
        "num_options": len(question.options),
        "truth": row["reward_model"]["ground_truth"],
    }
    solution = f"<think>self-check</think> <answer>{letter}</answer>"
    return compute_score(row["data_source"], solution, question.letter, extra_info)["acc"]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write a prepared set into, which takes the place of `target` only when all went well.

    Raises SetupError where `target` holds anything else than a prepared set: only such a one is replaced.
    """
    target = target.expanduser().resolve()
    _refuse_foreign(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, hence on the same file system: renaming is then one step.
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        _replace(target, folder, scratch / "old")
    finally:
        shutil.rmtree(scratch)


def _replace(target: Path, new: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _refuse_foreign(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise SetupError(f"{target} is a file: give --out a folder.")
    if foreign := sorted({path.name for path in target.iterdir()} - _CONTENTS):
        raise SetupError(f"{target} holds {foreign[0]}, no part of a prepared set: give --out another folder.")


def write_set(folder: Path, dataset: str, classes: Classes, splits: Sequence[Split]) -> None:
    """Checks every row and writes the parquet file of each split, classes.json and a report on the screen.

    Raises SetupError for a row that fails its self-check and for an image in both training and validation.
    """
    for split in splits:
        names = classes.of(split.side)
        rows = [build_row(dataset, split, names, index) for index in range(len(split.examples))]
        for row in tqdm(rows, desc=f"check {split.name}", unit="row"):
            check_row(row, names, folder)
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"{split.name}.parquet")
    text = json.dumps(classes.to_json(), ensure_ascii=False, indent=2)
    (folder / "classes.json").write_text(text + "\n", encoding="utf-8")
    report(folder, splits)


def report(folder: Path, splits: Sequence[Split]) -> None:
    """Prints counts and duplicates of each split; SetupError where training holds a validation image."""
    hashes = {split.name: _content_hashes(folder, split) for split in splits}
    trained = {digest for split in splits if split.stage == "train" for digest in hashes[split.name]}
    table = Table("split", "images", "classes", "duplicates", "also in train")
    for split in splits:
        found = hashes[split.name]
        leaked = [digest for digest in found if split.stage == "val" and digest in trained]
        if leaked:
            raise SetupError(f"{found[leaked[0]][0]} is in train too: leave it out of one of the two.")
        labels = Counter(example.truth for example in split.examples)
        counts = (len(split.examples), len(labels), len(split.examples) - len(found), len(leaked))
        table.add_row(split.name, *map(str, counts))
    Console().print(table)


def _content_hashes(folder: Path, split: Split) -> dict[str, list[str]]:
    """SHA-256 of an image's bytes -> the paths with this content."""
    found: dict[str, list[str]] = {}
    for example in split.examples:
        digest = hashlib.sha256((folder / example.image).read_bytes()).hexdigest()
        found.setdefault(digest, []).append(example.image)
    return found


def run_script(main: Callable[..., None]) -> None:
    """Runs a script's typer function; a SetupError ends it with its sentence and status 1."""
    try:
        typer.run(main)
    except SetupError as error:
        sys.exit(f"error: {error}")
