"""What verl's trackers get of a DiVE-k run, beside what they are given for any run.

``extend`` acts on ``verl.utils.tracking``. All names stay verl's own (``val-core/...``, ``critic/...``) and ours
(``divek/...``); TensorBoard, W&B and ``metrics.jsonl`` hold the same. The baseline
``reward=virft`` is recorded as well; all other runs are left alone.
"""

import functools
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NO_QUESTION = "(no question was asked: the reason stands in questions.jsonl)"


def extend(module: Any) -> None:
    """Record metrics, write the report at the end of the run, and keep the lines of logged questions."""
    runs: list[Any] = []
    _record_metrics(module.Tracking, runs)
    _report_at_the_end(module.Tracking)
    _keep_questions_readable(module.ValidationGenerationsLogger, runs)


def _record_metrics(tracking: Any, runs: list[Any]) -> None:
    """Have ``Tracking`` append what it logs to ``<run dir>/metrics.jsonl``; ``runs`` gets the DiVE-k runs."""
    from divek_verl.trainer.recorder import MetricsFile

    original_init, original_log = tracking.__init__, tracking.log

    @functools.wraps(original_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        run_dir = run_dir_of(kwargs.get("config") or (args[3] if len(args) > 3 else None) or {})
        self._divek_metrics = MetricsFile(run_dir) if run_dir else None
        self._divek_run_dir = run_dir
        runs.extend([run_dir] if run_dir else [])

    @functools.wraps(original_log)
    def log(self: Any, data: dict, step: int, backend: Any = None) -> None:
        original_log(self, data, step, backend)
        if self._divek_metrics is not None:
            self._divek_metrics.log(data, step)

    tracking.__init__, tracking.log = init, log


def run_dir_of(config: Any) -> str | None:
    """Folder of a run's records: of a ``divek:`` node, or of ``data.divek``, the only node of the baseline."""
    for node in (config, config.get("data") or {}):
        if run_dir := (node.get("divek") or {}).get("run_dir"):
            return str(run_dir)
    return None


def _report_at_the_end(tracking: Any) -> None:
    """verl finishes its trackers once, whether the training succeeded or not."""
    original = tracking.finish

    @functools.wraps(original)
    def finish(self: Any, *args: Any, **kwargs: Any) -> None:
        run_dir = None if getattr(self, "_finished", False) else getattr(self, "_divek_run_dir", None)
        original(self, *args, **kwargs)
        if run_dir is not None and not sys.is_finalizing():
            write_report_of(Path(run_dir))

    tracking.finish = finish


def write_report_of(run_dir: Path) -> None:
    """Write the report and print its path; where it cannot be written, print why: the training stays done."""
    from divek_verl.report import write_report

    try:
        print(f"divek_verl: report: {write_report(run_dir)}", flush=True)
    except Exception as error:
        print(f"divek_verl: no report ({type(error).__name__}: {error}); try: divek report {run_dir}", flush=True)


def _keep_questions_readable(generations: Any, runs: Sequence[Any]) -> None:
    """Validation generations: say where there was no question; in TensorBoard, an option a line."""
    original_log, original_tensorboard = generations.log, generations.log_generations_to_tensorboard

    @functools.wraps(original_log)
    def log(self: Any, loggers: Any, samples: Sequence, step: int) -> None:
        named = [(text or NO_QUESTION, *rest) for text, *rest in samples] if runs else samples
        original_log(self, loggers, named, step)

    @functools.wraps(original_tensorboard)
    def log_to_tensorboard(self: Any, samples: Sequence, step: int) -> None:
        shown = [(verbatim(text), verbatim(said), *rest) for text, said, *rest in samples] if runs else samples
        original_tensorboard(self, shown, step)

    generations.log, generations.log_generations_to_tensorboard = log, log_to_tensorboard


def verbatim(text: str) -> str:
    """``text`` as a Markdown block that is shown as it stands: lines, tags and asterisks included."""
    return "\n\n" + textwrap.indent(text, "    ", predicate=lambda line: True)
