"""Files that survive a kill: JSON lines, write-aside-and-rename, and a lock that lets one process write."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from divek_verl.errors import SetupError

JsonObject = dict[str, Any]


def dump(record: object) -> str:
    """One record as one line of JSON; keys keep their order.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return without_surrogates(json.dumps(record, ensure_ascii=False, allow_nan=False)) + "\n"


def without_surrogates(text: str) -> str:
    """``text`` with U+FFFD for each half of a surrogate pair, which no file in UTF-8 can hold."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def parse_json(text: str) -> Any:
    """The value that a JSON text describes; ValueError for any other text, also for one nested too deeply to read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def append_line(path: Path, record: JsonObject) -> None:
    """Append one line. If a kill left the last line torn, end that one first, so that no second record is lost."""
    line = dump(record).encode("utf-8")
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)


def iter_lines(path: Path) -> Iterator[JsonObject | None]:
    """The record of each line that is not empty; None for one that is not a JSON object, such as one torn by a kill.

    Raises:
        OSError: the file cannot be opened; raised by the first ``next``.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in filter(str.strip, file):
            try:
                record = parse_json(line)
            except ValueError:
                record = None
            yield record if isinstance(record, dict) else None


def read_lines(path: Path) -> tuple[list[JsonObject], int]:
    """The records of ``path`` in order, and the number of lines that are none; a missing file is empty."""
    lines = list(iter_lines(path)) if path.is_file() else []
    records = [record for record in lines if record is not None]
    return records, len(lines) - len(records)


def write_lines(path: Path, records: Iterable[JsonObject]) -> None:
    """Replace the file by these records; a reader sees the old file or the whole new one."""
    write_aside(path, "".join(dump(record) for record in records))


def write_aside(path: Path, text: str) -> None:
    """Replace the content of ``path`` by ``text``: written beside it, synced and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``target`` at the end of the block; an error leaves ``target`` as it was.

    Raises:
        SetupError: the folder above ``target`` cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, hence on the same file system: renaming is then one step.
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise SetupError(f"{target.parent} cannot be written ({error.strerror}): name another folder.") from None
    try:
        folder, old = scratch / "new", scratch / "old"
        folder.mkdir()
        yield folder
        if target.exists():
            target.rename(old)
        try:
            folder.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def lock(descriptor: int, path: Path) -> None:
    """Make this process the only writer of ``path``, until ``descriptor`` is closed or the process dies.

    Raises:
        SetupError: another process writes it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SetupError(f"{path} is being written by another process: wait for it, or name another one.") from None


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make this process the only writer of a folder, which is created if it is missing.

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
