"""Checks pictures in several threads and hashes their content."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from divek_verl.images import UnreadableImage, load_picture, read_picture_file

Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Picture:
    """A checked picture: why it cannot be used (None if it can), the SHA-256 of its file, the file if it was kept."""

    problem: str | None = None
    digest: bytes = b""
    content: bytes | None = None


def check_picture(path: Path, keep_content: bool = False) -> Picture:
    """Read and decode one picture. A damaged picture is a result, not an error."""
    content, problem = b"", None
    try:
        content = read_picture_file(path)
        load_picture(content)
    except UnreadableImage as error:
        problem = error.problem
    return Picture(problem, hashlib.sha256(content).digest() if content else b"", content if keep_content else None)


def hash_file(path: Path) -> bytes | None:
    """SHA-256 of a file's content; None if it cannot be read."""
    try:
        return hashlib.sha256(read_picture_file(path)).digest()
    except UnreadableImage:
        return None


def in_threads(work: Callable[[Key], Result], keys: Iterable[Key]) -> Iterator[tuple[Key, Result]]:
    """(key, work(key)) in the order of the keys; only a few are ahead of the caller, so that memory stays flat.

    Threads are as fast as processes here, because Pillow and hashlib release the interpreter while they work.
    """
    workers = max(2, os.cpu_count() or 2)
    ahead: deque[tuple[Key, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for key in keys:
                ahead.append((key, pool.submit(work, key)))
                if len(ahead) > 4 * workers:
                    first, future = ahead.popleft()
                    yield first, future.result()
            while ahead:
                first, future = ahead.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)
