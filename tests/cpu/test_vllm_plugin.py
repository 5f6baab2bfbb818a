"""A batch keeps the seeds that it has; needed as long as vLLM's own sampler for CPUs forgets them."""

import importlib.metadata
from types import ModuleType

import pytest
import torch
from test_compat import as_verl_ships_it, hooked

from divek_verl.cpu import vllm_plugin

ROWS, VOCABULARY = 64, 300
TOP_P = torch.full((ROWS,), 0.9)


@pytest.fixture(scope="module")
def vllms_own() -> ModuleType:
    return as_verl_ships_it(vllm_plugin.SAMPLER_MODULE)


@pytest.fixture(scope="module")
def repaired() -> ModuleType:
    module = as_verl_ships_it(vllm_plugin.SAMPLER_MODULE)
    vllm_plugin.keep_seeds(module)
    return module


def draw(module: ModuleType, seeded: range) -> torch.Tensor:
    """A token for each row; the rows of ``seeded`` have their number as seed."""
    logits = 3.0 * torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0))
    generators = {row: torch.Generator().manual_seed(row) for row in seeded}
    drawn, _ = module.TopKTopPSampler()(logits, generators, None, TOP_P)
    return drawn


def test_a_batch_in_which_all_have_seeds_is_sampled_as_before(vllms_own: ModuleType, repaired: ModuleType) -> None:
    assert torch.equal(draw(repaired, range(ROWS)), draw(vllms_own, range(ROWS)))


def test_a_mixed_batch_keeps_its_seeds(repaired: ModuleType) -> None:
    alone, mixed = draw(repaired, range(ROWS)), draw(repaired, range(1, ROWS, 2))
    assert torch.equal(mixed[1::2], alone[1::2]) and not torch.equal(mixed[::2], alone[::2])


def test_vllms_own_sampler_forgets_them(vllms_own: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails, keep_seeds is no longer needed."""
    monkeypatch.setattr(vllms_own, "compiled_random_sample", lambda logits: logits.argmax(dim=-1))
    assert torch.equal(draw(vllms_own, range(1)), draw(vllms_own, range(0)))


def test_vllm_has_it_after_loading_its_plugins() -> None:
    from vllm.plugins import load_general_plugins
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    load_general_plugins()
    assert TopKTopPSampler.forward_cpu is TopKTopPSampler.forward_native


@pytest.mark.parametrize(
    ("platform", "version", "hooks"), [("cuda", "0.28.1", 0), ("cpu", "0.29.0", 0), ("cpu", "0.28.0", 1)]
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
