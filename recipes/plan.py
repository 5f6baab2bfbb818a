"""The runs behind a table of the paper: the list with its cost (--dry-run), or all of it, one after another.

python recipes/plan.py table1 --dry-run

What is done already is skipped, so that the same command goes on where it was stopped. The GPU-hours are arithmetic
from the assumptions that are printed with them; none of them was measured.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import typer
from check import missing, print_missing
from collect import RESULTS, print_results
from composing import RECIPES, compose_recipe, environment_settings, files
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from steps import counted_steps

from divek_verl.errors import SetupError

SETS = ("cub", "flowers", "pets", "cars", "aircraft")
# table -> (tasks, methods; "base" is the model as it comes)
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # Base-to-novel on each of the five sets.
    "table1": (SETS, ("base", "virft", "paper", "online")),
    # Mixed domains: one model for all five.
    "table2": (("mixed",), ("base", "virft", "paper", "online")),
    # Four images of each class.
    "table3": (tuple(f"{name}_4shot" for name in SETS), ("base", "virft", "paper", "online")),
    # Where the options come from, and how many there are; `online` is what the others are compared with.
    "ablations": (SETS, ("online", "random", "text", "two", "auto")),
}
# Held-out images of the reference's splits, base and new together.
HELD_OUT = {"cub": 1200, "flowers": 2106, "pets": 736, "cars": 1635, "aircraft": 3333}
# Billions of parameters, as the model cards have them.
PARAMETERS = {"qwen25vl_7b": 8.3, "qwen25vl_3b": 3.8, "qwen3vl_8b": 8.8}


@dataclass(frozen=True)
class Assumed:
    """What the GPU-hours are worked out from, for an 80 GB card of the H100 class."""

    answer_tokens: float = 250
    """Mean tokens of a completion."""
    prompt_tokens: float = 1200
    """Mean tokens of a prompt with its picture."""
    decode_rate: float = 2500
    """Tokens a second that one GPU generates for a 7B model with many sequences at once."""
    sequence_rate: float = 60
    """Tokens a second of one sequence: the longest one bounds a stage from below."""
    teraflops: float = 989
    """Peak of a GPU in bf16."""
    utilisation: float = 0.3
    """Share of the peak that training reaches."""
    flops_per_parameter: float = 12
    """For a trained token: forward, backward and recomputation, old and reference log-probabilities."""
    overhead: float = 20
    """Seconds of a step in which all GPUs wait: weight sync, loading and unloading, logging."""


@dataclass(frozen=True)
class Job:
    """One command: what it is called, what it costs, and the file that shows that it is done."""

    name: str
    command: tuple[str, ...]
    gpu_hours: float
    done: Path
    done_text: str | None = None

    @property
    def is_done(self) -> bool:
        return self.done.is_file() and self.done_text in (None, self.done.read_text(errors="replace").strip())


def training_hours(config: DictConfig, assumed: Assumed) -> float:
    """GPU-hours of the GRPO steps, without the validation at the end."""
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    batch, group = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    size = PARAMETERS[config.recipe.vlm]
    live = OmegaConf.select(config, "divek.max_vote_age") == 0
    mined = batch * config.divek.num_samples if live else 0
    generation = sum(_stage(count, config, gpus, size, assumed) for count in (mined, batch * group) if count)
    trained = batch * group * (assumed.prompt_tokens + assumed.answer_tokens)
    flops = trained * assumed.flops_per_parameter * size * 1e9
    training = flops / (gpus * assumed.teraflops * 1e12 * assumed.utilisation)
    return config.trainer.total_training_steps * (generation + training + assumed.overhead) * gpus / 3600


def _stage(sequences: int, config: DictConfig, gpus: int, size: float, assumed: Assumed) -> float:
    """Seconds in which the engines answer so many sequences: bounded by their rate and by the longest answer."""
    together = sequences * assumed.answer_tokens / (assumed.decode_rate * 7 / size * gpus)
    return max(together, config.data.max_response_length / assumed.sequence_rate)


def sampling_hours(images: int, samples: int, config: DictConfig, assumed: Assumed) -> float:
    """GPU-hours of so many completions for each of so many images, everything in flight."""
    rate = assumed.decode_rate * 7 / PARAMETERS[config.recipe.vlm]
    return images * samples * assumed.answer_tokens / rate / 3600


def jobs(table: str, vlm: str, settings: Sequence[str], results: Path, assumed: Assumed) -> Iterator[Job]:
    """Everything that a table needs, in order.

    Raises:
        SetupError: there is no such table.
    """
    if table not in TABLES:
        raise SetupError(f"{table!r} is no table: use one of {', '.join(TABLES)}.")
    tasks, methods = TABLES[table]
    for task in tasks:
        for method in methods:
            name = f"{vlm}_{task}"
            given = [] if method == "base" else [f"method={method}"]
            config = compose_recipe(name, *given, *settings)
            yield from _training(name, config, [*given, *settings], assumed) if given else ()
            yield _evaluation(config, method, results / table, assumed)


def _training(name: str, config: DictConfig, settings: list[str], assumed: Assumed) -> Iterator[Job]:
    run_dir, steps = Path(config.trainer.default_local_dir), _steps(config, settings)
    counted = [*settings, f"trainer.total_training_steps={steps}"]
    votes = OmegaConf.select(config, "divek.votes_file")
    model = config.actor_rollout_ref.model.path
    if votes is not None:
        data = [part for file in files(config, "train_files") for part in ("--data", str(file))]
        hours = sampling_hours(config.recipe.train_images, 20, config, assumed)
        gpus = ("--data-parallel", str(config.trainer.n_gpus_per_node))
        command = ("divek", "mine", *data, "--model", model, *gpus, "--out", votes)
        yield Job(f"mine {config.recipe.task}", command, hours, Path(votes))
    command = ("bash", str(RECIPES / f"run_{name}.sh"), *settings)
    # The baseline has no `divek` node: it is trained for the same steps without mining.
    costing = compose_recipe(name, *counted)
    hours = training_hours(costing, assumed) if "divek" in config else _without_mining(name, counted, assumed)
    done = run_dir / "latest_checkpointed_iteration.txt"
    yield Job(f"train {run_dir.name}", command, hours, done, str(steps))


def _steps(config: DictConfig, settings: Sequence[str]) -> int:
    """As run_*.sh count them; an override goes before."""
    given = any(each.lstrip("+").startswith("trainer.total_training_steps=") for each in settings)
    return int(config.trainer.total_training_steps) if given else counted_steps(config)


def _without_mining(name: str, settings: list[str], assumed: Assumed) -> float:
    others = [each for each in settings if not each.startswith("method=")]
    return training_hours(compose_recipe(name, *others, "divek.max_vote_age=null"), assumed)


def _evaluation(config: DictConfig, method: str, results: Path, assumed: Assumed) -> Job:
    model = config.actor_rollout_ref.model.path if method == "base" else config.trainer.default_local_dir
    data = [part for file in files(config, "val_files") for part in ("--data", str(file))]
    out = results / f"{config.recipe.vlm}_{config.recipe.task}_{method}"
    images = sum(HELD_OUT[name] for name in config.recipe.sets)
    hours = sampling_hours(images, 21, config, assumed)
    gpus = ("--data-parallel", str(config.trainer.n_gpus_per_node))
    shown = OmegaConf.select(config, "divek.num_options")
    options = ("--options", str(shown)) if shown is not None else ()
    command = ("divek", "eval", "--model", model, *data, "--mode", "both", *options, *gpus, "--out", str(out))
    return Job(f"eval {out.name}", command, hours, out / "results.json")


def show(planned: Sequence[Job], assumed: Assumed, console: Console) -> None:
    """The plan, its cost, what the cost was worked out from, and the commands, to be pasted as they stand."""
    table = Table("", "job", "GPU-hours")
    for job in planned:
        table.add_row("done" if job.is_done else "", job.name, f"{job.gpu_hours:.1f}")
    console.print(table)
    for job in planned:
        console.print(shlex.join(job.command), markup=False, highlight=False, soft_wrap=True)
    console.print()
    left = sum(job.gpu_hours for job in planned if not job.is_done)
    console.print(f"{left:.0f} GPU-hours to go of {sum(job.gpu_hours for job in planned):.0f}.")
    console.print("Arithmetic, not measured; assumed for one GPU of the H100 class (--assume NAME=VALUE changes them):")
    for field in fields(assumed):
        console.print(f"  {field.name}={getattr(assumed, field.name):g}", markup=False)


def lacking(table: str, vlm: str, settings: Sequence[str]) -> list[tuple[str, str]]:
    """The model and data that no job of a table makes, and the commands that do."""
    tasks, _ = TABLES[table]
    found = [each for task in tasks for each in missing(compose_recipe(f"{vlm}_{task}", *settings))]
    return list(dict.fromkeys(found))


def parse_assumed(given: Sequence[str]) -> Assumed:
    """Assumptions with those of ``NAME=VALUE`` changed.

    Raises:
        SetupError: no such assumption, or no number.
    """
    known = {field.name for field in fields(Assumed)}
    changes = {}
    for each in given:
        name, _, value = each.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if name not in known or not number > 0:
            raise SetupError(f"--assume {each} is not NAME=VALUE with a value above 0 and one of {', '.join(known)}.")
        changes[name] = number
    return replace(Assumed(), **changes)


def run(planned: Sequence[Job], console: Console) -> None:
    """Run what is not done, and stop at the first command that fails.

    Raises:
        SetupError: a command failed.
    """
    for job in planned:
        if job.is_done:
            console.print(f"[dim]{job.name}: done already[/]")
            continue
        console.rule(job.name)
        status = subprocess.run(
            _here(job.command), check=False, env={**os.environ, "PYTHON": sys.executable}
        ).returncode
        if status:
            raise SetupError(f"{job.name} ended with status {status}: mend what it says; the same command goes on.")


def _here(command: Sequence[str]) -> list[str]:
    """With the Python that runs the plan, whether or not its folder is on the path."""
    name, *rest = command
    return [sys.executable, "-m", "divek_verl.cli", *rest] if name == "divek" else [name, *rest]


def main(
    table: Annotated[str, typer.Argument(help="table1, table2, table3 or ablations.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Hydra overrides of every recipe.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its cost only.")] = False,
    vlm: Annotated[str, typer.Option(help="A file of recipes/vlm.")] = "qwen25vl_7b",
    results: Annotated[Path, typer.Option(help="Folder of the evaluations.")] = RESULTS,
    assume: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: change an assumption; repeatable.")] = None,
) -> None:
    """Plan or run all that a table of the paper needs."""
    console = Console()
    try:
        assumed = parse_assumed(assume or ())
        changed = [*environment_settings(os.environ), *(settings or [])]
        planned = list(jobs(table, vlm, changed, results, assumed))
        lacks = lacking(table, vlm, changed)
        print_missing(lacks)
        if dry_run:
            return show(planned, assumed, console)
        if lacks:
            raise typer.Exit(2)
        run(planned, console)
        print_results(results / table, console)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
