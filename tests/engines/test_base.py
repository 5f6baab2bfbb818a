"""Around a request: seeds, slots and time-outs, and work on a long list."""

import asyncio
from collections.abc import Iterator

import pytest

from divek_verl.engines.base import Reply, Request, Sampling, Slots, for_each, says_overlong, seed_of

REQUEST = Request("k", [])


def test_a_seed_depends_on_seed_and_key_alone() -> None:
    assert seed_of(Sampling(seed=1), "a") == seed_of(Sampling(seed=1, temperature=0.2), "a")
    assert len({seed_of(Sampling(seed=s), key) for s in range(10) for key in "abcdefghij"}) == 100
    assert seed_of(Sampling(seed=None), "a") is None


def test_consecutive_seeds_of_a_request_fit_into_63_bits() -> None:
    assert max(seed_of(Sampling(seed=0), str(key)) or 0 for key in range(1000)) + 10_000 < 2**63


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens.",
        "The decoder prompt (length 9) is longer than the maximum model length of 8.",
    ],
)
def test_an_overlong_prompt_is_known_by_its_message(message: str) -> None:
    assert says_overlong(message)
    assert not says_overlong("the model is not loaded")


def test_a_request_over_its_time_is_a_failure() -> None:
    async def reply() -> Reply:
        await asyncio.sleep(60)
        return Reply("k", ("never",))

    found = asyncio.run(Slots(1, timeout=0.01).run(REQUEST, reply()))
    assert (found.failure, found.texts) == ("timeout", ())


def test_waiting_for_a_slot_does_not_count() -> None:
    async def reply() -> Reply:
        await asyncio.sleep(0.2)
        return Reply("k", ("a",))

    async def both() -> list[Reply]:
        slots = Slots(1, timeout=0.35)
        return await asyncio.gather(*(slots.run(REQUEST, reply()) for _ in range(3)))

    assert [found.failure for found in asyncio.run(both())] == [None] * 3


def test_each_item_is_worked_on_once_and_at_most_so_many_at_a_time() -> None:
    drawn: list[int] = []
    done: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            assert number - len(done) <= 3  # drawn only when there is room
            drawn.append(number)
            yield number

    async def work(number: int) -> None:
        await asyncio.sleep(0.001 * (number % 3))
        done.append(number)

    asyncio.run(for_each(items(), work, limit=3))
    assert sorted(done) == drawn == list(range(20))


def test_the_first_error_ends_all() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> None:
        if number == 1:
            raise ValueError("broken")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(for_each(range(9), work, limit=3))
    assert sorted(cancelled) == [0, 2]
