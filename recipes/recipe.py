"""Composes a recipe as verl's entry point does, prepares its launch, shows it and checks this machine for it.

python recipes/recipe.py launch|show|check [vlm=...] [task=...] [method=...] [variant=...] [HYDRA OVERRIDES...]
"""

import copy
import functools
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from difflib import get_close_matches
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from divek_verl.errors import SetupError
from divek_verl.estimate import checkpoint_gb, checkpoints, counted_steps, data_files, planned_gb, summary
from divek_verl.provenance import as_yaml, changed, flatten, sources
from divek_verl.settings import read_settings
from divek_verl.trainer.configure import fill_in

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


def folders() -> dict[Path, str]:
    """The folders with Hydra's files, in the order in which it searches them, and what to call each."""
    verl, ours = package_folder("verl") / "trainer" / "config", package_folder("divek_verl") / "config"
    return {RECIPES: "recipes/", verl: "verl: ", ours: "divek_verl: "}


def search_path() -> str:
    """The override that lets Hydra find verl's and DiVE-k's files."""
    return f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders() if folder != RECIPES)}]"


def compose_recipe(*overrides: str) -> DictConfig:
    """The configuration of ``--config-dir recipes --config-name recipe OVERRIDES``; SetupError if they do not fit."""
    with initialize_config_dir(str(RECIPES), version_base=None):
        try:
            return compose("recipe", overrides=[search_path(), *overrides])
        except HydraException as error:
            reason = " ".join(str(error).partition("Config search path")[0].split())
            if named := re.search(r"Could not override '([^']+)'", reason):
                plain: Any = OmegaConf.to_container(compose("recipe", overrides=[search_path()]))
                near = get_close_matches(named[1], dict(flatten(plain)), n=1)
                reason += f" Did you mean {near[0]}?" if near else ""
            raise SetupError(f"The recipe does not compose with {shlex.join(overrides)}: {reason}") from error


def compose_launch(given: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration of run_*.sh with the overrides ``given``, and the overrides that come before them.

    These are what the environment and the number of nodes set, with what to call the source of each.
    """
    settings = {}
    for name, option in ENVIRONMENT.items():
        if value := os.environ.get(name, ""):
            # Numbers stay numbers; a path may hold characters that Hydra's grammar reads.
            escaped = value.replace("'", "\\'")
            override = f"{option}={value}" if value.isdecimal() else f"{option}='{escaped}'"
            settings[override] = f"{name} in the environment"
    config = compose_recipe(*settings, *given)
    if config.recipe.prompts_per_node is not None:
        batch = config.recipe.prompts_per_node * config.trainer.nnodes
        settings[f"data.train_batch_size={batch}"] = "run_*.sh: recipe.prompts_per_node x trainer.nnodes"
        config = compose_recipe(*settings, *given)
    return config, settings


def compose_counted(given: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """``compose_launch`` with the counted number of steps, which an override of ``given`` replaces."""
    config, settings = compose_launch(given)
    steps = f"trainer.total_training_steps={counted_steps(config)}"
    return compose_recipe(*settings, steps, *given), {**settings, steps: "run_*.sh: counted"}


def votes_file(config: DictConfig) -> Path | None:
    """The file of offline votes; None for a recipe that has none."""
    file = OmegaConf.select(config, "divek.votes_file")
    return None if file is None else Path(file).expanduser()


def mining_command(config: DictConfig, *options: str) -> tuple[str, ...]:
    """The command that makes the votes file of a recipe that has one."""
    data = [part for file in data_files(config, "train_files") for part in ("--data", str(file))]
    model = config.actor_rollout_ref.model.path
    return ("divek", "mine", *data, "--model", model, *options, "--out", str(config.divek.votes_file))


def missing(config: DictConfig, *, votes: bool = True) -> Iterator[tuple[str, str]]:
    """The missing model, data and ``votes``, each with the command that makes it, in the order to run them."""
    model = config.actor_rollout_ref.model.path
    if not (Path(model) / "config.json").is_file():
        yield f"the model in {model}", shlex.join(("hf", "download", config.recipe.hub_name, "--local-dir", model))
    setting, prepared = "few-shot" if config.recipe.few_shot else "base-to-novel", set()
    for file in [*data_files(config, "train_files"), *data_files(config, "val_files")]:
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


app = typer.Typer(add_completion=False, no_args_is_help=True)
Overrides = Annotated[list[str] | None, typer.Argument(help="vlm=, task=, method=, variant= and Hydra overrides.")]


@app.command()
def launch(overrides: Overrides = None) -> None:
    """Say what is missing, with the command that makes it; or print the overrides of the environment and the data."""
    config, settings = compose_counted(overrides or [])
    check_division(config)
    if found := list(missing(config)):
        print_missing(found)
        raise typer.Exit(2)
    print(*settings, sep="\n")


@app.command()
def show(overrides: Overrides = None) -> None:
    """Print the composed configuration as YAML with the source of each value, and what the run takes."""
    given = overrides or []
    config, settings = compose_counted(given)
    labels = {**settings, **dict.fromkeys(given, "command line")}
    with initialize_config_dir(str(RECIPES), version_base=None):
        found = sources("recipe", labels, folders(), [search_path()])
    started = copy.deepcopy(config)
    if "divek" in config:
        # It prints what it fills in, which the YAML says too.
        with redirect_stdout(StringIO()):
            fill_in(started, read_settings(config.divek))
        # A copy of the whole node.
        started.trainer.v1.sampler.sampler_kwargs.divek = "${divek}"
        found |= dict.fromkeys(changed(config, started), "divek at start")
    print(*as_yaml(started, found), sep="\n")
    print(*(f"# {line}" for line in summary(config)), sep="\n")


@app.command()
def check(overrides: Overrides = None) -> None:
    """Print doctor's checks of this machine for the run; status 1 if a line is red."""
    # Imported here because no other command needs it.
    from divek_verl.commands import doctor

    config, _ = compose_counted(overrides or [])

    def batch() -> doctor.Line:
        try:
            check_division(config)
        except SetupError as error:
            return doctor.Line(doctor.State.RED, "batch", str(error))
        return doctor.Line(doctor.State.GREEN, "batch", "spreads evenly over the GPUs")

    def inputs() -> Iterator[doctor.Line]:
        found = list(missing(config))
        for what, command in found:
            yield doctor.Line(doctor.State.RED, "model and data", f"missing: {what}", command)
        if not found:
            yield doctor.Line(doctor.State.GREEN, "model and data", "all there")

    def gpus() -> doctor.Line:
        return doctor.check_gpus(config.trainer.n_gpus_per_node, functools.partial(planned_gb, config))

    lines = doctor.examine(
        None,
        ray=False,
        folder=Path(config.trainer.default_local_dir),
        gpus=None if config.trainer.device == "cpu" else gpus,
        disk_gib=checkpoint_gb(config) * checkpoints(config) * 1e9 / doctor.GIB,
        also=[batch, inputs],
    )
    doctor.print_lines(list(lines))


def run_app(command: typer.Typer) -> None:
    """Run a script's commands; a SetupError becomes one sentence and exit status 2."""
    try:
        command()
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    run_app(app)
