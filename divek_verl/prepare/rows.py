"""Rows in verl's schema: made, checked, written to parquet and read again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from divek_verl.class_lists import image_root
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.question import Question, build_question
from divek_verl.reward import compute_score
from divek_verl.votes import count_votes

ROWS_PER_GROUP = 512
ROWS_AT_ONCE = 256
NUM_OPTIONS = 5

Row = dict[str, Any]


def _schema(image: pa.DataType) -> pa.Schema:
    """The columns of a parquet file whose pictures are entries of the type `image`."""
    extra_info = {"index": pa.int64(), "split": pa.string(), "image_id": pa.string(), "dataset": pa.string()}
    return pa.schema(
        {
            "data_source": pa.string(),
            "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
            "images": pa.list_(image),
            "ability": pa.string(),
            "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
            "extra_info": pa.struct(extra_info),
        }
    )


SCHEMA = _schema(pa.struct({"image": pa.string()}))
EMBEDDED_SCHEMA = _schema(pa.struct({"bytes": pa.binary()}))
MIXED_SCHEMA = _schema(pa.struct({"image": pa.string(), "bytes": pa.binary()}))


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image: its path (from the image root, or absolute), class name and identity."""

    image: str
    truth: str
    image_id: str


@dataclass(frozen=True)
class Split:
    """The examples of one parquet file `name`, all asked about the classes of one `side`."""

    name: str
    side: str
    examples: Sequence[Example]

    @property
    def stage(self) -> str:
        """ "train", "val", or "pretrain"."""
        return self.name.partition("_")[0]


def build_row(
    dataset: str, split: Split, prompt: list[dict[str, str]], example: Example, index: int, content: bytes | None = None
) -> Row:
    """Row `index` of a file: the open question about one image, which is a path or the encoded bytes `content`."""
    return {
        "data_source": f"divek/{dataset}/{split.side}",
        "prompt": prompt,
        "images": [{"image": example.image} if content is None else {"bytes": content}],
        "ability": "classification",
        "reward_model": {"style": "rule", "ground_truth": example.truth},
        "extra_info": {"index": index, "split": split.stage, "image_id": example.image_id, "dataset": dataset},
    }


def check_row(row: Row, classes: ClassNames) -> None:
    """Build a question about a row and grade each of its letters; a SetupError if a grade or the truth is wrong."""
    truth, extra_info = row["reward_model"]["ground_truth"], row["extra_info"]
    if truth not in classes.names:
        image = extra_info["image_id"]
        raise SetupError(f"{image} is labelled {truth!r}, no class of {row['data_source']}: fix the label.")
    # One vote for the truth and for each of the classes that follow it in the list.
    first = classes.names.index(truth)
    answered = [classes.names[(first + step) % len(classes)] for step in range(min(NUM_OPTIONS, len(classes)))]
    votes = count_votes([f"<answer>{name}</answer>" for name in answered], classes)
    question = build_question(
        votes, classes, truth=truth, num_options=NUM_OPTIONS, skip_easy=False, seed=extra_info["index"]
    )
    if not isinstance(question, Question):
        raise SetupError(f"No question about {truth!r} can be built ({question.reason}): rename the class.")
    if set(votes.counts) != set(answered):
        raise SetupError(f"The answer {truth!r} is not read as the class {truth!r}: rename the class.")
    options = {"options": list(question.options), "num_options": len(question.options), "truth": truth}
    for letter, name in zip(ascii_uppercase, question.options, strict=False):
        solution = f"<think>self-check</think> <answer>{letter}</answer>"
        scores = compute_score(row["data_source"], solution, question.letter, {**extra_info, **options})
        if scores["acc"] != float(name == truth):
            raise SetupError(f"{name!r} is graded wrongly where {truth!r} is right: rename one of the two.")


def write_rows(path: Path, schema: pa.Schema, rows: Iterator[Row], rows_per_group: int = ROWS_PER_GROUP) -> None:
    """Stream rows into a parquet file, so that memory does not grow with their number."""
    with pq.ParquetWriter(path, schema) as writer:
        group: list[Row] = []
        for row in rows:
            group.append(row)
            if len(group) == rows_per_group:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def rows_of(folder: Path, name: str) -> Iterator[Row]:
    """The rows of one file, read a few at a time."""
    with pq.ParquetFile(folder / f"{name}.parquet") as file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()


def picture_of(row: Row, folder: Path) -> Path | bytes:
    """The path of a row's picture, or its encoded bytes."""
    entry = row["images"][0]
    if entry.get("bytes") is not None:
        return entry["bytes"]
    return image_root(str(folder), row["extra_info"]["dataset"]) / entry["image"]
