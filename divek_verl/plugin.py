"""The module that verl loads when it is imported (entry point ``verl.plugins``, or ``VERL_USE_EXTERNAL_MODULES``).

It runs in every process that imports verl: driver, Ray workers, vLLM's workers. It imports nothing heavy: it adds
DiVE-k's Hydra files to the search path, and hooks that act when a module of verl is imported.
"""

import sys
import traceback
from collections.abc import Callable
from types import ModuleType

import wrapt
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from divek_verl import cpu


class DivekSearchPath(SearchPathPlugin):
    """Lets Hydra find ``reward=divek`` and ``--config-name divek_trainer`` beside verl's own files."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="divek_verl", path="pkg://divek_verl.config")


def _wrap_validate_config(module: ModuleType) -> None:
    """Check ``divek.*`` where verl checks its own configuration: on the driver, before Ray starts."""
    from divek_verl.trainer.configure import prepare_config

    @wrapt.function_wrapper
    def validated(wrapped: Callable[..., object], instance: object, args: tuple, kwargs: dict) -> object:
        prepare_config(args[0] if args else kwargs["config"])
        return wrapped(*args, **kwargs)

    module.validate_config = validated(module.validate_config)  # type: ignore[attr-defined]


def _extend_tracking(module: ModuleType) -> None:
    """Metrics in ``<run dir>/metrics.jsonl``, readable validation generations, and the report at the end of a run."""
    from divek_verl.trainer.tracking import extend

    extend(module)


def install() -> None:
    """Register everything; calling it twice changes nothing."""
    if getattr(install, "done", False):
        return
    Plugins.instance().register(DivekSearchPath)
    wrapt.register_post_import_hook(_wrap_validate_config, "verl.utils.config")
    wrapt.register_post_import_hook(_extend_tracking, "verl.utils.tracking")

    from divek_verl import compat

    compat.register_hooks()
    if cpu.is_chosen():
        cpu.register_hooks()
    install.done = True  # type: ignore[attr-defined]


try:
    install()
except Exception:
    # verl swallows what an entry point raises; without this line, the user would only read that Hydra finds no
    # `reward=divek`.
    print("divek_verl: the plugin could not be loaded, so `reward=divek` is unknown:", file=sys.stderr)
    traceback.print_exc()
    raise
