"""The interface of a local engine and of a server, and what both do around a request.

Mining, evaluation and prediction are written against it. It is asynchronous, so that many images can be in flight and
the second step of one image does not wait for the first step of another.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from divek_verl.engines.client import said
from divek_verl.images import UnreadableImage
from divek_verl.prompts import Message
from divek_verl.records import FailureReason
from divek_verl.settings import DEFAULTS

Item = TypeVar("Item")

# Engines take 63 bits. The seeds of a request's K samples are consecutive.
SEED_BITS = 48


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled; the defaults are those of the K answers (the paper's mining).

    ``max_new_tokens`` bounds one completion. With a ``seed``, each request's own seed is derived from it and from the
    request's key, so that it does not depend on the order of requests; without one, every draw is new.
    """

    temperature: float = DEFAULTS.temperature
    top_p: float = DEFAULTS.top_p
    top_k: int = DEFAULTS.top_k
    repetition_penalty: float = DEFAULTS.repetition_penalty
    max_new_tokens: int = 1024
    seed: int | None = None


@dataclass(frozen=True)
class Request:
    """``count`` completions of one conversation; ``key``, unique in a run, names it in errors, seeds and caches.

    ``messages`` are chat messages as ``DiveKDataset`` builds them: a picture is
    ``{"type": "image", "image": path or PIL image, "min_pixels": ..., "max_pixels": ...}`` before the text.
    """

    key: str
    messages: Sequence[Message]
    count: int = 1


@dataclass(frozen=True)
class Reply:
    """The completions of one request, or the named reason why there are none.

    An expected failure (unreadable image, overlong prompt, time-out, refused by a server) is data: ``failure`` names
    it, ``detail`` says more. A failure beside completions means that the other completions are missing.
    ``truncated`` counts completions that ended at the token limit; ``cached_tokens`` are those of the one prompt that
    the last completion found in the cache, None if the engine does not say. ``surplus`` counts completions beyond those
    asked for, which are dropped.
    """

    key: str
    texts: tuple[str, ...] = ()
    truncated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0
    failure: FailureReason | None = None
    detail: str | None = None
    surplus: int = 0


class Engine(Protocol):
    """A model that can be asked. ``model`` names it in records: a path or a server's model name."""

    model: str

    async def generate(self, request: Request, sampling: Sampling) -> Reply:
        """The completions of one request; never raises for an expected failure."""
        ...

    async def close(self) -> None:
        """End what the engine started."""
        ...


def seed_of(sampling: Sampling, key: str) -> int | None:
    """The request's own seed, whatever is asked before it; None if every draw is to be new."""
    if sampling.seed is None:
        return None
    return random.Random(f"{sampling.seed}-{key}").getrandbits(SEED_BITS)


def says_overlong(message: str) -> bool:
    """Whether an error is about a prompt that does not fit; engines and servers say so in words only."""
    return any(phrase in message.lower() for phrase in ("maximum context length", "maximum model length"))


class Slots:
    """Runs at most ``limit`` requests at a time, each for at most ``timeout`` seconds."""

    def __init__(self, limit: int, timeout: float) -> None:
        self._free = asyncio.Semaphore(limit)
        self._timeout = timeout

    async def run(self, request: Request, reply: Awaitable[Reply]) -> Reply:
        """The reply, or the failure of an unreadable picture or a time-out; waiting for a slot does not count."""
        async with self._free:
            try:
                return await asyncio.wait_for(reply, self._timeout)
            except UnreadableImage as error:
                return Reply(request.key, failure=FailureReason.UNREADABLE_IMAGE, detail=said(error))
            except asyncio.TimeoutError:
                return Reply(request.key, failure=FailureReason.TIMEOUT, detail=f"no reply after {self._timeout:g} s")


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], limit: int) -> None:
    """``work`` on every item, at most ``limit`` at a time; the first error ends all.

    Items are drawn when there is room for them, so that a long list costs no memory.
    """
    left = iter(items)

    async def take_turns() -> None:
        for item in left:
            await work(item)

    tasks = [asyncio.create_task(take_turns()) for _ in range(limit)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
