"""``make demo``: flags, a small Qwen2.5-VL, and DiVE-k through verl's GRPO trainer and a real vLLM server, on a CPU.

Each stage leaves its result in the run folder and is skipped if the result is there already.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from divek_verl.class_lists import CLASSES_FILE
from divek_verl.console import STOPPED, terminal
from divek_verl.cpu.machine import CPU_PLATFORM
from divek_verl.demo.processes import running
from divek_verl.errors import SetupError
from divek_verl.files import read_lines
from divek_verl.measures import MEASURES
from divek_verl.progress import progress
from divek_verl.records import QUESTIONS_FILE
from divek_verl.report import write_report
from divek_verl.report.reading import read_metrics

REPOSITORY = Path(__file__).resolve().parents[2]
SIDES = ("base", "new")
CORRELATION = "training/rollout_actor_probs_pearson_corr"
# Below this the sampler is not the policy that is trained, and all other numbers are meaningless.
LOWEST_CORRELATION = 0.98
LOG_TAIL = 30

# Measures of the final table -> verl's validation metric of one data source.
METRICS = {
    "one_step_greedy": "val-aux/{source}/one_step_greedy/mean@1",
    "one_step": "val-aux/{source}/one_step/mean@1",
    "consistency": "val-aux/{source}/consistency/mean@1",
    "two_step": "val-core/{source}/acc/mean@1",
}


@dataclass(frozen=True)
class Plan:
    """One demo run, which writes into ``run_dir``; several can share the data and the warm-started model in ``home``.

    ``seed`` is that of data order, question shuffles and sampling engine. ``overrides`` are Hydra's, last of all.
    ``validates``: whether verl validates before and after.
    """

    run_dir: Path
    home: Path
    seed: int = 0
    steps: int = 30
    overrides: tuple[str, ...] = ()
    validates: bool = True

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def model(self) -> Path:
        return self.home / "model"


def environment() -> dict[str, str]:
    """The environment of verl, Ray and vLLM on a machine without an accelerator."""
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
    """verl's own entry point with ``--config-name divek_demo`` and the options of this run."""
    files = ",".join(str(plan.data / f"val_{side}.parquet") for side in SIDES)
    return [
        *(sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "divek_demo"),
        f"data.train_files={plan.data / 'train.parquet'}",
        f"data.val_files=[{files}]",
        f"data.seed={plan.seed}",
        f"++divek.seed={plan.seed}",
        f"actor_rollout_ref.rollout.seed={plan.seed}",
        f"actor_rollout_ref.model.path={plan.model}",
        f"trainer.default_local_dir={plan.run_dir}",
        f"trainer.experiment_name={plan.run_dir.name}",
        f"trainer.total_training_steps={plan.steps}",
        f"trainer.val_before_train={plan.validates}",
        f"trainer.test_freq={plan.steps if plan.validates else -1}",
        f"hydra.run.dir={plan.run_dir / 'hydra'}",
        *plan.overrides,
    ]


def prepare_model(plan: Plan, console: Console) -> None:
    """Draw the flags and warm-start the model; finished stages are skipped."""
    if (plan.data / CLASSES_FILE).is_file():
        console.print(f"[dim]data: already in {plan.data}[/]")
    else:
        run_stage(str(REPOSITORY / "data_prep" / "flags.py"), "--out", plan.data)
    run_stage("-m", "divek_verl.demo.warm_start", "--data", plan.data, "--out", plan.model)


def run_stage(*arguments: object) -> None:
    """Run a stage in its own Python process, so that its memory is free before the next one starts.

    Raises:
        SetupError: it ended with another status than 0.
    """
    command, settings = [sys.executable, *map(str, arguments)], {**os.environ, **environment()}
    status = subprocess.run(command, check=False, cwd=REPOSITORY, env=settings).returncode
    if status:
        raise SetupError(f"{' '.join(map(str, arguments[:3]))} ended with status {status}: see its message above.")


def train(plan: Plan, console: Console) -> None:
    """Run GRPO with validation before and after, or continue an earlier run.

    Raises:
        SetupError: verl ended with an error (the end of its log is printed).
    """
    if last_step(plan.run_dir) >= plan.steps:
        console.print(f"[dim]training: already done in {plan.run_dir}[/]")
        return
    log = plan.run_dir / "train.log"
    settings = {**environment(), "TENSORBOARD_DIR": str(plan.run_dir / "tensorboard")}
    console.print("[dim]training: verl starts Ray and vLLM, which takes about a minute[/]")
    with running(training_command(plan), log, settings) as process:
        _show_progress(plan, process)
        status = process.wait()
    if status:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:])
        console.print(tail, markup=False, highlight=False)
        raise SetupError(f"verl ended with status {status}: the end of {log} is above.")


def _show_progress(plan: Plan, process: subprocess.Popen[bytes]) -> None:
    """One bar for each part of the run, until the process ends."""
    images = sum(pq.read_metadata(plan.data / f"val_{side}.parquet").num_rows for side in SIDES)
    stages = {"validation before": images, "GRPO steps": plan.steps, "validation after": images}
    if not plan.validates:
        stages = {"GRPO steps": plan.steps}
    for stage, total in stages.items():
        with progress(total=total, desc=stage, unit="step" if stage == "GRPO steps" else "image") as bar:
            while bar.n < total and process.poll() is None:
                time.sleep(1.0)
                done, note = progress_of(plan, images)[stage]
                bar.set_postfix_str(note, refresh=False)
                bar.update(min(done, total) - bar.n)


def progress_of(plan: Plan, images: int) -> dict[str, tuple[int, str]]:
    """The progress of each part of the run, and a note on it."""
    validated = {0: 0, plan.steps: 0}
    for record in read_lines(plan.run_dir / QUESTIONS_FILE)[0]:
        if record.get("split") == "val" and record.get("step") in validated:
            validated[record["step"]] += 1
    metrics = read_metrics(plan.run_dir)
    step, note = max(metrics, default=0), ""
    if "critic/score/mean" in (data := metrics.get(step, {})):
        note = f"reward {data['critic/score/mean']:.2f}, one-step {data.get('divek/one_step', float('nan')):.2f}"
    return {
        # A resumed run may validate at another step than 0.
        "validation before": (images if metrics else validated[0], ""),
        # The last step is logged after its validation.
        "GRPO steps": (plan.steps if validated[plan.steps] else step, note),
        "validation after": (validated[plan.steps], ""),
    }


def last_step(run_dir: Path) -> int:
    """The last step that was logged; -1 before the first validation."""
    return max(read_metrics(run_dir), default=-1)


def results(run_dir: Path) -> dict[str, dict[str, dict[str, float]]]:
    """side -> measure -> {"before", "after"}: the validation of step 0, and the last later one, as far as there are."""
    steps = read_metrics(run_dir)
    table: dict[str, dict[str, dict[str, float]]] = {}
    for side in SIDES:
        for measure, pattern in METRICS.items():
            name = pattern.format(source=f"divek/flags/{side}")
            values = {step: steps[step][name] for step in sorted(steps) if name in steps[step]}
            found = {"before": values[0]} if 0 in values else {}
            if any(values):
                found["after"] = values[max(values)]
            if found:
                table.setdefault(side, {})[measure] = found
    return table


def check_correlation(run_dir: Path) -> float:
    """The lowest rollout-actor correlation of the run.

    Raises:
        SetupError: it is missing, or so low that the sampler is not the policy.
    """
    values = [data[CORRELATION] for data in read_metrics(run_dir).values() if CORRELATION in data]
    # `not all(>=)` instead of `any(<)`: NaN must fail too.
    if not values or not all(value >= LOWEST_CORRELATION for value in values):
        shown = ", ".join(f"{value:.4f}" for value in values if not value >= LOWEST_CORRELATION) or "missing"
        raise SetupError(
            f"{CORRELATION} is {shown}, below {LOWEST_CORRELATION}: the rollout engine samples from another model "
            "than the one that is trained; check the weight sync."
        )
    return min(values)


def results_table(run_dir: Path) -> Table:
    """One-step accuracy (greedy and sampled), majority vote and two-step accuracy, base and new, before and after."""
    table = Table(title="DiVE-k on look-alike flags (accuracy on the held-out drawing style, %)")
    table.add_column("classes")
    table.add_column("measure")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    for side, measures in results(run_dir).items():
        for name, value in measures.items():
            shown = [f"{100 * value[when]:.1f}" if when in value else "none" for when in ("before", "after")]
            change = "" if "none" in shown else f"{100 * (value['after'] - value['before']):+.1f}"
            table.add_row(side, MEASURES[name].title, *shown, change)
            if "before" not in value:
                table.caption = "There was no validation before training, so there is no change to show."
    return table


def main(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of data order and questions.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps.")] = 30,
    override: Annotated[list[str] | None, typer.Option(help="A Hydra override for verl; repeatable.")] = None,
) -> None:
    """Watch a small Qwen2.5-VL learn to tell look-alike flags apart."""
    console = terminal()
    run_dir = out.resolve()
    plan = Plan(run_dir=run_dir, home=run_dir, seed=seed, steps=steps, overrides=tuple(override or ()))
    try:
        prepare_model(plan, console)
        train(plan, console)
        console.print(results_table(run_dir))
        console.print(f"lowest rollout-actor correlation: {check_correlation(run_dir):.5f}")
        console.print(f"report: {write_report(run_dir)}")
    except SetupError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("stopped; run the same command to continue")
        raise typer.Exit(STOPPED) from None
