"""Composes a recipe as verl's entry point does, checks it, counts its steps and estimates its memory.

python recipes/recipe.py check|steps|memory [vlm=...] [task=...] [method=...] [variant=...] [HYDRA OVERRIDES...]
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from divek_verl.errors import SetupError

RECIPES = Path(__file__).resolve().parent
# Environment variable -> the option that it sets.
ENVIRONMENT = {
    "NNODES": "trainer.nnodes",
    "N_GPUS_PER_NODE": "trainer.n_gpus_per_node",
    "MODEL_PATH": "recipe.model_path",
    "DATA_DIR": "recipe.data_dir",
    "CKPT_DIR": "recipe.ckpt_dir",
}


def choices(group: str) -> tuple[str, ...]:
    """The names that ``GROUP=`` takes, for a group of vlm, task, method and variant."""
    return tuple(sorted(path.stem for path in (RECIPES / group).glob("*.yaml")))


def package_folder(package: str) -> Path:
    """The folder of a package, found without importing it (importing verl would load torch)."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SetupError(f"{package} is not installed: pip install divek_verl.")
    return Path(spec.origin).parent


def compose_recipe(*overrides: str) -> DictConfig:
    """The configuration of ``--config-dir recipes --config-name recipe OVERRIDES``; SetupError if they do not fit."""
    folders = (package_folder("verl") / "trainer" / "config", package_folder("divek_verl") / "config")
    search = ",".join(f"file://{folder}" for folder in folders)
    with initialize_config_dir(str(RECIPES), version_base=None):
        try:
            return compose("recipe", overrides=[f"hydra.searchpath=[{search}]", *overrides])
        except HydraException as error:
            reason = " ".join(str(error).partition("Config search path")[0].split())
            if named := re.search(r"Could not override '([^']+)'", reason):
                plain = OmegaConf.to_container(compose("recipe", overrides=[f"hydra.searchpath=[{search}]"]))
                near = get_close_matches(named[1], leaves(plain), n=1)
                reason += f" Did you mean {near[0]}?" if near else ""
            raise SetupError(f"The recipe does not compose with {shlex.join(overrides)}: {reason}") from error


def leaves(node: Any, prefix: str = "") -> list[str]:
    """The full names of all options in a plain configuration."""
    if not isinstance(node, dict) or not node:
        return [prefix.rstrip(".")]
    return [name for key, value in node.items() for name in leaves(value, f"{prefix}{key}.")]


def compose_launch(given: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """The configuration of run_*.sh with the overrides ``given``, and the environment's overrides, which come first."""
    settings = []
    for name, option in ENVIRONMENT.items():
        if value := os.environ.get(name, ""):
            # Numbers stay numbers; a path may hold characters that Hydra's grammar reads.
            escaped = value.replace("'", "\\'")
            settings.append(f"{option}={value}" if value.isdecimal() else f"{option}='{escaped}'")
    config = compose_recipe(*settings, *given)
    if config.recipe.prompts_per_node is not None:
        settings.append(f"data.train_batch_size={config.recipe.prompts_per_node * config.trainer.nnodes}")
        config = compose_recipe(*settings, *given)
    return config, settings


def files(config: DictConfig, option: str) -> list[Path]:
    """The parquet files of ``data.train_files`` or ``data.val_files``."""
    named = config.data[option]
    return [Path(file) for file in ([named] if isinstance(named, str) else named)]


def votes_file(config: DictConfig) -> Path | None:
    """The file of offline votes; None for a recipe that has none."""
    file = OmegaConf.select(config, "divek.votes_file")
    return None if file is None else Path(file).expanduser()


def mining_command(config: DictConfig, *options: str) -> tuple[str, ...]:
    """The command that makes the votes file of a recipe that has one."""
    data = [part for file in files(config, "train_files") for part in ("--data", str(file))]
    model = config.actor_rollout_ref.model.path
    return ("divek", "mine", *data, "--model", model, *options, "--out", str(config.divek.votes_file))


def missing(config: DictConfig, *, votes: bool = True) -> Iterator[tuple[str, str]]:
    """The missing model, data and ``votes``, each with the command that makes it, in the order to run them."""
    model = config.actor_rollout_ref.model.path
    if not (Path(model) / "config.json").is_file():
        yield f"the model in {model}", shlex.join(("hf", "download", config.recipe.hub_name, "--local-dir", model))
    setting, prepared = "few-shot" if config.recipe.few_shot else "base-to-novel", set()
    for file in [*files(config, "train_files"), *files(config, "val_files")]:
        # One command makes all files of a folder.
        if not file.is_file() and file.parent not in prepared:
            prepared.add(file.parent)
            dataset = file.parent.name.removesuffix("_4shot")
            prepare = ("divek", "prepare", dataset, "--data-root", f"/path/to/{dataset}", "--setting", setting)
            yield str(file), shlex.join((*prepare, "--out", str(file.parent)))
    mined = votes_file(config)
    if votes and mined is not None and not mined.is_file():
        yield f"the votes in {mined}", shlex.join(mining_command(config))


def print_missing(found: Sequence[tuple[str, str]]) -> None:
    """Print what is missing, with the commands."""
    for what, command in found:
        print(f"missing: {what}\n  make it with:  {command}", file=sys.stderr)


def check_division(config: DictConfig) -> None:
    """Raise SetupError where the rollouts of a step cannot be spread evenly over the GPUs."""
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    sequences = actor.ppo_mini_batch_size * rollout.n
    if sequences % gpus:
        raise SetupError(
            f"{actor.ppo_mini_batch_size} prompts x {rollout.n} rollouts = {sequences} sequences do not spread over "
            f"{gpus} GPUs: change data.train_batch_size, actor_rollout_ref.rollout.n or trainer.n_gpus_per_node; for "
            "several nodes set variant=nnodes."
        )
    if config.data.train_batch_size % actor.ppo_mini_batch_size:
        raise SetupError(
            f"data.train_batch_size={config.data.train_batch_size} is no multiple of "
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}: change one of the two."
        )
    if config.trainer.n_gpus_per_node % rollout.tensor_model_parallel_size:
        raise SetupError(
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size} does not "
            f"divide the {config.trainer.n_gpus_per_node} GPUs of a node: change one of the two."
        )


def counted_steps(config: DictConfig) -> int:
    """The steps of a run: as many images as ``recipe.steps`` of ``recipe.prompts`` are, or ``recipe.epochs``.

    An epoch has the rows of the prepared files, or of the reference's split where they are not prepared yet.
    """
    images = config.recipe.steps * config.recipe.prompts
    if config.recipe.epochs is not None:
        trained = files(config, "train_files")
        prepared = all(file.is_file() for file in trained)
        rows = sum(pq.read_metadata(file).num_rows for file in trained) if prepared else config.recipe.train_images
        images = config.recipe.epochs * rows
    return max(1, round(images / config.data.train_batch_size))


GPU_GB = 80.0
VOCABULARY = 152064
LAYERS = 28
# fp32 weights and gradients, and the two moments of AdamW.
TRAINED_BYTES = 16
FROZEN_BYTES = 4
# Copies of a sequence's logits that exist at the same time: the logits, their softmax and their gradient.
LOGITS_COPIES = 3
LORA_SHARE = 0.02


def memory(config: DictConfig, gpu_gb: float = GPU_GB) -> dict[str, float]:
    """Estimated gigabytes on each GPU, for GPUs of ``gpu_gb``."""
    gpus, size = config.trainer.nnodes * config.trainer.n_gpus_per_node, config.recipe.billion_parameters
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    lora = config.actor_rollout_ref.model.lora_rank > 0
    tokens = actor.ppo_max_token_len_per_gpu
    if not actor.use_dynamic_bsz:
        tokens = (config.data.max_prompt_length + config.data.max_response_length) * actor.ppo_micro_batch_size_per_gpu
    offloaded = bool(OmegaConf.select(actor, "fsdp_config.optimizer_offload"))
    # Sharded weights, gradients and optimizer of the policy.
    state = (size * LORA_SHARE if lora else size) * (TRAINED_BYTES // 2 if offloaded else TRAINED_BYTES) / gpus
    # The sharded reference policy; with LoRA it is the policy without its adapter.
    reference = (size if lora or actor.use_kl_loss else 0) * FROZEN_BYTES / gpus
    # One layer's weights, gathered in bf16, and the fp32 logits of a micro-batch.
    layer, logits = size * 2 / LAYERS, tokens * VOCABULARY * 4 * LOGITS_COPIES / 1e9
    # The rollout engine's share while it generates; its bf16 weights are a part of it.
    engine, weights = gpu_gb * rollout.gpu_memory_utilization, size * 2 / rollout.tensor_model_parallel_size
    parts = {"state": state, "reference": reference, "layer": layer, "logits": logits}
    sums = {"generating": state + reference + engine, "training": sum(parts.values())}
    return {**parts, "engine": engine, "engine weights": weights, **sums}


app = typer.Typer(add_completion=False, no_args_is_help=True)
Overrides = Annotated[list[str] | None, typer.Argument(help="vlm=, task=, method=, variant= and Hydra overrides.")]


@app.command("check")
def check_command(overrides: Overrides = None) -> None:
    """Say what is missing, with the command that makes it; or print the overrides of the environment and the data."""
    config, settings = compose_launch(overrides or [])
    check_division(config)
    if found := list(missing(config)):
        print_missing(found)
        raise typer.Exit(2)
    print(*settings, f"trainer.total_training_steps={counted_steps(config)}", sep="\n")


@app.command("steps")
def steps_command(overrides: Overrides = None) -> None:
    """Print the number of steps of a run."""
    print(counted_steps(compose_launch(overrides or [])[0]))


@app.command("memory")
def memory_command(overrides: Overrides = None) -> None:
    """Print the estimated memory of each GPU while it generates and while it trains."""
    config, _ = compose_launch(overrides or [])
    table = Table("GB on each GPU", "", title=f"{config.trainer.experiment_name}: arithmetic, not measured")
    for name, value in memory(config).items():
        table.add_row(name, f"{value:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"Assumed: cards of {GPU_GB:g} GB; {TRAINED_BYTES} bytes for a trained parameter and {FROZEN_BYTES} for a "
        f"frozen one, sharded over all GPUs; {LOGITS_COPIES} copies of the logits in fp32. Left out, so keep a margin: "
        "activations, fragmentation, communication buffers.",
        highlight=False,
    )


def run_app(command: typer.Typer) -> None:
    """Run a script's commands; a SetupError becomes one sentence and exit status 2."""
    try:
        command()
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    run_app(app)
