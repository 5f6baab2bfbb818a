"""How many copies of a model `divek mine` and `divek eval` start on a CPU by themselves."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from divek_verl.engines import copies
from divek_verl.engines.copies import GIB, copies_on_a_cpu
from divek_verl.engines.options import EngineOptions


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model whose copies take 2 GiB of weights, 1 GiB of cache and 2 GiB besides, on 16 cores with 64 GiB free."""
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(GIB)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setattr(copies.os, "cpu_count", lambda: 16)
    free(monkeypatch, 64)
    return str(tmp_path)


def free(monkeypatch: pytest.MonkeyPatch, gib: int) -> None:
    memory = SimpleNamespace(available=gib * GIB, total=64 * GIB)
    monkeypatch.setattr(copies.psutil, "virtual_memory", lambda: memory)


@pytest.mark.parametrize(("images", "expected"), [(0, 1), (1, 1), (255, 1), (256, 2), (384, 3), (100_000, 4)])
def test_few_images_do_not_pay_for_the_start_of_a_copy(model: str, images: int, expected: int) -> None:
    assert copies_on_a_cpu(EngineOptions(model), images) == expected


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 2), (3, 3), (64, 4), (None, 1)])
def test_no_more_copies_than_cores(
    model: str, monkeypatch: pytest.MonkeyPatch, cores: int | None, expected: int
) -> None:
    monkeypatch.setattr(copies.os, "cpu_count", lambda: cores)
    assert copies_on_a_cpu(EngineOptions(model), 10_000) == expected


@pytest.mark.parametrize(("gib", "expected"), [(1, 1), (9, 1), (10, 2), (15, 3), (64, 4)])
def test_all_copies_fit_into_the_free_memory(
    model: str, monkeypatch: pytest.MonkeyPatch, gib: int, expected: int
) -> None:
    free(monkeypatch, gib)
    assert copies_on_a_cpu(EngineOptions(model), 10_000) == expected


def test_vllms_own_cache_takes_half_of_the_memory(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    assert copies_on_a_cpu(EngineOptions(model), 10_000) == 1


def test_one_copy_of_a_model_whose_size_is_not_known() -> None:
    assert copies_on_a_cpu(EngineOptions("Qwen/Qwen2.5-VL-7B-Instruct"), 10_000) == 1


def test_one_copy_where_several_processes_share_it(model: str) -> None:
    assert copies_on_a_cpu(EngineOptions(model, tensor_parallel=2), 10_000) == 1
