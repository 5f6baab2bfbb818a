"""Says what a recipe needs and does not have, and the command that makes it; run_*.sh call it before they start verl.

python recipes/check.py qwen25vl_7b_cub method=paper

Where all is there, it prints the overrides that the environment and the prepared data set, one a line.
"""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from composing import compose_recipe, environment_settings, files
from omegaconf import DictConfig, OmegaConf
from steps import counted_steps

from divek_verl.errors import SetupError

# Where each set is downloaded from, as `divek prepare` says too when it is missing.
ORIGINAL = {
    "cub": "CUB_200_2011",
    "flowers": "oxford_flowers",
    "pets": "oxford_pets",
    "cars": "stanford_cars",
    "aircraft": "fgvc_aircraft",
}


def missing(config: DictConfig) -> Iterator[tuple[str, str]]:
    """What is not there and the command that makes it, in the order in which to run them."""
    yield from _missing_model(config)
    yield from _missing_data(config)
    yield from _missing_votes(config)


def _missing_model(config: DictConfig) -> Iterator[tuple[str, str]]:
    folder = Path(config.actor_rollout_ref.model.path)
    if not (folder / "config.json").is_file():
        yield f"the model in {folder}", _command("hf", "download", config.recipe.hub_name, "--local-dir", folder)


def _missing_data(config: DictConfig) -> Iterator[tuple[str, str]]:
    setting = "few-shot" if config.recipe.few_shot else "base-to-novel"
    seen = set()
    for file in [*files(config, "train_files"), *files(config, "val_files")]:
        if file.is_file() or file.parent in seen:
            continue
        seen.add(file.parent)
        dataset = file.parent.name.removesuffix("_4shot")
        root = f"/path/to/{ORIGINAL.get(dataset, dataset)}"
        prepare = ("divek", "prepare", dataset, "--data-root", root, "--setting", setting, "--out", file.parent)
        yield f"{file}", _command(*prepare)


def _missing_votes(config: DictConfig) -> Iterator[tuple[str, str]]:
    votes = OmegaConf.select(config, "divek.votes_file")
    if votes is None or Path(votes).is_file():
        return
    data = [part for file in files(config, "train_files") for part in ("--data", file)]
    mine = ("divek", "mine", *data, "--model", config.actor_rollout_ref.model.path, "--out", votes)
    yield f"the votes in {votes}", _command(*mine)


def _command(*parts: object) -> str:
    """To be pasted into a shell, whatever the paths are called."""
    return shlex.join(map(str, parts))


def check_division(config: DictConfig) -> None:
    """Raise SetupError where the rollouts of a step cannot be spread evenly over the GPUs."""
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    sequences = actor.ppo_mini_batch_size * rollout.n
    if sequences % gpus:
        raise SetupError(
            f"{actor.ppo_mini_batch_size} prompts x {rollout.n} rollouts = {sequences} sequences do not spread over "
            f"{gpus} GPUs: change data.train_batch_size, actor_rollout_ref.rollout.n or trainer.n_gpus_per_node."
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


def print_missing(found: Sequence[tuple[str, str]]) -> None:
    """What ``missing`` found, with its commands."""
    for what, command in found:
        print(f"missing: {what}\n  make it with:  {command}", file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 where all is there, 2 otherwise."""
    name, *given = arguments
    settings = environment_settings(os.environ)
    try:
        config = compose_recipe(name, *settings, *given)
        check_division(config)
        found = list(missing(config))
        print_missing(found)
        if not found:
            print(*settings, f"trainer.total_training_steps={counted_steps(config)}", sep="\n")
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 2 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
