"""Files that survive a kill: JSON lines, write-aside-and-rename, and a lock that lets one process write."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from divek_verl.errors import SetupError


def dump(record: Any) -> str:
    """One record as one line: the same text for equal records, NaN refused, what UTF-8 cannot hold escaped.

    Keys keep their order. A model's text may hold lone surrogates, which are no UTF-8; such a line is ASCII instead.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(record, allow_nan=False)
    return line + "\n"


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line; one that a killed run left torn is closed first, so that it costs no second one."""
    line = dump(record).encode("utf-8")
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)


def iter_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The record of each line that is not empty; None for one that is not a JSON object, such as one torn by a kill.

    Raises:
        OSError: the file cannot be opened; raised by the first ``next``.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in filter(str.strip, file):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield record if isinstance(record, dict) else None


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of ``path`` in order, and the number of lines that are none; a missing file is empty."""
    lines = list(iter_lines(path)) if path.is_file() else []
    records = [record for record in lines if record is not None]
    return records, len(lines) - len(records)


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """All records, written aside and renamed, so that no half file is ever seen."""
    write_aside(path, "".join(dump(record) for record in records))


def write_aside(path: Path, text: str) -> None:
    """``text`` as the whole content of ``path``, or the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    with aside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def lock(descriptor: int, path: Path) -> None:
    """Be the one writer of ``path``, which ``descriptor`` was opened from.

    Raises:
        SetupError: another process writes it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SetupError(f"{path} is being written by another process: wait for it, or give another --out.") from None


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the one writer of a folder, made where it is missing.

    Raises:
        SetupError: another process writes it.
        OSError: it cannot be made.
    """
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)
