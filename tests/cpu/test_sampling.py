"""The faster sampler draws what vLLM's own draws, and is needed as long as that one sorts, and forgets seeds."""

import copy
import importlib.metadata
from types import ModuleType
from typing import Any

import pytest
import torch
from test_compat import as_verl_ships_it, hooked
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata

from divek_verl.cpu import sampling, vllm_plugin

ROWS, VOCABULARY = 64, 300


@pytest.fixture(scope="module")
def vllms_own() -> ModuleType:
    return as_verl_ships_it(sampling.DRAWING_MODULE)


@pytest.fixture(scope="module")
def faster() -> ModuleType:
    module = as_verl_ships_it(sampling.DRAWING_MODULE)
    sampling.draw_without_sorting(module)
    return module


def logits(scale: float = 3.0) -> torch.Tensor:
    return torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0)) * scale


def seeded() -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(row) for row in range(ROWS)}


def rows_of(value: Any) -> torch.Tensor:
    return torch.full((ROWS,), value)


def metadata(asked: int | None) -> SamplingMetadata:
    """Of a batch of seeded sequences with top-p; ``asked``: how many logprobs beside the drawn token's own."""
    nothing = torch.zeros(ROWS)
    return SamplingMetadata(
        temperature=rows_of(1.0),
        all_greedy=False,
        all_random=True,
        top_p=rows_of(0.9),
        top_k=None,
        generators=seeded(),
        max_num_logprobs=asked,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=nothing,
        presence_penalties=nothing,
        repetition_penalties=nothing,
        output_token_ids=[[] for _ in range(ROWS)],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
    )


MASKS = [
    (None, rows_of(0.95)),
    (None, rows_of(1.0)),
    (None, rows_of(1e-6)),
    (None, torch.linspace(0.05, 1.0, ROWS)),
    (rows_of(10), rows_of(0.9)),
    (torch.arange(1, ROWS + 1), torch.linspace(0.05, 1.0, ROWS)),
    (rows_of(10), None),
    (None, None),
]


@pytest.mark.parametrize(("k", "p"), MASKS)
@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0, 30.0])
def test_seeds_draw_the_same(
    vllms_own: ModuleType, faster: ModuleType, k: torch.Tensor | None, p: torch.Tensor | None, scale: float
) -> None:
    """A scale of 0 makes all tokens as likely as each other, and their places in the sort decide."""
    theirs, ours = seeded(), seeded()
    for _ in range(20):
        expected, _ = vllms_own.TopKTopPSampler()(logits(scale), theirs, copy.deepcopy(k), p)
        found, processed = faster.TopKTopPSampler()(logits(scale), ours, copy.deepcopy(k), p)
        assert torch.equal(found, expected) and processed is None


@pytest.mark.parametrize("at_once", [1, 7 * VOCABULARY, 10**6])
def test_noise_is_that_of_torch(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "DRAWN_AT_ONCE", at_once)
    expected = torch.stack([torch.empty(VOCABULARY).exponential_(generator=each) for each in seeded().values()])
    assert torch.equal(sampling.exponential_noise(logits(), seeded()), expected)


def test_only_draws_at_the_border_and_beyond_are_looked_at_again() -> None:
    probs = torch.tensor([0.4, 0.3, 0.2, 0.1]).expand(4, 4)
    drawn = torch.arange(4)
    assert sampling.may_be_outside(probs, drawn, torch.full((4,), 0.7)).tolist() == [2, 3]
    assert sampling.may_be_outside(probs, drawn, torch.full((4,), 0.8)).tolist() == [3]


def test_tokens_as_likely_as_the_drawn_one_are_looked_at_again() -> None:
    assert sampling.may_be_outside(torch.full((1, 4), 0.25), torch.tensor([0]), torch.tensor([0.5])).tolist() == [0]


def test_a_batch_that_is_not_all_seeded_keeps_the_seeds_that_it_has(faster: ModuleType) -> None:
    alone, _ = faster.TopKTopPSampler()(logits(), seeded(), None, rows_of(0.9))
    some = {row: generator for row, generator in seeded().items() if row % 2}
    drawn, _ = faster.TopKTopPSampler()(logits(), some, None, rows_of(0.9))
    assert torch.equal(drawn[1::2], alone[1::2]) and not torch.equal(drawn[::2], alone[::2])


def test_vllms_own_forgets_them(vllms_own: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it no longer does, "every seed is kept" is no reason for our sampler any more."""
    monkeypatch.setattr(vllms_own, "compiled_random_sample", lambda logits: logits.argmax(dim=-1))
    drawn, _ = vllms_own.TopKTopPSampler()(logits(), {0: torch.Generator()}, None, rows_of(0.9))
    assert torch.equal(drawn, logits().argmax(dim=-1))


def test_draws_without_seeds_have_the_distribution_of_the_nucleus(faster: ModuleType) -> None:
    """A thousand rows a token: the chi-square statistic of twenty tokens is above 45 once in a thousand samples."""
    one = torch.linspace(0, 3, 20)
    torch.manual_seed(0)
    drawn, _ = faster.TopKTopPSampler()(one.repeat(20_000, 1), {}, None, torch.full((20_000,), 0.9))
    expected = faster.apply_top_k_top_p(one[None].clone(), None, torch.tensor([0.9])).softmax(dim=-1)[0] * 20_000
    counts = drawn.bincount(minlength=20)
    within = expected > 0
    assert counts[~within].sum() == 0 and 0 < (~within).sum() < 20
    assert ((counts - expected)[within] ** 2 / expected[within]).sum() < 45


@pytest.mark.parametrize("mode", ["processed_logits", "processed_logprobs"])
def test_what_was_sampled_from_is_handed_back_where_it_is_asked_for(
    vllms_own: ModuleType, faster: ModuleType, mode: str
) -> None:
    expected = vllms_own.TopKTopPSampler(mode)(logits(), seeded(), None, rows_of(0.9))
    found = faster.TopKTopPSampler(mode)(logits(), seeded(), None, rows_of(0.9))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize(("asked", "sorts"), [(0, True), (None, False)])
def test_it_is_made_only_where_a_request_asks_for_logprobs(
    asked: int | None, sorts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """verl's rollouts ask for the logprob of each token, mining does not."""
    sampler_module = as_verl_ships_it(sampling.SAMPLER_MODULE)
    drawing_module = as_verl_ships_it(sampling.DRAWING_MODULE)
    sampling.note_whether_logprobs_are_asked(sampler_module)
    sampling.draw_without_sorting(drawing_module)
    monkeypatch.setattr(sampler_module, "TopKTopPSampler", drawing_module.TopKTopPSampler)
    masked: list[int] = []
    own_mask = drawing_module.apply_top_k_top_p

    def mask(logits: torch.Tensor, *args: Any) -> torch.Tensor:
        masked.append(len(logits))
        return own_mask(logits, *args)

    monkeypatch.setattr(drawing_module, "apply_top_k_top_p", mask)
    found = sampler_module.Sampler("processed_logprobs")(logits(), metadata(asked))
    assert (found.logprobs_tensors is not None) == sorts
    assert (masked == [ROWS]) == sorts and sum(masked) <= ROWS


def test_vllms_own_sampler_still_does_more(
    vllms_own: ModuleType, faster: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_sorted: list[int] = []
    noise_drawn: list[int] = []
    own_sort, own_exponential = torch.Tensor.sort, torch.Tensor.exponential_

    def sort(values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows_sorted.append(len(values))
        return own_sort(values, *args, **kwargs)

    def exponential(values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        noise_drawn.append(values.numel())
        return own_exponential(values, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "sort", sort)
    monkeypatch.setattr(torch.Tensor, "exponential_", exponential)
    vllms_own.TopKTopPSampler()(logits(), seeded(), None, rows_of(0.9))
    assert sum(rows_sorted) == ROWS and sum(noise_drawn) == 2 * ROWS * VOCABULARY, (
        "vLLM's sampler has changed: draw_without_sorting may no longer be needed"
    )
    rows_sorted.clear()
    noise_drawn.clear()
    faster.TopKTopPSampler()(logits(), seeded(), None, rows_of(0.9))
    assert sum(rows_sorted) < ROWS / 4 and not noise_drawn


def test_vllm_has_it_after_loading_its_plugins() -> None:
    from vllm.plugins import load_general_plugins
    from vllm.v1.sample import sampler
    from vllm.v1.sample.ops import topk_topp_sampler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    load_general_plugins()
    assert hasattr(topk_topp_sampler.TopKTopPSampler.forward_cpu, "__wrapped__")
    assert hasattr(sampler.Sampler.sample, "__wrapped__")
    assert hasattr(GPUModelRunner._init_mrope_positions, "__wrapped__")


@pytest.mark.parametrize(
    ("platform", "version", "hooks"), [("cuda", "0.28.1", 0), ("cpu", "0.29.0", 0), ("cpu", "0.28.0", 3)]
)
def test_other_platforms_and_versions_are_left_alone(
    platform: str, version: str, hooks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERL_PLATFORM", platform)
    assert len(hooked(vllm_plugin.register, version, monkeypatch)) == hooks


def test_without_any_vllm_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    vllm_plugin.register()
