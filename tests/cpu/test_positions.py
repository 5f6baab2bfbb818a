"""Positions of one prompt are worked out once for all of its samples, and are what vLLM works out."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from divek_verl.cpu import positions

VLLMS_OWN = inspect.unwrap(GPUModelRunner._init_mrope_positions)


class Model:
    """Counts how often it is asked."""

    supports_mrope = True

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Any, int]:
        self.asked.append(input_tokens)
        return (len(self.asked), input_tokens), -len(input_tokens)


class Runner:
    """What vLLM's function takes of the model runner's."""

    _init_mrope_positions = VLLMS_OWN

    def __init__(self) -> None:
        self.model = Model()

    def get_model(self) -> Model:
        return self.model


def sharing_runner() -> Runner:
    module = SimpleNamespace(GPUModelRunner=type("SharingRunner", (Runner,), {"_init_mrope_positions": VLLMS_OWN}))
    positions.share_positions(module)
    positions.share_positions(module)
    runner: Runner = module.GPUModelRunner()
    return runner


def request(tokens: list[int], picture: str | None = "a", offset: int = 1) -> Any:
    place = SimpleNamespace(offset=offset, length=2)
    features = [] if picture is None else [SimpleNamespace(identifier=picture, modality="image", mm_position=place)]
    return SimpleNamespace(prompt_token_ids=tokens, prompt_embeds=None, mm_features=features)


def test_vllms_own_works_them_out_for_each_sample() -> None:
    """Where it no longer does, share_positions is not needed any more."""
    runner = Runner()
    for _ in range(3):
        runner._init_mrope_positions(request([1, 2, 3]))
    assert len(runner.model.asked) == 3


def test_samples_of_one_prompt_share_them() -> None:
    runner = sharing_runner()
    samples = [request([1, 2, 3]) for _ in range(3)]
    for sample in samples:
        runner._init_mrope_positions(sample)
    assert len(runner.model.asked) == 1
    assert all(sample.mrope_positions == (1, [1, 2, 3]) and sample.mrope_position_delta == -3 for sample in samples)


@pytest.mark.parametrize(
    "other", [request([1, 2, 4]), request([1, 2, 3], "b"), request([1, 2, 3], None), request([1, 2, 3], offset=0)]
)
def test_another_prompt_or_picture_has_its_own(other: Any) -> None:
    runner = sharing_runner()
    for each in (request([1, 2, 3]), other, request([1, 2, 3])):
        runner._init_mrope_positions(each)
    assert len(runner.model.asked) == 3


def test_prompts_of_embeddings_are_left_to_vllm() -> None:
    runner = sharing_runner()
    given = request([1], None)
    given.prompt_token_ids, given.prompt_embeds = None, SimpleNamespace(shape=(4, 8))
    for _ in range(2):
        runner._init_mrope_positions(given)
    assert runner.model.asked == [[0, 1, 2, 3]] * 2
