"""One writer at a time for a file or a folder, until its descriptor is closed; a killed process holds nothing back."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from divek_verl.errors import SetupError


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
