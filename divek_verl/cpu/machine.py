"""Environment variables that verl and vLLM need on a machine with no GPU, set before either is imported."""

import os

from divek_verl.compat import installed_version
from divek_verl.cpu import is_chosen

# Used unless the user has set another value.
CPU_PLATFORM = {
    "VERL_PLATFORM": "cpu",
    # GiB of key-value cache; vLLM's own default is half of the machine's memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # vLLM's own binding puts all threads of several engines on the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
CPU_ENVIRONMENT = {
    **CPU_PLATFORM,
    # vLLM warns at its start that Triton and graphs are missing, as they are on every CPU.
    "VLLM_LOGGING_LEVEL": "ERROR",
}
QUIET_ENVIRONMENT = {
    # Only warnings and errors, so that the progress bar can be seen.
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
}


def has_accelerator() -> bool:
    """Whether torch sees a GPU or another accelerator."""
    import torch

    return torch.accelerator.is_available()


def has_cpu_engine() -> bool:
    """Whether the installed vLLM is its CPU build."""
    return installed_version("vllm-cpu") is not None


def prepare_machine() -> bool:
    """Set the variables that are not set, before verl is imported; returns whether the engine runs on the CPU.

    The CPU settings apply by themselves without an accelerator and with vLLM's CPU build: nothing else could run.
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
    """Give each copy of the model, which is a process of its own, its share of the cores as threads."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // copies)))
