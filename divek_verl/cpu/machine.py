"""What verl and vLLM have to be told on a machine with no GPU, before either is imported."""

import importlib.metadata
import os

from divek_verl.cpu import is_chosen

# Variables of the environment, where the user has set no other value.
CPU_PLATFORM = {
    "VERL_PLATFORM": "cpu",
    # GiB of key-value cache; vLLM's own default is half of the machine's memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # vLLM's own binding puts all threads of several engines on the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
CPU_ENVIRONMENT = {
    **CPU_PLATFORM,
    # Its warnings at start are about what every such engine lacks (Triton, graphs).
    "VLLM_LOGGING_LEVEL": "ERROR",
}
QUIET_ENVIRONMENT = {
    # The progress bar is to be seen; warnings and errors still are.
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
}


def has_accelerator() -> bool:
    """Whether torch sees a GPU or another accelerator."""
    import torch

    return torch.accelerator.is_available()


def has_cpu_engine() -> bool:
    """Whether the installed vLLM is its CPU build."""
    try:
        return bool(importlib.metadata.version("vllm-cpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


def prepare_machine() -> bool:
    """Set what is not set, once and before verl is imported; whether the engine runs on the CPU.

    Without an accelerator, and where vLLM's CPU build is installed, the CPU settings apply by themselves: nothing else
    could run.
    """
    asked = is_chosen()
    on_cpu = asked or (not has_accelerator() and has_cpu_engine())
    wanted = {**QUIET_ENVIRONMENT, **(CPU_ENVIRONMENT if on_cpu else {})}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    if on_cpu and not asked:
        print(
            "divek_verl: no GPU is visible: verl's and vLLM's CPU platform is used (float32, "
            f"{os.environ['VLLM_CPU_KVCACHE_SPACE']} GiB of key-value cache; VLLM_CPU_KVCACHE_SPACE sets another size)"
        )
    return on_cpu


def share_cores(copies: int) -> None:
    """Give each copy of the model, in a process of its own, as many threads as there are cores for it."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // copies)))
