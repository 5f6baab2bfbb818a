"""verl's platform interface for a machine with no accelerator.

verl counts accelerators, moves tensors to them and asks them for memory figures. This class answers for a CPU: one
"device" for each data-parallel worker, all of them the same processor. ``VERL_PLATFORM=cpu`` chooses it
(verl/plugin/platform/platform_manager.py); auto-detection never does.
"""

import platform as host
from contextlib import nullcontext
from types import SimpleNamespace

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


def _total_memory() -> int:
    return int(psutil.virtual_memory().total)


def _used_memory(*_: object, **__: object) -> int:
    return int(psutil.Process().memory_info().rss)


def _nothing(*_: object, **__: object) -> None:
    """Stand in for an operation that only an accelerator has, such as emptying its allocator's cache."""


# The calls of torch.cuda that verl makes on any platform: memory reports, caches, streams and the device's name.
CPU_DEVICE_MODULE = SimpleNamespace(
    __name__="torch.cpu",
    current_device=lambda: torch.device("cpu"),
    device_count=lambda: 1,
    set_device=_nothing,
    synchronize=_nothing,
    empty_cache=_nothing,
    ipc_collect=_nothing,
    reset_peak_memory_stats=_nothing,
    manual_seed=torch.manual_seed,
    manual_seed_all=torch.manual_seed,
    get_rng_state=lambda *_: torch.get_rng_state(),
    set_rng_state=lambda state, *_: torch.set_rng_state(state),
    memory_allocated=_used_memory,
    memory_reserved=_used_memory,
    max_memory_allocated=_used_memory,
    max_memory_reserved=_used_memory,
    mem_get_info=lambda *_: (int(psutil.virtual_memory().available), _total_memory()),
    get_device_name=lambda *_: "CPU",
    get_device_properties=lambda *_: SimpleNamespace(name="CPU", total_memory=_total_memory()),
    get_device_capability=lambda *_: (None, None),
    is_available=lambda: True,
    Stream=torch.cpu.Stream,
    current_stream=torch.cpu.current_stream,
    stream=torch.cpu.stream,
    is_bf16_supported=lambda: True,
)


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """The processor as verl's device: gloo for collectives, shared memory for weight transfer."""

    device_name = "cpu"
    vendor_name = host.machine()
    device_module = CPU_DEVICE_MODULE

    set_device = synchronize = empty_cache = set_allocator_settings = _nothing
    profiler_start = profiler_stop = cudart = _nothing

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """False, so that a GPU is never passed over: only ``VERL_PLATFORM=cpu`` chooses the CPU."""
        return False

    def current_device(self) -> torch.device:
        # verl passes this to `.to()`: an index would mean an accelerator.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return (None, None)

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> nullcontext[None]:
        return nullcontext()

    def ray_resource_name(self) -> str:
        # verl reserves "GPU" in its placement groups; here they are logical (ray_kwargs.ray_init.num_gpus), one for
        # each data-parallel worker.
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False
