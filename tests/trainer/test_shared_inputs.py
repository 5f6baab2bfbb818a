"""The rollouts of a visit share what verl would compute for each of them, and get what verl would compute."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from divek_verl.trainer import shared_inputs
from divek_verl.trainer.rollout import TwoStageAgentLoopWorker
from divek_verl.trainer.shared_inputs import SharedInputs

from .worker_fakes import GROUP, TRAIN, VALIDATE, FakeQueue, answer, build, folder, prompt, queue

PARAMETERS = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}
VARYING = iter(range(10**6))


@pytest.fixture
def calls(processor: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often the whole processor runs with a picture."""
    counted: Counter[str] = Counter()
    whole = type(processor).__call__

    def count(self: Any, *args: Any, **kwargs: Any) -> Any:
        counted["processor"] += bool(kwargs.get("images"))
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(type(processor), "__call__", count)
    yield counted


def as_verl_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divek_verl.trainer.rollout.OUR_LOOP", "single_turn_agent")
    monkeypatch.delattr(TwoStageAgentLoopWorker, "_compute_multi_modal_inputs")

    async def nothing(self: SharedInputs, *args: Any) -> None:
        return None

    monkeypatch.setattr(SharedInputs, "prepare", nothing)


def processor_calls(worker: Any, prompt: dict, calls: Counter[str], trajectory: dict = TRAIN) -> int:
    """Calls of the processor in the second of two visits: the first compares the open question with verl's."""

    async def visits() -> None:
        for _ in range(2):
            calls.clear()
            await worker._run_prompt(dict(prompt), dict(PARAMETERS), trajectory)

    asyncio.run(visits())
    return calls["processor"]


@pytest.mark.parametrize("trajectory", [TRAIN, VALIDATE])
def test_the_processor_runs_twice_for_an_image(build: Any, prompt: dict, calls: Counter[str], trajectory: dict) -> None:
    worker = build(answers=[answer("Chad"), answer("Romania")])
    assert processor_calls(worker, prompt, calls, trajectory) == 2


def test_every_rollout_is_published_as_verl_would_publish_it(
    build: Any, prompt: dict, queue: FakeQueue, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[bool, tuple[dict, int]] = {}
    for ours in (True, False):
        if not ours:
            as_verl_has_it(monkeypatch)
        worker = build(answers=[answer("Chad"), answer("Romania")])
        found[ours] = {}, processor_calls(worker, prompt, calls)
        found[ours][0].update(queue.trajectories)
    (shared, _), (own, many) = found[True], found[False]
    assert many == 3 * GROUP
    assert shared.keys() == own.keys() and len(own) == GROUP
    for key, fields in own.items():
        assert fields.keys() == shared[key].keys()
        for name in ("prompts", "responses", "input_ids", "position_ids"):
            assert torch.equal(fields[name], shared[key][name]), name
        inputs, ours_too = fields["multi_modal_inputs"], shared[key]["multi_modal_inputs"]
        inputs, ours_too = (each.data if hasattr(each, "data") else each for each in (inputs, ours_too))
        assert inputs.keys() == ours_too.keys() and {"pixel_values", "image_grid_thw"} <= inputs.keys()
        assert all(torch.equal(inputs[name], ours_too[name]) for name in inputs)


def test_inputs_that_depend_on_the_text_are_computed_for_every_rollout(
    build: Any, prompt: dict, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_inputs, "PICTURE_INPUTS", {"pixel_values"})
    worker = build(answers=[answer("Chad"), answer("Romania")])
    # The tokens, one attempt to share the inputs, and verl's two for each rollout.
    assert processor_calls(worker, prompt, calls) == 1 + 1 + 2 * GROUP


def test_a_rollout_that_is_given_up_does_not_take_the_inputs_from_the_others() -> None:
    async def both() -> list[int]:
        shared, may_end = SharedInputs(), asyncio.Event()

        async def compute() -> int:
            await may_end.wait()
            return next(VARYING)

        given_up, patient, late = (asyncio.ensure_future(shared.once("tokens", compute)) for _ in range(3))
        await asyncio.sleep(0)
        given_up.cancel()
        may_end.set()
        return [await patient, await late, await shared.once("tokens", compute)]

    first, second, third = asyncio.run(both())
    assert first == second == third
