"""What verl loads while it is being imported (entry point group ``verl.plugins``, or ``VERL_USE_EXTERNAL_MODULES``).

It runs in every process that imports verl: driver, Ray workers, vLLM's workers. So it imports nothing heavy: it
puts our Hydra files on the search path and leaves hooks that act when a module of verl's is imported.
"""

import os
import sys
import traceback
from typing import Any

import wrapt
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin


class DivekSearchPath(SearchPathPlugin):
    """Lets ``reward=divek`` and ``--config-name divek_trainer`` be found beside verl's own files."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="divek_verl", path="pkg://divek_verl.config")


def _wrap_validate_config(module: Any) -> None:
    """Check ``divek.*`` where verl checks its own configuration: on the driver, before Ray starts."""
    from divek_verl.settings import prepare_config

    @wrapt.function_wrapper
    def validated(wrapped: Any, instance: Any, args: tuple, kwargs: dict) -> Any:
        prepare_config(args[0] if args else kwargs["config"])
        return wrapped(*args, **kwargs)

    module.validate_config = validated(module.validate_config)


def _record_metrics(module: Any) -> None:
    """Have verl's ``Tracking`` append what it logs to ``<run dir>/metrics.jsonl`` as well."""
    from divek_verl.records import MetricsFile

    original_init, original_log = module.Tracking.__init__, module.Tracking.log

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        config = kwargs.get("config") or (args[3] if len(args) > 3 else None) or {}
        divek = config.get("divek") if hasattr(config, "get") else None
        self._divek_metrics = MetricsFile(divek["run_dir"]) if divek else None

    def log(self: Any, data: dict, step: int, backend: Any = None) -> None:
        original_log(self, data, step, backend)
        if self._divek_metrics is not None:
            self._divek_metrics.log(data, step)

    module.Tracking.__init__, module.Tracking.log = init, log


def install() -> None:
    """Register everything; calling it twice changes nothing."""
    if getattr(install, "done", False):
        return
    Plugins.instance().register(DivekSearchPath)
    wrapt.register_post_import_hook(_wrap_validate_config, "verl.utils.config")
    wrapt.register_post_import_hook(_record_metrics, "verl.utils.tracking")

    from divek_verl import compat

    compat.register_hooks()
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        from divek_verl import cpu

        cpu.register_hooks()
    install.done = True  # type: ignore[attr-defined]


try:
    install()
except Exception:
    # verl swallows what an entry point raises; without this line the user would only see that Hydra
    # knows no `reward=divek`.
    print("divek_verl: the plugin could not be loaded, so `reward=divek` is unknown:", file=sys.stderr)
    traceback.print_exc()
    raise
