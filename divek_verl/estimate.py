"""What a recipe's run takes, by arithmetic: optimiser steps, memory of a GPU, disk, hours. Nothing here is measured.

The functions read verl's configuration and the ``recipe:`` node of recipes/recipe.yaml, which holds the model's sizes.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from divek_verl.errors import SetupError
from divek_verl.settings import read_settings


def _assume(value: float, meaning: str) -> Any:
    return field(default=value, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Assumptions:
    """The numbers that no configuration holds; the rates are those of an 80 GB card of the H100 class."""

    gpu_gb: float = _assume(80.0, "GB of memory of a GPU")
    usable: float = _assume(0.9, "share of it that may be planned; the rest is for fragmentation and communication")
    trained_bytes: float = _assume(16.0, "bytes a trained parameter: weight, gradient and AdamW's moments in fp32")
    frozen_bytes: float = _assume(4.0, "bytes a frozen parameter; both kinds are sharded over all GPUs")
    lora_share: float = _assume(0.02, "parameters of the adapters for one of the model")
    logits_copies: float = _assume(3.0, "fp32 copies of a micro-batch's logits: themselves, softmax, gradient")
    layer_bytes: float = _assume(34.0, "bytes a token and hidden unit that the backward pass of one layer holds")
    answer_tokens: float = _assume(250.0, "mean tokens of a completion")
    prompt_tokens: float = _assume(1200.0, "mean tokens of a prompt with its picture")
    decode_rate: float = _assume(2500.0, "tokens a second that a GPU generates for a 7B model, many sequences at once")
    sequence_rate: float = _assume(60.0, "tokens a second of a single sequence")
    teraflops: float = _assume(989.0, "peak of a GPU in bf16, in 1e12 operations a second")
    utilisation: float = _assume(0.3, "share of that peak that training reaches")
    flops_per_parameter: float = _assume(
        12.0, "operations a token: forward, backward, recomputation, old and reference log-probabilities"
    )
    overhead: float = _assume(20.0, "seconds of a step in which all GPUs wait: weight sync, loading, logging")

    def lines(self) -> Iterator[str]:
        """``name=value: meaning`` of each."""
        for each in fields(self):
            yield f"{each.name}={getattr(self, each.name):g}: {each.metadata['meaning']}"


ASSUMED = Assumptions()


def parse_assumed(given: Sequence[str]) -> Assumptions:
    """The assumptions, changed by ``NAME=VALUE``."""
    known, changed = [each.name for each in fields(Assumptions)], {}
    for each in given:
        name, _, value = each.partition("=")
        if name not in known or not re.fullmatch(r"\d*\.?\d+(e[+-]?\d+)?", value) or not float(value):
            raise SetupError(f"--assume {each} is not NAME=VALUE with a value above 0 and one of {', '.join(known)}.")
        changed[name] = float(value)
    return replace(ASSUMED, **changed)


def gpus(config: DictConfig) -> int:
    """The GPUs of all nodes."""
    return int(config.trainer.nnodes * config.trainer.n_gpus_per_node)


# ------------------------------------------------------------------------------------------------------- steps


def data_files(config: DictConfig, option: str) -> list[Path]:
    """The parquet files of ``data.train_files`` or ``data.val_files``."""
    named = config.data[option]
    return [Path(file) for file in ([named] if isinstance(named, str) else named)]


def counted_steps(config: DictConfig) -> int:
    """The steps of a run: as many images as ``recipe.steps`` of ``recipe.prompts`` are, or ``recipe.epochs``.

    An epoch has the rows of the prepared files, or of the reference's split where they are not prepared yet.
    """
    images = config.recipe.steps * config.recipe.prompts
    if config.recipe.epochs is not None:
        trained = data_files(config, "train_files")
        prepared = all(file.is_file() for file in trained)
        rows = sum(pq.read_metadata(file).num_rows for file in trained) if prepared else config.recipe.train_images
        images = config.recipe.epochs * rows
    return max(1, round(images / config.data.train_batch_size))


# ---------------------------------------------------------------------------------------------- memory and disk


def trains_adapters(config: DictConfig) -> bool:
    """Whether LoRA's adapters are trained instead of the whole model."""
    return bool(config.actor_rollout_ref.model.lora_rank > 0)


def memory(config: DictConfig, assumed: Assumptions = ASSUMED) -> dict[str, float]:
    """Gigabytes on each GPU: the parts, and their sums while it generates and while it trains."""
    shards, size = gpus(config), config.recipe.billion_parameters
    actor, rollout, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout, config.recipe
    lora = trains_adapters(config)
    tokens = actor.ppo_max_token_len_per_gpu
    if not actor.use_dynamic_bsz:
        tokens = (config.data.max_prompt_length + config.data.max_response_length) * actor.ppo_micro_batch_size_per_gpu
    # AdamW's moments are half of the bytes.
    offloaded = bool(OmegaConf.select(actor, "fsdp_config.optimizer_offload"))
    trained = size * assumed.lora_share if lora else size
    # With checkpointing, a layer keeps its input in bf16, and one layer at a time computes the rest again.
    held = 2 * model.layers + assumed.layer_bytes
    if not config.actor_rollout_ref.model.enable_gradient_checkpointing:
        held = model.layers * assumed.layer_bytes
    training = {
        "state": trained * assumed.trained_bytes * (0.5 if offloaded else 1.0) / shards,
        # With LoRA the reference is the policy without its adapters.
        "reference": (size if lora or actor.use_kl_loss else 0) * assumed.frozen_bytes / shards,
        # One layer's weights, gathered in bf16.
        "layer": size * 2 / model.layers,
        "activations": tokens * model.hidden_size * held / 1e9,
        "logits": tokens * model.vocabulary * 4 * assumed.logits_copies / 1e9,
    }
    # The engine takes its share while it generates; its bf16 weights are a part of it.
    engine = assumed.gpu_gb * rollout.gpu_memory_utilization
    return {
        **training,
        "engine": engine,
        "engine weights": size * 2 / rollout.tensor_model_parallel_size,
        "generating": training["state"] + training["reference"] + engine,
        "training": sum(training.values()),
    }


def planned_gb(config: DictConfig, gpu_gb: float = ASSUMED.gpu_gb) -> float:
    """Gigabytes that each GPU, of ``gpu_gb``, needs at the worst moment, with a margin for what is not estimated."""
    found = memory(config, replace(ASSUMED, gpu_gb=gpu_gb))
    return max(found["generating"], found["training"]) / ASSUMED.usable


def checkpoint_gb(config: DictConfig, assumed: Assumptions = ASSUMED) -> float:
    """Gigabytes of one checkpoint: fp32 weights, and AdamW's two moments of what is trained."""
    size, saved = config.recipe.billion_parameters, config.actor_rollout_ref.actor.checkpoint.save_contents
    trained = size * assumed.lora_share if trains_adapters(config) else size
    return size * (4 * ("model" in saved) + 2 * ("hf_model" in saved)) + trained * 8 * ("optimizer" in saved)


def checkpoints(config: DictConfig) -> int:
    """The most checkpoints that are on the disk at one time; verl also saves after the last step."""
    every, steps = config.trainer.save_freq, config.trainer.total_training_steps
    if every <= 0:
        return 0
    saved = -(-int(steps) // every)
    # A single one is deleted after its successor is written, one of several before.
    kept = config.trainer.max_actor_ckpt_to_keep
    return min(saved, max(kept, 2)) if kept else saved


# ------------------------------------------------------------------------------------------------------- hours


def sampling_hours(samples: int, config: DictConfig, assumed: Assumptions = ASSUMED) -> float:
    """GPU-hours of ``samples`` completions, many of them at the same time."""
    rate = assumed.decode_rate * 7 / config.recipe.billion_parameters
    return samples * assumed.answer_tokens / rate / 3600


def step_seconds(config: DictConfig, assumed: Assumptions = ASSUMED) -> dict[str, float]:
    """Seconds of each part of one GRPO step, in which nothing overlaps."""
    prompts = config.data.train_batch_size
    rollouts = prompts * config.actor_rollout_ref.rollout.n
    live = OmegaConf.select(config, "divek.max_vote_age") == 0

    def generation(count: int) -> float:
        # A stage takes at least as long as its longest answer.
        longest = config.data.max_response_length / assumed.sequence_rate
        return max(sampling_hours(count, config, assumed) * 3600 / gpus(config), longest)

    tokens = rollouts * (assumed.prompt_tokens + assumed.answer_tokens)
    operations = tokens * assumed.flops_per_parameter * config.recipe.billion_parameters * 1e9
    return {
        "mining": generation(prompts * config.divek.num_samples) if live else 0.0,
        "rollouts": generation(rollouts),
        "training": operations / (gpus(config) * assumed.teraflops * 1e12 * assumed.utilisation),
        "waiting": assumed.overhead,
    }


def validation_hours(config: DictConfig, assumed: Assumptions = ASSUMED) -> float:
    """GPU-hours of all validations, each of which asks every held-out image K + n times."""
    every, steps = config.trainer.test_freq, int(config.trainer.total_training_steps)
    # verl validates after the last step too.
    runs = bool(config.trainer.val_before_train) + (-(-steps // every) if every > 0 else 0)
    answers, images = config.actor_rollout_ref.rollout.val_kwargs.n, config.recipe.held_out_images
    if "divek" in config:
        settings = read_settings(config.divek)
        answers += settings.samples_in("val")
        sources = len(data_files(config, "val_files"))
        images = min(images, (settings.val_max_images or images) * sources)
    return runs * sampling_hours(images * answers, config, assumed)


def run_hours(config: DictConfig, assumed: Assumptions = ASSUMED) -> float:
    """GPU-hours of a run of ``trainer.total_training_steps`` with its validations."""
    steps = int(config.trainer.total_training_steps) * sum(step_seconds(config, assumed).values()) / 3600
    return steps * gpus(config) + validation_hours(config, assumed)


# ----------------------------------------------------------------------------------------------------- in words


def summary(config: DictConfig, assumed: Assumptions = ASSUMED) -> Iterator[str]:
    """What the run takes and what is assumed, line by line."""
    trainer, batch = config.trainer, config.data.train_batch_size
    steps, count = int(trainer.total_training_steps), gpus(config)
    parts = memory(config, assumed)
    needed = max(parts["generating"], parts["training"])
    fits = "fits" if needed <= assumed.usable * assumed.gpu_gb else "DOES NOT FIT"
    yield f"{trainer.experiment_name}: estimates by arithmetic, not measured"
    rollouts = config.actor_rollout_ref.rollout.n
    yield f"  steps: {steps:,} of {batch} prompts x {rollouts} rollouts, {steps * batch:,} images"
    yield (
        f"  memory of each GPU: {needed:.0f} GB of {assumed.gpu_gb:g}, {fits}; {parts.pop('generating'):.1f} while "
        f"generating (state + reference + engine), {parts.pop('training'):.1f} while training (all but the engine)"
    )
    yield f"    {', '.join(f'{name} {value:.1f}' for name, value in parts.items())} (weights are a part of the engine)"
    size, kept = checkpoint_gb(config, assumed), checkpoints(config)
    yield f"  disk: {size * kept:.0f} GB, {kept} x a checkpoint of {size:.0f} GB in {trainer.default_local_dir}"
    whole, validation = run_hours(config, assumed), validation_hours(config, assumed) / count
    yield (
        f"  wall-clock: {whole / count:.1f} hours on {count} GPUs ({trainer.nnodes} x {trainer.n_gpus_per_node}), "
        f"{whole:.0f} GPU-hours; {validation:.1f} hours of it are validation"
    )
    seconds = step_seconds(config, assumed)
    yield f"    a step takes {sum(seconds.values()):.0f} s: {', '.join(f'{k} {v:.0f}' for k, v in seconds.items())}"
    yield "assumed:"
    yield from (f"  {line}" for line in assumed.lines())
