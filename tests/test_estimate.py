"""The arithmetic of a run's steps, memory, disk and hours, against sums that are done by hand here."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf

from divek_verl.errors import SetupError
from divek_verl.estimate import (
    ASSUMED,
    Assumptions,
    checkpoint_gb,
    checkpoints,
    counted_steps,
    memory,
    parse_assumed,
    planned_gb,
    run_hours,
    step_seconds,
    summary,
    validation_hours,
)


@pytest.fixture
def config() -> DictConfig:
    """A model of 10 billion parameters on 2 x 4 GPUs."""
    return OmegaConf.create(
        {
            "recipe": {
                **{"billion_parameters": 10.0, "layers": 20, "hidden_size": 4000, "vocabulary": 100_000},
                **{"prompts": 6, "steps": 400, "epochs": None, "train_images": 1000, "held_out_images": 300},
            },
            "trainer": {
                **{"nnodes": 2, "n_gpus_per_node": 4, "total_training_steps": 100, "experiment_name": "a_run"},
                **{"save_freq": 30, "max_actor_ckpt_to_keep": 2, "default_local_dir": "ckpt"},
                **{"test_freq": 40, "val_before_train": True},
            },
            "data": {
                **{"train_batch_size": 16, "max_prompt_length": 1500, "max_response_length": 500},
                **{"train_files": "train.parquet", "val_files": ["base.parquet", "new.parquet"]},
            },
            "divek": {"num_samples": 20, "max_vote_age": 0},
            "actor_rollout_ref": {
                "model": {"lora_rank": 0, "enable_gradient_checkpointing": True},
                "actor": {
                    **{"use_kl_loss": True, "use_dynamic_bsz": True, "ppo_max_token_len_per_gpu": 8000},
                    **{"ppo_micro_batch_size_per_gpu": 2, "fsdp_config": {"optimizer_offload": False}},
                    "checkpoint": {"save_contents": ["model", "optimizer", "extra"]},
                },
                "rollout": {
                    **{"n": 4, "gpu_memory_utilization": 0.5, "tensor_model_parallel_size": 2},
                    "val_kwargs": {"n": 1},
                },
            },
        }
    )


# ------------------------------------------------------------------------------------------------------- steps


def test_steps_are_the_images_of_the_reference_or_of_epochs(config: DictConfig, tmp_path: Path) -> None:
    assert counted_steps(config) == 400 * 6 / 16
    config.recipe.epochs = 1.6
    assert counted_steps(config) == 100
    config.data.train_files = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    pq.write_table(pa.table({"index": range(40)}), tmp_path / "a.parquet")
    # As long as a file is missing, the images of the reference count.
    assert counted_steps(config) == 100
    pq.write_table(pa.table({"index": range(60)}), tmp_path / "b.parquet")
    assert counted_steps(config) == 1.6 * 100 / 16
    config.data.train_batch_size = 1000
    assert counted_steps(config) == 1


# ---------------------------------------------------------------------------------------------- memory and disk


def test_memory_by_hand(config: DictConfig) -> None:
    found = memory(config)
    assert found["state"] == pytest.approx(10 * 16 / 8)
    assert found["reference"] == pytest.approx(10 * 4 / 8)
    assert found["layer"] == pytest.approx(1.0)
    # The inputs of 20 layers in bf16, and one layer computed again.
    assert found["activations"] == pytest.approx(8000 * 4000 * (2 * 20 + 34) / 1e9)
    assert found["logits"] == pytest.approx(8000 * 100_000 * 4 * 3 / 1e9)
    assert (found["engine"], found["engine weights"]) == (40.0, 10.0)
    assert found["generating"] == pytest.approx(20 + 5 + 40)
    assert found["training"] == pytest.approx(20 + 5 + 1 + found["activations"] + found["logits"])
    assert planned_gb(config) == pytest.approx(65 / 0.9)
    # The engine takes its share of the card that is there.
    assert planned_gb(config, 160) == pytest.approx(105 / 0.9)


@pytest.mark.parametrize(
    ("option", "value", "part", "times"),
    [
        ("actor_rollout_ref.actor.fsdp_config.optimizer_offload", True, "state", 0.5),
        ("actor_rollout_ref.model.lora_rank", 64, "state", 0.02),
        ("actor_rollout_ref.actor.use_kl_loss", False, "reference", 0.0),
        ("trainer.nnodes", 1, "state", 2.0),
        ("actor_rollout_ref.model.enable_gradient_checkpointing", False, "activations", 20 * 34 / 74),
        # 2 sequences of 2,000 tokens.
        ("actor_rollout_ref.actor.use_dynamic_bsz", False, "logits", 4000 / 8000),
    ],
)
def test_memory_follows_the_configuration(config: DictConfig, option: str, value: Any, part: str, times: float) -> None:
    whole = memory(config)[part]
    OmegaConf.update(config, option, value)
    assert memory(config)[part] == pytest.approx(times * whole)


def test_with_adapters_the_frozen_model_is_the_reference(config: DictConfig) -> None:
    config.actor_rollout_ref.model.lora_rank = 64
    config.actor_rollout_ref.actor.use_kl_loss = False
    assert memory(config)["reference"] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("every", "kept", "on_disk"),
    [
        # Saved at 30, 60, 90 and 100.
        (30, 2, 2),
        (30, 10, 4),
        (30, None, 4),
        # verl deletes a single one after its successor is written.
        (30, 1, 2),
        (100, 1, 1),
        (500, 2, 1),
        (-1, 2, 0),
    ],
)
def test_the_disk_holds_what_verl_keeps(config: DictConfig, every: int, kept: int | None, on_disk: int) -> None:
    config.trainer.save_freq, config.trainer.max_actor_ckpt_to_keep = every, kept
    assert checkpoints(config) == on_disk


def test_a_checkpoint_is_what_verl_saves_of_what_is_trained(config: DictConfig) -> None:
    assert checkpoint_gb(config) == pytest.approx(10 * 12)
    config.actor_rollout_ref.actor.checkpoint.save_contents = ["model", "hf_model"]
    assert checkpoint_gb(config) == pytest.approx(10 * 6)
    config.actor_rollout_ref.actor.checkpoint.save_contents = ["model", "optimizer"]
    config.actor_rollout_ref.model.lora_rank = 64
    assert checkpoint_gb(config) == pytest.approx(10 * 4 + 0.2 * 8)


# ------------------------------------------------------------------------------------------------------- hours


def test_a_step_by_hand(config: DictConfig) -> None:
    config.divek.num_samples = 40
    found = step_seconds(config)
    # A GPU generates 2,500 tokens a second for a 7B model.
    assert found["mining"] == pytest.approx(16 * 40 * 250 / (2500 * 0.7) / 8)
    # 64 answers are quickly generated, but the longest of 500 tokens takes its time.
    assert found["rollouts"] == pytest.approx(500 / 60)
    assert found["training"] == pytest.approx(64 * 1450 * 12 * 10e9 / (8 * 989e12 * 0.3))
    assert found["waiting"] == 20.0
    config.divek.max_vote_age = None
    assert step_seconds(config)["mining"] == 0.0


def test_validations_ask_every_held_out_image_again(config: DictConfig) -> None:
    # Before the first step, after 40, 80 and the last.
    whole = 4 * 300 * 21 * 250 / (2500 * 0.7) / 3600
    assert validation_hours(config) == pytest.approx(whole)
    config.divek.val_max_images = 50
    assert validation_hours(config) == pytest.approx(whole / 3)
    config.divek.val_num_samples = 6
    assert validation_hours(config) == pytest.approx(whole / 9)
    del config.divek
    assert validation_hours(config) == pytest.approx(whole / 21)
    config.trainer.test_freq, config.trainer.val_before_train = -1, False
    assert validation_hours(config) == 0.0


def test_a_run_is_its_steps_on_all_gpus_and_its_validations(config: DictConfig) -> None:
    steps = 100 * sum(step_seconds(config).values()) * 8 / 3600
    assert run_hours(config) == pytest.approx(steps + validation_hours(config))


# ----------------------------------------------------------------------------------------------------- in words


def test_the_summary_says_what_it_is_and_every_assumption(config: DictConfig) -> None:
    text = "\n".join(summary(config))
    assert text.startswith("a_run: estimates by arithmetic, not measured\n")
    assert "steps: 100 of 16 prompts x 4 rollouts, 1,600 images" in text
    assert "memory of each GPU: 65 GB of 80, fits" in text
    assert "disk: 240 GB, 2 x a checkpoint of 120 GB in ckpt" in text
    assert f"wall-clock: {run_hours(config) / 8:.1f} hours on 8 GPUs (2 x 4)" in text
    assert all(f"  {line}" in text for line in ASSUMED.lines())
    assert "memory of each GPU: 55 GB of 60, DOES NOT FIT" in "\n".join(summary(config, Assumptions(gpu_gb=60)))


@pytest.mark.parametrize("given", ["overhead", "overhead=", "overhead=-1", "overhead=0", "weather=3"])
def test_an_assumption_that_does_not_exist_or_is_no_number_is_refused(given: str) -> None:
    with pytest.raises(SetupError, match="is not NAME=VALUE"):
        parse_assumed([given])


def test_an_assumption_is_changed() -> None:
    assert parse_assumed(["overhead=2.5", "decode_rate=3e3"]) == Assumptions(overhead=2.5, decode_rate=3000.0)
