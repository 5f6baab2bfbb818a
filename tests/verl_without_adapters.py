"""Prints as JSON what verl does on a CPU without adapters; runs in its own process, without the plugin."""

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

facts: dict[str, object] = {}


def attempt(name: str, call: Callable[[], object]) -> None:
    """Record the call's result or error."""
    try:
        facts[name] = str(call())
    except Exception as error:
        facts[name] = f"{type(error).__name__}: {error}"


def import_torchvision() -> str:
    import torchvision

    return f"torchvision {torchvision.__version__}"


def offload_with_pinned_memory() -> object:
    """Offload like the engine's reference policy (verl/workers/engine/fsdp/transformer_impl.py)."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layer = torch.nn.Linear(2, 2)
    policy = transformer_impl.CPUOffloadPolicy(pin_memory=True)
    fully_shard(layer, mesh=init_device_mesh("cpu", (1,)), offload_policy=policy)
    return layer(torch.ones(1, 2)).shape


attempt("torchvision", import_torchvision)

from divek_verl.cpu.torchvision_stub import define_missing_operators  # noqa: E402

define_missing_operators()
attempt("torchvision after the operators were defined", import_torchvision)
attempt("version of vllm", lambda: importlib.metadata.version("vllm"))

from verl.plugin.platform import platform_manager  # noqa: E402

facts["platforms"] = platform_manager.PlatformRegistry.registered_names()
attempt("platform cpu", lambda: platform_manager._create_platform("cpu"))

from divek_verl.cpu.platform import PlatformCPU  # noqa: E402  (registers it)

facts["platforms with ours"] = platform_manager.PlatformRegistry.registered_names()
attempt("detected platform", platform_manager._detect_platform_name)
platform_manager.set_platform(PlatformCPU())

from verl.utils import distributed  # noqa: E402
from verl.workers.engine.fsdp import transformer_impl  # noqa: E402

for backend in ("fsdp", "fsdp2"):
    attempt(
        f"engine {backend}",
        lambda backend=backend: transformer_impl.EngineRegistry.get_engine_cls("language_model", backend),
    )
os.environ["DIST_INIT_METHOD"] = f"file://{Path.cwd() / f'store-{os.getpid()}'}"
attempt("process group", distributed.initialize_global_process_group_ray)
attempt("gloo process group", lambda: distributed.initialize_global_process_group_ray(backend="gloo"))
attempt("pinned offload", offload_with_pinned_memory)
json.dump(facts, sys.stdout)
