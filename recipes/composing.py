"""Composes a recipe as verl's entry point does, without importing verl (which would load torch)."""

from importlib.util import find_spec
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig

from divek_verl.errors import SetupError

RECIPES = Path(__file__).resolve().parent
METHODS = tuple(sorted(path.stem for path in (RECIPES / "method").glob("*.yaml")))
TASKS = tuple(sorted(path.stem for path in (RECIPES / "task").glob("*.yaml")))


def names() -> list[str]:
    """All recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != "base")


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
