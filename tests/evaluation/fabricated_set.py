"""A small prepared set on disk and visits by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from divek_verl.evaluation.visits import EvaluatedVisit
from divek_verl.prompts import open_question, user_prompt

BASE = ("Chad", "Romania", "Andorra")
NEW = ("Moldova", "Monaco", "Indonesia")
CLASSES = {"base": BASE, "new": NEW, "all": (*BASE, *NEW)}
ALIASES = {"Chad": ["Tchad"]}


def write_set(folder: Path, counts: dict[str, int], *, dataset: str = "flags") -> list[Path]:
    """A prepared set with ``counts[side]`` images of each side; the paths of its parquet files."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**{side: list(names) for side, names in CLASSES.items()}, "aliases": ALIASES}
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
        "prompt": user_prompt(open_question(dataset, names)),
        "images": [{"image": picture.as_posix()}],
        "ability": "classification",
        "reward_model": {"style": "rule", "ground_truth": names[index % len(names)]},
        "extra_info": {"index": index, "split": "val", "image_id": f"{side}-{index:03d}", "dataset": dataset},
        **changes,
    }


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def visit(
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
) -> EvaluatedVisit:
    """A visit as ``visit_of`` leaves it, not measured yet."""
    letter = None if chosen is None else "ABCDE"[list(options).index(chosen)]
    made = EvaluatedVisit(
        step=0,
        split="val",
        data_source=source,
        image_id=image_id,
        image="",
        truth=truth,
        votes=votes or {},
        unknown=unknown or {},
        unanswered=unanswered,
        options=list(options),
        chosen=chosen,
        choices=[letter],
        completions=[] if letter is None else [f"<think>t</think><answer>{letter}</answer>"],
        failure=failure,
        failed_step="open question" if failure else None,
    )
    made.num_samples = made.samples or 4
    made.failed_samples = made.num_samples if failure else 0
    for name, value in changes.items():
        setattr(made, name, value)
    return made
