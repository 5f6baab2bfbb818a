"""Composes a recipe as verl's entry point does, without importing verl (which would load torch)."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig

from divek_verl.errors import SetupError

RECIPES = Path(__file__).resolve().parent
METHODS = tuple(sorted(path.stem for path in (RECIPES / "method").glob("*.yaml")))
TASKS = tuple(sorted(path.stem for path in (RECIPES / "task").glob("*.yaml")))
VLMS = tuple(sorted(path.stem for path in (RECIPES / "vlm").glob("*.yaml")))
# Variable of the environment -> what it sets in a recipe.
ENVIRONMENT = {
    "NNODES": "trainer.nnodes",
    "N_GPUS_PER_NODE": "trainer.n_gpus_per_node",
    "MODEL_PATH": "recipe.model_path",
    "DATA_DIR": "recipe.data_dir",
    "CKPT_DIR": "recipe.ckpt_dir",
}


def names() -> list[str]:
    """All recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != "base")


def environment_settings(environment: Mapping[str, str]) -> list[str]:
    """Overrides for what the environment sets; all else stays as the recipe has it."""
    given = {option: environment.get(name, "") for name, option in ENVIRONMENT.items()}
    return [f"{option}={_quoted(value)}" for option, value in given.items() if value]


def _quoted(value: str) -> str:
    """A path may hold what Hydra's grammar has a meaning for; a number has to stay one."""
    escaped = value.replace("'", "\\'")
    return value if value.isdecimal() else f"'{escaped}'"


def package_folder(package: str) -> Path:
    """Where a package lies, found without importing it.

    Raises:
        SetupError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SetupError(f"{package} is not installed: pip install divek_verl.")
    return Path(spec.origin).parent


def compose_recipe(name: str, *overrides: str) -> DictConfig:
    """The configuration of ``--config-dir recipes --config-name NAME OVERRIDES``.

    Raises:
        SetupError: there is no such recipe, or an override does not fit it.
    """
    if name not in names():
        raise SetupError(f"{name!r} is no recipe: use one of {', '.join(names())}.")
    folders = (package_folder("verl") / "trainer" / "config", package_folder("divek_verl") / "config")
    search = ",".join(f"file://{folder}" for folder in folders)
    with initialize_config_dir(str(RECIPES), version_base=None):
        try:
            return compose(name, overrides=[f"hydra.searchpath=[{search}]", *overrides])
        except HydraException as error:
            reason = str(error).strip().splitlines()[0]
            raise SetupError(f"The recipe {name} does not compose with {list(overrides)}: {reason}") from error


def files(config: DictConfig, option: str) -> list[Path]:
    """The parquet files of ``data.train_files`` or ``data.val_files``."""
    named = config.data[option]
    return [Path(file) for file in ([named] if isinstance(named, str) else named)]
