"""What mining costs inside a training step: verl's own trainer, Ray, TransferQueue and rollout engine, for a few steps.

``benchmarks/mining.py`` calls this beside its offline measurements; alone,

    python benchmarks/online_mining.py --home runs/demo

prints seconds of the rollout phase of a step (verl's ``timing_s/gen``) for mining alone, rollouts alone and both.
"""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from divek_verl.demo.processes import running
from divek_verl.demo.run import Plan, environment, read_lines, read_metrics, training_command
from divek_verl.errors import SetupError

HERE = Path(__file__).resolve().parent
MINING_ONLY = "actor_rollout_ref.rollout.agent.agent_loop_manager_class=mining_only.MiningOnlyManager"
# Options from nowhere: the questions of this arm cost no sampling.
ROLLOUTS_ONLY = "divek.option_source=random"
ARMS: dict[str, tuple[str, ...]] = {
    "mining": (MINING_ONLY,),
    "mining, K requests": (MINING_ONLY, "divek.group_requests=false"),
    "rollouts": (ROLLOUTS_ONLY,),
    "both": (),
}
SECONDS_OF_ONE_RUN = 1800


@dataclass(frozen=True)
class Load:
    """How much one step does. ``steps``: those measured; one more comes first and pays for kernels and caches."""

    images: int = 64
    samples: int = 20
    rollouts: int = 8
    steps: int = 3
    max_new_tokens: int = 16


@dataclass(frozen=True)
class Measured:
    """Seconds of the rollout phase of each measured step, and what its images report."""

    seconds: list[float]
    images: int
    mining_seconds: float
    cached_share: float

    @property
    def images_per_second(self) -> float:
        return self.images / statistics.median(self.seconds)


def run_arm(name: str, home: Path, load: Load, seed: int = 0, extra: tuple[str, ...] = ()) -> Measured:
    """One training run of an arm, from start to end.

    Raises:
        SetupError: verl ended with an error; the end of its log is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="online-mining-") as scratch:
        folder = Path(scratch) / "run"
        plan = Plan(run_dir=folder, home=home, seed=seed, steps=load.steps + 1, overrides=_overrides(load, name, extra))
        log = Path(scratch) / "log"
        settings = {**environment(), "TENSORBOARD_DIR": str(folder / "tensorboard"), "PYTHONPATH": _python_path()}
        with running(training_command(plan), log, settings) as process:
            status = process.wait(timeout=SECONDS_OF_ONE_RUN)
        if status:
            raise SetupError(f"verl ended with status {status}:\n{log.read_text(errors='replace')[-4000:]}")
        return _read(folder, load)


def _python_path() -> str:
    import os

    return os.pathsep.join(filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH")]))


def _overrides(load: Load, name: str, extra: tuple[str, ...]) -> tuple[str, ...]:
    return (
        f"data.train_batch_size={load.images}",
        f"data.max_response_length={load.max_new_tokens}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={load.images}",
        f"actor_rollout_ref.rollout.n={load.rollouts}",
        f"divek.num_samples={load.samples}",
        f"divek.max_images_in_flight={load.images}",
        # Each step has the same images whatever the policy says, so that arms can be compared.
        "divek.skip_easy=false",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "trainer.logger=[console]",
        *ARMS[name],
        *extra,
    )


def _read(folder: Path, load: Load) -> Measured:
    metrics = read_metrics(folder)
    steps = [step for step in sorted(metrics) if step > 1]
    visits = [visit for visit in read_lines(folder / "questions.jsonl") if visit["step"] > 1]
    shares = [visit["cached_share"] for visit in visits if visit["cached_share"] is not None]
    return Measured(
        seconds=[metrics[step]["timing_s/gen"] for step in steps],
        images=load.images,
        mining_seconds=statistics.mean(visit["mining_seconds"] for visit in visits),
        cached_share=statistics.mean(shares) if shares else 0.0,
    )


def table_of(found: dict[str, list[Measured]]) -> Table:
    """Medians over all measured steps, and each of them."""
    table = Table(title="rollout phase of a training step")
    for column in ("what", "seconds (median)", "images/s", "cached share of K prompts", "each step"):
        table.add_column(column)
    for name, measured in found.items():
        seconds = [each for one in measured for each in one.seconds]
        middle = statistics.median(seconds)
        shares = [one.cached_share for one in measured]
        each = ", ".join(f"{value:.1f}" for value in seconds)
        rate = f"{measured[0].images / middle:.2f}"
        table.add_row(name, f"{middle:.2f}", rate, f"{statistics.mean(shares):.2f}", each)
    return table


def median_seconds(measured: list[Measured]) -> float:
    return statistics.median(each for one in measured for each in one.seconds)


def main(
    home: Annotated[Path, typer.Option(help="Folder with the demo's data and model.")] = Path("runs/demo"),
    images: Annotated[int, typer.Option(min=1, help="Images of one step.")] = 64,
    samples: Annotated[int, typer.Option(min=1, help="K.")] = 20,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps of each run.")] = 3,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each arm, in turn.")] = 1,
) -> None:
    """Measure mining alone, rollouts alone and both."""
    load, console = Load(images=images, samples=samples, steps=steps), Console()
    found: dict[str, list[Measured]] = {}
    for repeat in range(repeats):
        for name in ARMS:
            found.setdefault(name, []).append(run_arm(name, home.resolve(), load, seed=repeat))
            console.print(table_of(found))
    apart = median_seconds(found["mining"]) + median_seconds(found["rollouts"])
    console.print(f"both / (mining + rollouts) = {median_seconds(found['both']) / apart:.2f} (at most 1 is wanted)")


if __name__ == "__main__":
    typer.run(main)
