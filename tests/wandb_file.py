"""Reads what W&B wrote offline: a file of records in the log format of LevelDB, each a protocol buffer."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, FILE_HEADER, RECORD_HEADER = 32768, 7, 7
WHOLE, LAST = 1, 4


def records(path: Path) -> Iterator[bytes]:
    """The records, put together where they were split at a block's end."""
    data, place, parts = path.read_bytes(), FILE_HEADER, b""
    while place + RECORD_HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < RECORD_HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += RECORD_HEADER
        parts += data[place : place + length]
        place += length
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""


def history(folder: Path) -> dict[int, dict[str, Any]]:
    """step -> name -> value, of the one offline run below ``folder``."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    steps: dict[int, dict[str, Any]] = {}
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            steps.setdefault(int(items.pop("_step")), {}).update(items)
    return steps


def tables(folder: Path) -> list[dict[str, Any]]:
    """The logged tables, the one with the fewest rows first."""
    files = folder.glob("wandb/offline-run-*/files/media/table/**/*.table.json")
    return sorted((json.loads(file.read_text(encoding="utf-8")) for file in files), key=lambda t: len(t["data"]))
