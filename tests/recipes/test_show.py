"""``--show`` and ``--check`` of the run scripts."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from recipe import check, compose_recipe, show
from typer import Exit

from divek_verl.commands import doctor
from divek_verl.errors import SetupError
from divek_verl.estimate import summary

from .cases import KINDS, METHODS, overrides
from .test_launch import CUB, ready, start

__all__ = ["ready"]


def shown(capsys: pytest.CaptureFixture[str], *given: str) -> list[str]:
    show(list(given))
    return capsys.readouterr().out.splitlines()


def comments(lines: list[str]) -> dict[str, str]:
    """The comment of each value, by its full name."""
    found, above = {}, list[str]()
    for line in lines:
        if not line.startswith("#"):
            key = line.strip().partition(":")[0]
            above[(len(line) - len(line.lstrip())) // 2 :] = [key]
            found[".".join(above)] = line.rpartition("  # ")[2]
    return found


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_the_output_is_the_configuration_and_every_source_is_known(
    capsys: pytest.CaptureFixture[str], task: str, method: str
) -> None:
    given = overrides(task=task, method=method)
    lines = shown(capsys, *given)
    read = OmegaConf.to_container(OmegaConf.create(yaml.safe_load("\n".join(lines))), resolve=True)
    config = compose_recipe(*given)
    expected = OmegaConf.to_container(config, resolve=True)
    assert isinstance(read, dict) and isinstance(expected, dict)
    # What DiVE-k sets at its start is tested below.
    for each in (read, expected):
        each["trainer"].pop("v1"), each["trainer"].pop("checkpoint_callback_class")
    assert read == expected
    assert not [line for line in lines if line.endswith("# ?")]


def test_each_kind_of_source_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N_GPUS_PER_NODE", "4")
    monkeypatch.setenv("DATA_DIR", "/a folder")
    found = comments(shown(capsys, "method=paper", "variant=nnodes", "trainer.save_freq=7"))
    assert found["trainer.save_freq"] == "command line"
    assert found["trainer.n_gpus_per_node"] == "N_GPUS_PER_NODE in the environment"
    assert found["recipe.data_dir"] == "DATA_DIR in the environment"
    assert found["trainer.total_training_steps"] == "run_*.sh: counted"
    assert found["data.train_batch_size"] == "run_*.sh: recipe.prompts_per_node x trainer.nnodes"
    assert found["divek.few_class_fillers"] == "recipes/method/paper.yaml"
    assert found["divek.votes_file"].startswith("recipes/method/paper.yaml, ${recipe.data_dir}/votes/")
    assert found["divek.num_samples"] == "divek_verl: divek/online.yaml"
    assert found["actor_rollout_ref.actor.kl_loss_coef"] == "recipes/recipe.yaml"
    assert found["actor_rollout_ref.actor.clip_ratio_low"] == "verl: actor/actor.yaml"
    # Votes that are kept have to be saved with each checkpoint.
    assert found["trainer.checkpoint_callback_class"] == "divek at start"
    assert found["trainer.v1.sampler.sampler_kwargs.train_batch_size"] == "divek at start"


def test_another_mode_gets_another_buffer_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "trainer.v1.trainer_mode=colocate_async")
    (buffer,) = (line for line in lines if "DivekReplayBufferAsync" in line)
    assert buffer.endswith("# divek at start")
    with pytest.raises(SetupError, match=r"trainer_mode=magic is not supported"):
        show(["trainer.v1.trainer_mode=magic"])


def test_the_estimate_and_its_assumptions_stand_below(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "trainer.total_training_steps=9")
    estimate = list(summary(compose_recipe("trainer.total_training_steps=9")))
    assert lines[-len(estimate) :] == [f"# {line}" for line in estimate]
    assert "not measured" in estimate[0] and estimate[1].startswith("  steps: 9 of 48 prompts")


def test_the_script_shows_a_run_without_model_or_data(tmp_path: Path) -> None:
    done = start(CUB, "--show", "trainer.save_freq=7", DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)
    assert read["trainer"]["save_freq"] == 7 and read["data"]["train_files"] == f"{tmp_path}/cub/train.parquet"
    # Whole lines where there is no terminal.
    assert sorted(map(len, done.stdout.splitlines()))[-1] > 150


def test_show_and_check_together_are_still_yaml(tmp_path: Path) -> None:
    done = start(CUB, "--check", "--show", CKPT_DIR=str(tmp_path))
    assert done.returncode == 1, done.stderr
    assert yaml.safe_load(done.stdout)["recipe"]["task"] == "cub"
    assert "# not ready: GPUs" in done.stdout


def test_the_check_names_what_this_machine_lacks_for_the_run(tmp_path: Path) -> None:
    done = start(CUB, "--check", "trainer.n_gpus_per_node=5", CKPT_DIR=str(tmp_path), DATA_DIR=str(tmp_path))
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("not ready: ")
    assert "sees no GPU (wanted: 5 on each node)" in done.stdout
    assert "FAIL batch: 48 prompts x 4 rollouts = 192 sequences do not spread over 5 GPUs" in done.stdout
    assert f"free in {tmp_path}/qwen25vl_7b_cub_online (wanted: 93)" in done.stdout
    assert f"missing: {tmp_path}/cub/train.parquet" in done.stdout and "-> divek prepare cub" in done.stdout
    # A recipe does not run on the CPU platform, and Ray is not started.
    assert "VERL_PLATFORM" not in done.stdout and "Ray:" not in done.stdout


def test_a_machine_that_has_everything_is_ready(
    ready: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ready.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "check_gpus", lambda count, need: doctor.Line(doctor.State.GREEN, "GPUs", f"{count}"))
    usage = type("Usage", (), {"free": 200 * 2**30})()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    check([])
    text = capsys.readouterr().out
    assert text.startswith("ready (") and "ok   model and data: all there" in text and "ok   GPUs: 8" in text
    # Two checkpoints of 100 GB no longer fit.
    with pytest.raises(Exit):
        check(["trainer.save_freq=10", "trainer.max_actor_ckpt_to_keep=4"])
    assert capsys.readouterr().out.startswith("not ready: disk (")


def test_help_names_both() -> None:
    text = start(CUB, "--help").stdout
    assert "--show" in text and "--check" in text and "PYTHON" in text and "set -euo" not in text
