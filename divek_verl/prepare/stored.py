"""Reading the rows of a prepared set, and their pictures."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from divek_verl.class_lists import image_root
from divek_verl.prepare.rows import Row

ROWS_AT_ONCE = 256


def rows_of(folder: Path, name: str) -> Iterator[Row]:
    """The rows of one file, a few at a time."""
    with pq.ParquetFile(folder / f"{name}.parquet") as file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()


def picture_of(row: Row, folder: Path) -> Path | bytes:
    """Where a row's picture is, or its encoded bytes."""
    entry = row["images"][0]
    if entry.get("bytes") is not None:
        return entry["bytes"]
    return image_root(str(folder), row["extra_info"]["dataset"]) / entry["image"]
