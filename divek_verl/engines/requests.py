"""What both engines do around a request: how many at once, how long, and from which seed."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from divek_verl.engines.base import Reply, Request, Sampling

Item = TypeVar("Item")

# Engines take 63 bits; K consecutive seeds start here.
SEED_BITS = 48


def seed_of(sampling: Sampling, key: str) -> int | None:
    """The request's own seed: the same whatever is asked before it; None where every draw is to be new."""
    if sampling.seed is None:
        return None
    return random.Random(f"{sampling.seed}-{key}").getrandbits(SEED_BITS)


def says_overlong(message: str) -> bool:
    """Whether an error is about a prompt that does not fit; engines and servers say so in words only."""
    return any(phrase in message.lower() for phrase in ("maximum context length", "maximum model length"))


class Slots:
    """At most ``limit`` requests at work at one time, each for at most ``timeout`` seconds."""

    def __init__(self, limit: int, timeout: float) -> None:
        self._free = asyncio.Semaphore(limit)
        self._timeout = timeout

    async def run(self, request: Request, reply: Awaitable[Reply]) -> Reply:
        """The reply, or the failure "timeout"; waiting for a slot does not count."""
        async with self._free:
            try:
                return await asyncio.wait_for(reply, self._timeout)
            except asyncio.TimeoutError:
                return Reply(request.key, failure="timeout", detail=f"no reply after {self._timeout:g} s")


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], limit: int) -> None:
    """``work`` on every item, at most ``limit`` at one time; the first error ends all.

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
