"""A machine with no GPU needs no variable set by hand; whoever set one keeps it."""

import os

import pytest

from divek_verl.cpu import machine

MACHINE = {**machine.QUIET_ENVIRONMENT, **machine.CPU_ENVIRONMENT}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*MACHINE, "OMP_NUM_THREADS"]:
        # Set first, so that the test's end also takes back what prepare_machine sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_without_a_gpu_the_cpu_settings_apply_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    if machine.has_accelerator() or not machine.has_cpu_engine():
        pytest.skip("this machine has a GPU, or no CPU build of vLLM")
    assert machine.prepare_machine()
    assert {name: os.environ[name] for name in MACHINE} == MACHINE
    assert "no GPU is visible" in capsys.readouterr().out


def test_what_the_user_set_stays_and_is_not_told_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    assert machine.prepare_machine()
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert capsys.readouterr().out == ""


def test_a_gpu_is_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_accelerator", lambda: True)
    assert not machine.prepare_machine()
    assert "VERL_PLATFORM" not in os.environ


def test_without_the_cpu_build_nothing_is_taken_for_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_cpu_engine", lambda: False)
    assert not machine.prepare_machine()


@pytest.mark.parametrize(("cores", "copies", "threads"), [(8, 3, "2"), (2, 4, "1")])
def test_copies_of_a_model_share_the_cores(
    cores: int, copies: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    machine.share_cores(copies)
    assert os.environ["OMP_NUM_THREADS"] == threads
    machine.share_cores(1)
    assert os.environ["OMP_NUM_THREADS"] == threads, "what is set stays"
