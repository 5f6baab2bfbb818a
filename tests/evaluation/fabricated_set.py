"""A small prepared set on disk, and records of scripted answers."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scripted_engine import says

from divek_verl.engines.base import Reply
from divek_verl.engines.rows import PreparedRow
from divek_verl.engines.two_step import TwoStepAnswer, TwoStepSettings
from divek_verl.evaluation.records import EvaluationRecord, record_of
from divek_verl.labels import ClassNames
from divek_verl.prompts import Wording, open_question, user_prompt
from divek_verl.question import Question
from divek_verl.votes import Votes

BASE = ("Chad", "Romania", "Andorra")
NEW = ("Moldova", "Monaco", "Indonesia")
CLASSES = {"base": BASE, "new": NEW, "all": (*BASE, *NEW)}
WORDING = Wording("flag", "country")
ALIASES = {"Chad": ["Tchad"]}


def write_set(folder: Path, counts: dict[str, int], *, dataset: str = "flags") -> list[Path]:
    """A prepared set with ``counts[side]`` images of each side; the paths of its parquet files."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**{side: list(names) for side, names in CLASSES.items()}, "aliases": ALIASES, "wording": asdict(WORDING)}
    (folder / "classes.json").write_text(json.dumps(content), encoding="utf-8")
    paths = []
    for side, count in counts.items():
        rows = [row(folder, dataset, side, index) for index in range(count)]
        paths.append(folder / f"val_{side}.parquet")
        write_rows(paths[-1], rows)
    return paths


def row(folder: Path, dataset: str, side: str, index: int, **changes: Any) -> dict[str, Any]:
    """One row, and its picture on disk."""
    names = CLASSES[side]
    picture = Path("images", f"{side}-{index}.png")
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (56, 56), (index * 7 % 256, 80, 160)).save(folder / picture)
    return {
        "data_source": f"divek/{dataset}/{side}",
        "prompt": user_prompt(open_question(WORDING, names)),
        "images": [{"image": picture.as_posix()}],
        "ability": "classification",
        "reward_model": {"style": "rule", "ground_truth": names[index % len(names)]},
        "extra_info": {"index": index, "split": "val", "image_id": f"{side}-{index:03d}", "dataset": dataset},
        **changes,
    }


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def record(
    image_id: str = "0",
    *,
    source: str = "divek/flags/base",
    truth: str = "Chad",
    votes: dict[str, int] | None = None,
    unknown: dict[str, int] | None = None,
    unanswered: int = 0,
    options: Sequence[str] = (),
    chosen: str | None = None,
    failure: str | None = None,
    **changes: Any,
) -> EvaluationRecord:
    """The record of an answer with these votes and this choice, without measures; ``changes`` are set afterwards.

    ``failure`` ends the first step, or the second one if there are votes.
    """
    counted = Votes(votes or {}, unknown or {}, unanswered)
    num_samples = counted.total or 4
    answer = TwoStepAnswer(Reply("k", failure=failure))
    if counted.total or not failure:
        question = Question(tuple(options), None, False) if options else None
        choice = Reply("k", failure=failure) if failure else None
        if chosen is not None:
            choice = Reply("k", says("ABCDE"[list(options).index(chosen)]))
        answer = TwoStepAnswer(Reply("k", ("",) * num_samples), counted, question, choice)
    row = PreparedRow(source, image_id, "", truth, ClassNames(BASE), WORDING, [])
    made = record_of(row, answer, TwoStepSettings(num_samples))
    for name, value in changes.items():
        setattr(made, name, value)
    return made
