"""``make demo``: flags, a small Qwen2.5-VL, DiVE-k through verl's GRPO trainer and a real vLLM server, on a CPU.

Each stage leaves its result in the run folder and is skipped when it is there already.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from divek_verl.cpu.machine import CPU_PLATFORM
from divek_verl.demo.processes import running
from divek_verl.errors import SetupError
from divek_verl.files import read_lines
from divek_verl.records import METRICS_FILE, QUESTIONS_FILE
from divek_verl.report.reading import read_metrics

REPOSITORY = Path(__file__).resolve().parents[2]
SIDES = ("base", "new")
CORRELATION = "training/rollout_actor_probs_pearson_corr"
# Below this the sampler is not the policy that is trained, and every other number means nothing.
LOWEST_CORRELATION = 0.98
LOG_TAIL = 30

# Measures of the final table: label -> verl's validation metric of one data source.
MEASURES = {
    "one-step": "val-aux/{source}/one_step/mean@1",
    "consistency": "val-aux/{source}/consistency/mean@1",
    "two-step": "val-core/{source}/acc/mean@1",
}


@dataclass(frozen=True)
class Plan:
    """One demo run: where it lives, how long it trains, and what a person may override.

    Attributes:
        run_dir: everything of this run; data and warm-started model are shared by runs through ``home``.
        home: folder of the prepared data and the warm-started model.
        seed: of data order, question shuffles and sampling engine.
        steps: GRPO steps.
        overrides: further Hydra overrides, last on the command line.
    """

    run_dir: Path
    home: Path
    seed: int = 0
    steps: int = 40
    overrides: tuple[str, ...] = ()

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def model(self) -> Path:
        return self.home / "model"


def environment() -> dict[str, str]:
    """What verl, Ray and vLLM need to know on a machine with no accelerator."""
    return {
        **{name: os.environ.get(name, value) for name, value in CPU_PLATFORM.items()},
        "VERL_PLATFORM": "cpu",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
    }


def training_command(plan: Plan) -> list[str]:
    """verl's own entry point with the demo's settings: ``--config-name divek_demo`` and what depends on the run."""
    files = ",".join(str(plan.data / f"val_{side}.parquet") for side in SIDES)
    return [
        sys.executable,
        "-m",
        "verl.trainer.main_ppo",
        "--config-name",
        "divek_demo",
        f"data.train_files={plan.data / 'train.parquet'}",
        f"data.val_files=[{files}]",
        f"data.seed={plan.seed}",
        f"divek.seed={plan.seed}",
        f"actor_rollout_ref.rollout.seed={plan.seed}",
        f"actor_rollout_ref.model.path={plan.model}",
        f"trainer.default_local_dir={plan.run_dir}",
        f"trainer.experiment_name={plan.run_dir.name}",
        f"trainer.total_training_steps={plan.steps}",
        f"trainer.test_freq={plan.steps}",
        f"hydra.run.dir={plan.run_dir / 'hydra'}",
        *plan.overrides,
    ]


def prepare_data(plan: Plan, console: Console) -> None:
    """Draw the flags, unless they are there."""
    if (plan.data / "classes.json").is_file():
        console.print(f"[dim]data: already in {plan.data}[/]")
        return
    script = REPOSITORY / "data_prep" / "flags.py"
    _call([sys.executable, str(script), "--out", str(plan.data)])


def warm_start(plan: Plan) -> None:
    """Teach the small model the form of both questions and some of the flags; cached by its own settings."""
    module = "divek_verl.demo.warm_start"
    _call([sys.executable, "-m", module, "--data", str(plan.data), "--out", str(plan.model)])


def probe(plan: Plan) -> None:
    """Print what the model can do before GRPO, so that a bad start is seen before it is trained on."""
    if (plan.run_dir / METRICS_FILE).is_file():
        return
    module = "divek_verl.demo.probe"
    _call([sys.executable, "-m", module, "--data", str(plan.data), "--model", str(plan.model)])


def _call(command: Sequence[str]) -> None:
    """Run a stage in its own process, so that its memory is free before the next one starts."""
    status = subprocess.run(command, check=False, cwd=REPOSITORY).returncode
    if status:
        raise SetupError(f"{' '.join(command[1:4])} ended with status {status}: see its message above.")


def train(plan: Plan, console: Console) -> None:
    """Run GRPO with validation before and after, or go on where an earlier run stopped.

    Raises:
        SetupError: verl ended with an error (the end of its log is printed).
    """
    if last_step(plan.run_dir) >= plan.steps:
        console.print(f"[dim]training: already done in {plan.run_dir}[/]")
        return
    log = plan.run_dir / "train.log"
    settings = {**environment(), "TENSORBOARD_DIR": str(plan.run_dir / "tensorboard")}
    with running(training_command(plan), log, settings) as process:
        _show_progress(plan, process, console)
        status = process.wait()
    if status:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:])
        console.print(tail, markup=False, highlight=False)
        raise SetupError(f"verl ended with status {status}: the end of {log} is above.")


def _show_progress(plan: Plan, process: subprocess.Popen, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    images = _validation_images(plan)
    with Progress(*columns, console=console) as progress:
        before = progress.add_task("validation before", total=images, note="starting Ray and vLLM")
        steps = progress.add_task("GRPO steps", total=plan.steps, note="", start=False)
        after = progress.add_task("validation after", total=images, note="", start=False)
        while process.poll() is None:
            _update(progress, (before, steps, after), plan, images)
            time.sleep(1.0)
        _update(progress, (before, steps, after), plan, images)


def _update(progress: Progress, tasks: tuple, plan: Plan, images: int) -> None:
    before, steps, after = tasks
    visited = {0: 0, plan.steps: 0}
    for visit in read_lines(plan.run_dir / QUESTIONS_FILE)[0]:
        if visit.get("split") == "val" and visit.get("step") in visited:
            visited[visit["step"]] += 1
    entries = read_metrics(plan.run_dir)
    done = max(entries, default=-1)
    if visited[0]:
        progress.update(before, completed=visited[0], note="")
    if done >= 0 or visited[0] >= images:
        progress.start_task(steps)
        progress.update(steps, completed=max(done, 0), note=_note(entries.get(done, {})))
    if visited[plan.steps]:
        progress.start_task(after)
        progress.update(after, completed=visited[plan.steps])


def _note(data: dict[str, float]) -> str:
    if "critic/score/mean" not in data:
        return ""
    return f"reward {data['critic/score/mean']:.2f}, one-step {data.get('divek/one_step', float('nan')):.2f}"


def _validation_images(plan: Plan) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(plan.data / f"val_{side}.parquet").num_rows for side in SIDES)


def last_step(run_dir: Path) -> int:
    """The last step that was logged; -1 before the first validation."""
    return max(read_metrics(run_dir), default=-1)


def results(run_dir: Path) -> dict[str, dict[str, dict[str, float]]]:
    """side -> measure -> {"before", "after"}, from the first and the last validation of a run."""
    steps = read_metrics(run_dir)
    table: dict[str, dict[str, dict[str, float]]] = {}
    for side in SIDES:
        for label, pattern in MEASURES.items():
            name = pattern.format(source=f"divek/flags/{side}")
            values = [steps[step][name] for step in sorted(steps) if name in steps[step]]
            if values:
                table.setdefault(side, {})[label] = {"before": values[0], "after": values[-1]}
    return table


def check_correlation(run_dir: Path) -> float:
    """The lowest rollout-actor correlation of the run.

    Raises:
        SetupError: it is missing, or so low that the sampler is not the policy.
    """
    values = [data[CORRELATION] for data in read_metrics(run_dir).values() if CORRELATION in data]
    # Asked this way round, a nan fails as well.
    if not values or not all(value >= LOWEST_CORRELATION for value in values):
        shown = ", ".join(f"{value:.4f}" for value in values if not value >= LOWEST_CORRELATION) or "missing"
        raise SetupError(
            f"{CORRELATION} is {shown}, below {LOWEST_CORRELATION}: the rollout engine samples from another model "
            "than the one that is trained; check the weight sync."
        )
    return min(values)


def results_table(run_dir: Path) -> Table:
    """One-step, consistency and two-step accuracy, base and new, before and after."""
    table = Table(title="DiVE-k on look-alike flags (accuracy on the held-out drawing style, %)")
    table.add_column("classes")
    table.add_column("measure")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    for side, measures in results(run_dir).items():
        for label, value in measures.items():
            before, after = 100 * value["before"], 100 * value["after"]
            table.add_row(side, label, f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}")
    return table


def run_demo(plan: Plan, console: Console) -> None:
    """All stages, then the table and the report."""
    from divek_verl.report import write_report

    prepare_data(plan, console)
    warm_start(plan)
    probe(plan)
    train(plan, console)
    console.print(results_table(plan.run_dir))
    console.print(f"lowest rollout-actor correlation: {check_correlation(plan.run_dir):.5f}")
    console.print(f"report: {write_report(plan.run_dir)}")


def main(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of data order and questions.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps.")] = 40,
    override: Annotated[list[str] | None, typer.Option(help="A Hydra override for verl; repeatable.")] = None,
) -> None:
    """Watch a small Qwen2.5-VL learn to tell look-alike flags apart."""
    console = Console()
    run_dir = out.resolve()
    plan = Plan(run_dir=run_dir, home=run_dir, seed=seed, steps=steps, overrides=tuple(override or ()))
    try:
        run_demo(plan, console)
    except SetupError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on where this one stopped")
        raise typer.Exit(130) from None
