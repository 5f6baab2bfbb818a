"""Fixtures of several test modules. All tests run on verl's CPU platform, even on a machine with a GPU."""

import atexit
import copy
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch, verl or datasets are imported: they read their environment once.
os.environ["VERL_PLATFORM"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="divek-datasets-")
os.environ.setdefault("OMP_NUM_THREADS", "1")
atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# The duration of an example depends on the machine, not on the code.
settings.register_profile("divek", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("divek")

REPOSITORY = Path(__file__).resolve().parents[1]
# Names that do not occur in the prompts, so the small tokenizer must be given them.
FLAGS = ("Chad", "Romania", "Andorra", "Moldova", "Monaco", "Indonesia")

RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_python(tmp_path_factory: pytest.TempPathFactory) -> RunPython:
    """Runs ``python *arguments`` in a folder outside the repository.

    Keyword arguments change the environment; None removes a variable. This process's own settings for verl's plugins
    are removed first, so that a child starts as from a user's shell.
    """
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
        changed = {
            "VERL_PLATFORM": None,
            "VERL_USE_EXTERNAL_MODULES": None,
            "VERL_USE_EXTERNAL_PLUGINS": None,
            "HYDRA_FULL_ERROR": None,
            **environment,
        }
        child = {**os.environ, **{name: value for name, value in changed.items() if value is not None}}
        for name in [name for name, value in changed.items() if value is None]:
            child.pop(name, None)
        return subprocess.run(
            [sys.executable, *arguments], cwd=elsewhere, env=child, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture(scope="session")
def processor() -> Any:
    """The demo's processor and tokenizer, set up as verl sets up those of a Qwen2.5-VL."""
    from transformers.models.qwen2_5_vl import Qwen2_5_VLModel

    from divek_verl import prompts
    from divek_verl.demo.model import build_config, build_processor, build_tokenizer

    tokenizer = build_tokenizer([prompts.open_question(prompts.Wording(), FLAGS)], FLAGS)
    built = build_processor(tokenizer)
    # verl/utils/tokenizer/tokenizer.py: hf_processor
    built.config = build_config(tokenizer)
    built.get_rope_index = types.MethodType(Qwen2_5_VLModel.get_rope_index, built)
    if hasattr(Qwen2_5_VLModel, "get_vision_position_ids"):
        built.get_vision_position_ids = types.MethodType(Qwen2_5_VLModel.get_vision_position_ids, built)
    return built


@pytest.fixture(scope="session")
def compose() -> Callable[..., Any]:
    """Composes verl's configuration with overrides, as its entry point does: ``compose("reward=divek", ...)``."""
    import verl  # noqa: F401  (loads the plugin, which puts our files on Hydra's search path)
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module

    @functools.cache
    def composed(name: str, overrides: tuple[str, ...]) -> Any:
        with initialize_config_module("verl.trainer.config", version_base=None):
            return hydra_compose(name, overrides=list(overrides))

    # Tests change the result, so each gets a copy.
    return lambda *overrides, name="ppo_trainer": copy.deepcopy(composed(name, overrides))


@pytest.fixture(scope="session")
def without_adapters(run_python: RunPython) -> dict[str, Any]:
    """verl's behaviour on a CPU without adapters: name -> result or error (tests/verl_without_adapters.py)."""
    result = run_python(
        str(Path(__file__).parent / "verl_without_adapters.py"),
        VERL_USE_EXTERNAL_PLUGINS="none",
        # With autoload, `import torch` would already apply the torchvision workaround.
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
    )
    assert result.returncode == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return facts
