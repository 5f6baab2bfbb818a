from typing import Any

import pytest
import torch
from verl.plugin.platform import get_platform, platform_manager
from verl.utils import device

from divek_verl.cpu.platform import PlatformCPU


def test_verl_has_no_cpu_platform(without_adapters: dict[str, Any]) -> None:
    """Where this fails, verl brings one: see whether ours is still needed."""
    assert "cpu" not in without_adapters["platforms"]
    assert without_adapters["platform cpu"].startswith("ValueError: Unknown platform 'cpu'")


def test_it_is_chosen_by_name() -> None:
    """The tests run with VERL_PLATFORM=cpu."""
    assert isinstance(get_platform(), PlatformCPU)
    assert device.get_device_name() == "cpu"


def test_it_is_never_chosen_unasked(without_adapters: dict[str, Any]) -> None:
    assert "cpu" in without_adapters["platforms with ours"]
    assert without_adapters["detected platform"] != "cpu"


def test_it_gives_way_to_whatever_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class PlatformGPU(PlatformCPU):
        def is_platform_available(self, use_smi_check: bool = False) -> bool:
            return True

    monkeypatch.delenv("VERL_PLATFORM")
    # Ours first, as where a plugin was loaded early.
    monkeypatch.setattr(platform_manager.PlatformRegistry, "_platforms", {"cpu": PlatformCPU, "gpu": PlatformGPU})
    assert platform_manager._detect_platform_name() == "gpu"


def test_verl_is_told_its_device_gpus_and_collectives() -> None:
    """verl passes the device to `.to()`, counts logical GPUs of Ray, and sends weights through shared memory."""
    assert torch.ones(2).to(device.get_device_id()).device == torch.device("cpu")
    assert device.get_resource_name() == "GPU"
    assert device.get_visible_devices_keyword() == "CUDA_VISIBLE_DEVICES"
    assert device.get_nccl_backend() == "gloo"
    assert device.is_support_ipc() is False


def test_the_flops_counter_and_the_memory_report_get_their_figures() -> None:
    from verl.utils.flops_counter import get_device_flops
    from verl.utils.memory_utils import aggressive_empty_cache

    module = device.get_torch_device()
    assert module.get_device_name() == "CPU"
    assert get_device_flops() > 0
    free, total = module.mem_get_info()
    assert 0 < free <= total
    assert 0 < module.memory_allocated() <= total
    assert module.max_memory_allocated() > 0 and module.max_memory_reserved() > 0
    aggressive_empty_cache()


@pytest.mark.parametrize("seed", [get_platform().manual_seed, get_platform().manual_seed_all])
def test_a_seed_is_torchs_seed(seed: Any) -> None:
    seed(3)
    first = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(first, torch.rand(2))


def test_the_generators_state_can_be_kept() -> None:
    """Checkpoints of verl's hold it."""
    module = device.get_torch_device()
    state = module.get_rng_state()
    first = torch.rand(2)
    module.set_rng_state(state)
    assert torch.equal(first, torch.rand(2))
