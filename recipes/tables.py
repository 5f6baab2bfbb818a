"""The runs behind a table of the paper, and their results beside the paper's numbers.

python recipes/tables.py plan table1              # the commands, and what they cost
python recipes/tables.py plan table1 --run        # run them, one after another
python recipes/tables.py collect results/table1   # the results; of several seeds: one folder each

Jobs that are done are skipped, so the same command continues. GPU-hours are arithmetic from the printed assumptions.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import recipe
import typer
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from divek_verl.errors import SetupError
from divek_verl.estimate import Assumptions, counted_steps, data_files, parse_assumed, run_hours, sampling_hours
from divek_verl.evaluation.display import difference_table
from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.evaluation.results import Difference
from divek_verl.evaluation.statistics import gains_over
from divek_verl.files import read_lines
from divek_verl.measures import MEASURES
from divek_verl.records import QUESTIONS_FILE

RESULTS = Path("results")
SETS = ("cub", "flowers", "pets", "cars", "aircraft")
METHODS = ("base", "virft", "virft_list", "paper", "online")
# table -> (tasks, methods); the method "base" is the model before training.
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # Base-to-novel on each of the five sets.
    "table1": (SETS, METHODS),
    # Mixed domains: one model for all five sets.
    "table2": (("mixed",), METHODS),
    # Four images of each class.
    "table3": (tuple(f"{name}_4shot" for name in SETS), METHODS),
    # The source and the number of the options, compared with `online`.
    "ablations": (SETS, ("online", "random", "text", "two", "auto")),
}
# The paper's averages over the five sets with Qwen2.5-VL-7B: base, new, harmonic mean; or one number for all.
PAPER: dict[str, dict[str, tuple[float | None, float | None, float]]] = {
    "table1": {"base": (68.9, 70.5, 69.7), "virft": (73.0, 74.2, 73.6), "paper": (80.8, 78.8, 79.8)},
    "table2": {"paper": (None, None, 78.7)},
    "table3": {"base": (None, None, 63.9), "virft": (None, None, 67.02), "paper": (None, None, 74.75)},
}
PAPERS_MODEL = "qwen25vl_7b"
# The measure of the paper's numbers; every method is shown with every measure.
PAPERS_MEASURE = {"base": "one_step_greedy", "virft": "one_step_greedy", "paper": "two_step"}
# What compared methods share.
EQUAL = ("recipe.prompts=6", "recipe.steps=400", "algorithm.rollout_correction.rollout_is=null")


@dataclass(frozen=True)
class Job:
    """One command with its cost, and the file (and its text) that shows that the job is done."""

    name: str
    command: tuple[str, ...]
    gpu_hours: float
    done: Path
    done_text: str | None = None

    @property
    def is_done(self) -> bool:
        return self.done.is_file() and self.done_text in (None, self.done.read_text(errors="replace").strip())


# method, configuration, the overrides that make it
Cell = tuple[str, DictConfig, list[str]]


def cells_of(table: str, given: Sequence[str], tasks: Sequence[str], methods: Sequence[str]) -> Iterator[Cell]:
    """The cells of a table, or of the chosen ``tasks`` and ``methods``; SetupError where it has no such cell."""
    if table not in TABLES:
        raise SetupError(f"{table!r} is no table: use one of {', '.join(TABLES)}.")
    for known, chosen in zip(TABLES[table], (tasks, methods), strict=True):
        if unknown := set(chosen) - set(known):
            raise SetupError(f"{table} has no {', '.join(sorted(unknown))}: use some of {', '.join(known)}.")
    for task in tasks or TABLES[table][0]:
        for method in methods or TABLES[table][1]:
            overrides = [f"task={task}", *([] if method == "base" else [f"method={method}"]), *EQUAL, *given]
            config, settings = recipe.compose_launch(overrides)
            yield method, config, [*settings, *overrides]


def jobs(cell: Cell, results: Path, assumed: Assumptions) -> Iterator[Job]:
    """The jobs of one cell: mining where the votes come from a file, training, evaluation."""
    method, config, overrides = cell
    name, model, variant = config.recipe.task, config.actor_rollout_ref.model.path, ""
    gpus = ("--data-parallel", str(config.trainer.n_gpus_per_node))
    if method != "base":
        if (votes := recipe.votes_file(config)) is not None:
            hours = sampling_hours(config.recipe.train_images * config.divek.num_samples, config, assumed)
            yield Job(f"mine {name}", recipe.mining_command(config, *gpus), hours, votes)
        model, variant = config.trainer.default_local_dir, config.recipe.variant
        # An override of the steps comes after the number that run_*.sh count.
        if not any(each.lstrip("+").startswith("trainer.total_training_steps=") for each in overrides):
            config.trainer.total_training_steps = counted_steps(config)
        steps = int(config.trainer.total_training_steps)
        script = recipe.RECIPES / f"run_{PAPERS_MODEL}_{name.removesuffix('_4shot')}.sh"
        done, hours = Path(model) / "latest_checkpointed_iteration.txt", run_hours(config, assumed)
        yield Job(f"train {Path(model).name}", ("bash", str(script), *overrides), hours, done, str(steps))
    data = [part for file in data_files(config, "val_files") for part in ("--data", str(file))]
    out = results / f"{config.recipe.vlm}_{name}{variant}_{method}"
    options = ("--options", str(config.divek.num_options)) if "divek" in config else ()
    command = ("divek", "eval", "--model", model, *data, "--mode", "both", *options, *gpus, "--out", str(out))
    # 20 answers and the question.
    hours = sampling_hours(config.recipe.held_out_images * 21, config, assumed)
    yield Job(f"eval {out.name}", command, hours, out / "results.json")


def show(planned: Sequence[Job], assumed: Assumptions, console: Console) -> None:
    """Print the jobs, their cost and its assumptions, and the commands, ready to be pasted."""
    table = Table("", "job", "GPU-hours")
    for job in planned:
        table.add_row("done" if job.is_done else "", job.name, f"{job.gpu_hours:.1f}")
    console.print(table)
    for job in planned:
        console.print(shlex.join(job.command), markup=False, highlight=False, soft_wrap=True)
    left = sum(job.gpu_hours for job in planned if not job.is_done)
    console.print(f"\n{left:.0f} GPU-hours to go of {sum(job.gpu_hours for job in planned):.0f}.")
    console.print("Arithmetic, not measured; assumed for one GPU of the H100 class (--assume NAME=VALUE changes them):")
    for line in assumed.lines():
        console.print(f"  {line}", markup=False, highlight=False)


def run(planned: Sequence[Job], console: Console) -> None:
    """Run the jobs that are not done; SetupError at the first one that fails."""
    for job in planned:
        if job.is_done:
            console.print(f"[dim]{job.name}: done already[/]")
            continue
        console.rule(job.name)
        # With the Python that runs the plan, even where its folder is not on the path.
        name, *rest = job.command
        command = [sys.executable, "-m", "divek_verl.cli", *rest] if name == "divek" else [name, *rest]
        status = subprocess.run(command, check=False, env={**os.environ, "PYTHON": sys.executable}).returncode
        if status:
            raise SetupError(f"{job.name} ended with status {status}: fix what it says, then run this command again.")


# side -> accuracy on each data set in %
Scores = dict[str, list[float]]
# model (with its variant), method
Arm = tuple[str, str]


def mean_of(scores: Scores, side: str) -> float | None:
    """The average over the data sets in %, or None where no evaluation has that side."""
    return fmean(scores[side]) if side in scores else None


def overall(scores: Scores) -> float | None:
    """The harmonic mean of the averages of base and new, or the average over all classes."""
    base, new = mean_of(scores, "base"), mean_of(scores, "new")
    if base is None or new is None:
        return mean_of(scores, "all")
    return 2 * base * new / (base + new) if base + new else 0.0


def evaluations(folders: Sequence[Path]) -> Iterator[tuple[Arm, Path]]:
    """The folders of evaluations of a table; ``folders`` are its seeds."""
    tasks = "|".join(reversed(recipe.choices("task")))
    methods = "|".join(reversed(("base", *recipe.choices("method"))))
    names = re.compile(rf"({'|'.join(recipe.choices('vlm'))})_(?:{tasks})(_\w+?)??_({methods})")
    for path in (path for folder in folders for path in sorted(folder.glob("*/results.json"))):
        if name := names.fullmatch(path.parent.name):
            vlm, variant, method = name.groups(default="")
            yield (f"{vlm}{variant}", method), path.parent


def read_results(folders: Sequence[Path]) -> dict[tuple[str, str, str], Scores]:
    """The accuracies by model (with its variant), method and measure; SetupError where there is no evaluation."""
    found: dict[tuple[str, str, str], Scores] = {}
    for arm, evaluated in evaluations(folders):
        path = evaluated / "results.json"
        try:
            for group in json.loads(path.read_text(encoding="utf-8"))["groups"]:
                for measure in MEASURES:
                    value = float(group["averages"][measure]["micro"]["value"])
                    found.setdefault((*arm, measure), {}).setdefault(group["side"], []).append(100 * value)
        except (KeyError, TypeError, ValueError):
            raise SetupError(f"{path} is no results file of this `divek eval`, both steps: evaluate again.") from None
    if not found:
        raise SetupError(f"{folders[0]} holds no results.json of `divek eval`: run the table first.")
    return found


def gains(folders: Sequence[Path], baseline: str) -> dict[Arm, list[Difference]]:
    """The paired gains of every method over ``baseline``, in the rows that a table has: over data sets, if it can.

    Seeds are one comparison, and its intervals hold the variance of training. Holm's correction is for all comparisons.
    Arms whose images were not recorded beside their results are left out.
    """
    records: dict[Arm, dict[Path, list[EvaluationRecord]]] = {}
    for arm, evaluated in evaluations(folders):
        read = map(EvaluationRecord.from_json, read_lines(evaluated / QUESTIONS_FILE)[0])
        records.setdefault(arm, {}).setdefault(evaluated.parent, []).extend(read)
    runs = {arm: list(seeds.values()) for arm, seeds in records.items()}
    return gains_over(runs, {arm: (arm[0], baseline) for arm in runs if arm[1] != baseline}, list(MEASURES))


def print_results(folders: Sequence[Path], console: Console, baseline: str = "base") -> None:
    """Print the table of a folder of evaluations, and the gains over a method with intervals and tests."""
    table = Table(title=f"{folders[0].name}: average accuracy, %, {len(folders)} seed(s)")
    for column in ("model", "method", "measure", "sets", "base", "new", "harmonic mean / all", "the paper's"):
        table.add_column(column)
    for (model, method, measure), scores in read_results(folders).items():
        numbers = (mean_of(scores, "base"), mean_of(scores, "new"), overall(scores))
        papers = PAPER.get(folders[0].name, {}).get(method, ()) if model == PAPERS_MODEL else ()
        papers = papers if PAPERS_MEASURE.get(method) == measure else ()
        ours, theirs = (["-" if each is None else f"{each:.1f}" for each in row] for row in (numbers, papers))
        count = max(map(len, scores.values()), default=0) // len(folders)
        table.add_row(model, method, MEASURES[measure].title, str(count), *ours, " / ".join(theirs))
    console.print(table)
    for (model, method), rows in gains(folders, baseline).items():
        console.print(difference_table(f"{model}: {method} over {baseline}", rows))


app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command("plan")
def plan(
    table: Annotated[str, typer.Argument(help=f"{', '.join(TABLES)}.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Overrides of all: vlm=, variant=, ...")] = None,
    start: Annotated[bool, typer.Option("--run", help="Run the commands instead of printing them.")] = False,
    task: Annotated[list[str] | None, typer.Option(help="Plan only this task; repeatable.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Plan only this method; repeatable.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of the evaluations.")] = RESULTS,
    assume: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: change an assumption; repeatable.")] = None,
) -> None:
    """Print the commands that a table of the paper needs and what they cost, or run them."""
    console, assumed = Console(), parse_assumed(assume or ())
    cells = list(cells_of(table, overrides or (), task or (), method or ()))
    planned = [job for cell in cells for job in jobs(cell, results / table, assumed)]
    lacking = list(dict.fromkeys(each for _, config, _ in cells for each in recipe.missing(config, votes=False)))
    recipe.print_missing(lacking)
    if not start:
        return show(planned, assumed, console)
    if lacking:
        raise typer.Exit(2)
    run(planned, console)
    print_results([results / table], console)


@app.command("collect")
def collect(
    folders: Annotated[list[Path] | None, typer.Argument(help="A folder of evaluations for each seed.")] = None,
    over: Annotated[str, typer.Option(help="Method whose accuracy the gains are over, such as virft.")] = "base",
) -> None:
    """Print the averages of a table's evaluations beside the paper's, and the gains with intervals and tests."""
    print_results(folders or [RESULTS / "table1"], Console(), over)


if __name__ == "__main__":
    recipe.run_app(app)
