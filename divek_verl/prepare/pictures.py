"""The self-check of pictures, two or more at once, and the hash of their content."""

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
    """What the check found: `problem` is None for a picture that can be used, else the reason in words.

    `digest` is the SHA-256 of the file, `content` the file itself where it was asked for.
    """

    problem: str | None = None
    digest: bytes = b""
    content: bytes | None = None


def check_picture(path: Path, keep_content: bool = False) -> Picture:
    """Reads and decodes one picture; what is wrong with it is a result, not an error."""
    content = read_file(path)
    if isinstance(content, str):
        return Picture(content)
    problem = find_problem(content)
    return Picture(problem, hashlib.sha256(content).digest(), content if keep_content else None)


def read_file(path: Path) -> bytes | str:
    """The content of a file, or in words why there is none."""
    try:
        return read_picture_file(path)
    except UnreadableImage as error:
        return error.problem


def find_problem(content: bytes) -> str | None:
    """In words, why these bytes are no picture to train on; None where they are one."""
    try:
        load_picture(content)
    except UnreadableImage as error:
        return error.problem
    return None


def hash_file(path: Path) -> bytes | None:
    """SHA-256 of a file's content; None for one that cannot be read."""
    content = read_file(path)
    return None if isinstance(content, str) else hashlib.sha256(content).digest()


def in_threads(work: Callable[[Key], Result], keys: Iterable[Key]) -> Iterator[tuple[Key, Result]]:
    """(key, work(key)) in the order of the keys; only a few are ahead of the caller, so that memory stays flat.

    Threads, because Pillow and hashlib let go of the interpreter while they work: measured, they are as fast as
    processes here, start at once and need no copy of a picture.
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
