"""A normal install, not the editable one that the other tests run on: everything that it needs is in the wheel."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in it as a user would, without its dependencies."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    # pip builds in the source folder: a copy keeps the repository as it is.
    copied = ["setup.py", "pyproject.toml", "README.md", "divek_verl"]
    subprocess.run(["cp", "-r", *copied, str(source)], cwd=REPOSITORY, check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    return target


def test_the_wheel_holds_configuration_and_templates(installed: Path) -> None:
    package = installed / "divek_verl"
    for folder, pattern in (("config", "**/*.yaml"), ("templates", "*")):
        shipped = {path.relative_to(package) for path in (package / folder).glob(pattern) if path.is_file()}
        ours = REPOSITORY / "divek_verl"
        assert shipped == {path.relative_to(ours) for path in (ours / folder).glob(pattern) if path.is_file()}
        assert shipped


def test_reward_divek_composes_from_it(installed: Path, run_python: RunPython) -> None:
    where = "import divek_verl, runpy, sys; print('loaded from', divek_verl.__file__, file=sys.stderr); "
    verl = "sys.argv = ['main_ppo', 'reward=divek', '--cfg', 'job']; "
    run = "runpy.run_module('verl.trainer.main_ppo', run_name='__main__')"
    done = run_python("-c", where + verl + run, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert f"loaded from {installed}" in done.stderr
    assert "agent_loop_manager_class: divek_verl.rollout.TwoStageAgentLoopManager" in done.stdout


def test_divek_prepare_works_from_it(installed: Path, run_python: RunPython, tmp_path: Path) -> None:
    """The knowledge of the data sets is in the package: data_prep/ is not installed."""
    for label, name in enumerate("abcd"):
        for index in range(5):
            path = tmp_path / "raw" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), (label, index, 0)).save(path)
    arguments = ["--data-root", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    command = "from divek_verl import cli; import sys; raise SystemExit(cli.run(sys.argv[1:]))"
    done = run_python("-c", command, "prepare", "image_folder", *arguments, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    done = run_python("-c", command, "inspect", str(tmp_path / "out"), PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "inspect.html").is_file()
