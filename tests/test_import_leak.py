"""The core is pure Python: other tools may grade and build questions without a training stack."""

import os
import subprocess
import sys

import pytest

CORE = ("errors", "labels", "answers", "votes", "question", "prompts", "reward", "option_sources")
HEAVY = ("torch", "verl", "vllm", "ray", "transformers", "numpy")


def _loaded_by(statement: str) -> set[str]:
    script = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in result.stdout.split()}


@pytest.mark.parametrize("module", CORE)
def test_the_core_loads_the_standard_library_and_itself(module: str) -> None:
    loaded = _loaded_by(f"import divek_verl.{module}")
    assert not loaded & set(HEAVY)
    assert loaded <= {*sys.stdlib_module_names, "divek_verl"}


def test_grading_a_question_loads_nothing_heavy() -> None:
    call = "from divek_verl.reward import compute_score as f; f('divek/cub/base', '<answer>A</answer>', 'A')"
    assert not _loaded_by(call) & set(HEAVY)


def test_the_check_can_fail() -> None:
    assert "numpy" in _loaded_by("import numpy")


def test_the_package_has_a_version() -> None:
    assert not _loaded_by("from divek_verl import __version__; assert __version__") & set(HEAVY)
