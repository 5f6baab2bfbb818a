"""Running the command as a user does, and reading what it wrote."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from divek_verl import cli


def prepare(name: str, *arguments: object, out: Path, status: int = 0) -> Path:
    """``divek prepare name arguments --out out``."""
    assert cli.run(["prepare", name, *map(str, arguments), "--out", str(out)]) == status
    return out


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def images(folder: Path, name: str) -> list[str]:
    return [row["images"][0]["image"] for row in rows(folder, name)]


def truths(folder: Path, name: str) -> list[str]:
    return [row["reward_model"]["ground_truth"] for row in rows(folder, name)]


def counts(folder: Path) -> dict[str, int]:
    return {path.stem: pq.read_metadata(path).num_rows for path in folder.glob("*.parquet")}


def contents(folder: Path) -> dict[str, bytes]:
    """Each file below a folder by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def classes(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "classes.json").read_text())
    return content
