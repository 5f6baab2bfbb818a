import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from divek_verl.errors import SetupError

RunPython = Callable[..., subprocess.CompletedProcess[str]]
MAIN = ("-m", "verl.trainer.main_ppo")
NEEDED = ("data.train_files=/data/train.parquet", "actor_rollout_ref.model.path=/model")
REPOSITORY = Path(__file__).resolve().parents[1]
WEIGHTS = {"format_weight": 1.0, "answer_weight": 1.0, "min_think_characters": 1}
# What verl's own checks ask for in every run.
VERL_NEEDS = (
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
)


def _composed(result: subprocess.CompletedProcess[str]) -> DictConfig:
    assert result.returncode == 0, result.stderr
    config = OmegaConf.create(result.stdout)
    assert isinstance(config, DictConfig)
    return config


def _assert_ours(config: DictConfig) -> None:
    reward = config.reward.custom_reward_function
    assert (reward.path, reward.name) == ("pkg://divek_verl.reward", "compute_score")
    assert OmegaConf.to_container(reward.reward_kwargs, resolve=True) == WEIGHTS
    assert (config.data.custom_cls.path, config.data.custom_cls.name) == (
        "pkg://divek_verl.trainer.dataset",
        "DiveKDataset",
    )
    manager = config.actor_rollout_ref.rollout.agent.agent_loop_manager_class
    assert manager == "divek_verl.trainer.rollout.TwoStageAgentLoopManager"
    assert config.divek.num_samples == 20 and config.divek.num_options == 5
    assert config.divek.run_dir == config.trainer.default_local_dir
    # The dataset is given this node only.
    assert config.data.divek == config.divek
    assert config.data.train_files == "/data/train.parquet"


# --------------------------------------------------------------------------- verl's own entry point, from elsewhere


def test_one_word_on_verls_command_line_turns_divek_on(run_python: RunPython) -> None:
    config = _composed(run_python(*MAIN, "reward=divek", *NEEDED, "divek.num_samples=20", "--cfg", "job"))
    _assert_ours(config)
    # What verl's primary file sets in its own body stays as it is.
    assert config.algorithm.adv_estimator == "gae"


def test_the_trainer_config_sets_what_a_group_cannot_and_needs_no_entry_point(run_python: RunPython) -> None:
    named = {"VERL_USE_EXTERNAL_MODULES": "divek_verl.plugin", "VERL_USE_EXTERNAL_PLUGINS": "none"}
    config = _composed(run_python(*MAIN, "--config-name", "divek_trainer", *NEEDED, "--cfg", "job", **named))
    _assert_ours(config)
    assert config.algorithm.adv_estimator == "grpo"
    assert config.trainer.v1.sampler.sync_refill_failed_groups is True
    assert config.trainer.v1.sampler.custom_sampler.name == "DivekReplayBuffer"
    assert config.actor_rollout_ref.rollout.calculate_log_probs is True


def test_the_cpu_config_adds_what_a_cpu_needs(run_python: RunPython) -> None:
    command = (*MAIN, "--config-name", "divek_cpu", *NEEDED, "trainer.n_gpus_per_node=2", "--cfg", "job")
    config = _composed(run_python(*command, VERL_PLATFORM="cpu"))
    _assert_ours(config)
    assert config.algorithm.adv_estimator == "grpo"
    assert config.trainer.device == "cpu"
    assert config.ray_kwargs.ray_init.num_gpus == 2
    assert config.actor_rollout_ref.actor.strategy == config.actor_rollout_ref.ref.strategy == "fsdp2"
    assert config.actor_rollout_ref.rollout.load_format == "auto"
    assert config.actor_rollout_ref.rollout.free_cache_engine is False
    assert config.actor_rollout_ref.rollout.enable_sleep_mode is False


def test_without_the_plugin_verl_knows_no_divek(run_python: RunPython) -> None:
    """Shows that the tests above can fail."""
    result = run_python(*MAIN, "reward=divek", *NEEDED, "--cfg", "job", VERL_USE_EXTERNAL_PLUGINS="none")
    assert result.returncode != 0
    assert "Could not find 'reward/divek'" in result.stderr


def test_a_bad_value_stops_the_real_entry_point_before_ray_starts(run_python: RunPython) -> None:
    result = run_python(*MAIN, "--config-name", "divek_cpu", *NEEDED, "divek.num_options=1", VERL_PLATFORM="cpu")
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if "Error" in line]
    sentence = "divek.num_options=1 does not work: it must be auto or a whole number from 2 to 26."
    assert errors[-1] == f"divek_verl.errors.SetupError: {sentence}"
    # verl prints this line just before it starts Ray.
    assert "ray init kwargs" not in result.stdout + result.stderr
    assert "Started a local Ray instance" not in result.stdout + result.stderr


# --------------------------------------------------------------------------- verl's configuration check


def _validate(config: DictConfig) -> None:
    """As ``verl.trainer.main_ppo`` calls it."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


def test_verls_check_of_its_configuration_checks_divek_too(compose: Any) -> None:
    with pytest.raises(SetupError, match="divek.num_options=1 does not work"):
        _validate(compose(*VERL_NEEDS, "divek.num_options=1", name="divek_trainer"))


def test_a_good_configuration_passes_both_checks(
    compose: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.parquet").touch()
    files = [f"data.train_files={tmp_path}/a.parquet", f"data.val_files={tmp_path}/a.parquet"]
    config = compose("reward=divek", "algorithm.adv_estimator=grpo", *files, *VERL_NEEDS)
    _validate(config)
    assert config.trainer.v1.sampler.custom_sampler.name == "DivekReplayBuffer"
    # verl's own check ran after ours.
    assert "[validate_config] All configuration checks passed" in capsys.readouterr().out


# Options of verl's own example scripts; docs/add-to-your-run.md has a table of them.
COMPOSED = (
    *(
        f"algorithm.adv_estimator={name}"
        for name in (
            *("grpo_passk", "grpo_vectorized", "rloo", "rloo_vectorized", "reinforce_plus_plus", "opo", "gpg", "gdpo"),
            *("reinforce_plus_plus_baseline", "optimal_token_baseline"),
        )
    ),
    "algorithm.use_kl_in_reward=true",
    "algorithm.norm_adv_by_std_in_grpo=false",
    "algorithm.rollout_correction.rollout_is=token",
    "actor_rollout_ref.actor.strategy=fsdp",
    "actor_rollout_ref.actor.use_dynamic_bsz=true",
    "actor_rollout_ref.actor.use_prefix_grouper=true",
    "actor_rollout_ref.model.lora_rank=16",
    "actor_rollout_ref.rollout.name=sglang",
    "actor_rollout_ref.rollout.name=trtllm",
    "actor_rollout_ref.rollout.multi_turn.enable=true",
    "actor_rollout_ref.rollout.val_kwargs.n=4",
    "actor_rollout_ref.rollout.n=1",
    "data.shuffle=false",
    "data.filter_overlong_prompts=true",
    "trainer.balance_batch=false",
    "trainer.val_only=true",
    "trainer.v1.trainer_mode=separate_async",
    "model_engine=megatron",
)


@pytest.mark.parametrize("option", COMPOSED)
def test_an_option_of_verls_passes_both_checks_and_is_in_the_table(compose: Any, tmp_path: Path, option: str) -> None:
    (tmp_path / "a.parquet").touch()
    files = [f"data.train_files={tmp_path}/a.parquet", f"data.val_files={tmp_path}/a.parquet"]
    needs = ("algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.name=vllm", *VERL_NEEDS)
    config = compose("reward=divek", *needs, *files, option)
    _validate(config)
    assert config.reward.custom_reward_function.path == "pkg://divek_verl.reward"
    name, _, value = option.partition("=")
    text = (REPOSITORY / "docs" / "add-to-your-run.md").read_text()
    shown = name.removeprefix("actor_rollout_ref.")
    assert shown in text and (name != "algorithm.adv_estimator" or f"`{value}`" in text)


def test_installing_twice_wraps_once() -> None:
    import wrapt
    from verl.utils import config

    from divek_verl import plugin

    before = config.validate_config
    plugin.install()
    assert config.validate_config is before
    assert isinstance(before, wrapt.FunctionWrapper) and not isinstance(before.__wrapped__, wrapt.FunctionWrapper)


def test_a_plugin_that_cannot_load_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """verl swallows the error of an entry point, so that only this line explains the missing `reward=divek`."""
    from hydra.core.plugins import Plugins

    from divek_verl import plugin

    def broken(*_: Any) -> None:
        raise RuntimeError("Hydra is not what it was")

    monkeypatch.setattr(Plugins, "register", broken)
    spec = importlib.util.spec_from_file_location("broken_plugin", plugin.__file__)
    assert spec and spec.loader
    with pytest.raises(RuntimeError, match="not what it was"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    printed = capsys.readouterr().err
    assert "divek_verl: the plugin could not be loaded, so `reward=divek` is unknown" in printed
    assert "Hydra is not what it was" in printed


def test_the_baseline_composes_with_one_word_and_has_no_second_step(compose: Any) -> None:
    config = compose("reward=virft", "algorithm.adv_estimator=grpo", *NEEDED)
    reward = config.reward.custom_reward_function
    assert (reward.path, reward.name) == ("pkg://divek_verl.reward", "compute_score")
    assert dict(reward.reward_kwargs) == {"open_questions": True, **WEIGHTS}
    assert config.data.custom_cls.name == "DiveKDataset"
    records = {"run_dir": config.trainer.default_local_dir}
    assert dict(config.data.divek) == {"max_pixels": 401408, "min_pixels": 3136, "list_classes": True, **records}
    assert "divek" not in config
    assert "agent_loop_manager_class" not in config.actor_rollout_ref.rollout.agent
    assert config.trainer.v1.sampler.custom_sampler.path is None
