"""The cost of votes: offline mining against the engine alone, mining in a training step, and the controller's part.

    python benchmarks/mining.py                                  # a small untrained model, on whatever is here
    python benchmarks/mining.py --model DIR --data train.parquet --max-new-tokens 1024

Arms that are compared take turns in one process, on the same pictures, prompts, lengths and seeds; a ratio is that of
their medians. `--save` keeps the results in benchmarks/results/mining.json, where each section replaces its last one.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

# The engines' own processes import from this folder, too.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from mining_parts import cache, controller, offline, online
from mining_parts.common import RESULTS, Section, Workload, make_data, make_long_data, make_model, save

from divek_verl.errors import SetupError


def offline_long(workload: Workload, section: Section) -> None:
    """``offline`` with prompts as long as those of the paper's data sets."""
    with tempfile.TemporaryDirectory(prefix="divek-mining-") as scratch:
        data = make_long_data(Path(scratch) / "data", workload.images, workload.model)
        offline.measure(replace(workload, data=data), section)


# name -> (unit, measurement)
SECTIONS: dict[str, tuple[str, Callable[[Workload, Section], None]]] = {
    "controller": ("per second of one core", controller.measure),
    "offline": ("images/s", offline.measure),
    "offline-long": ("images/s", offline_long),
    "growth": ("images/s", offline.measure_growth),
    "cache": ("per image", cache.measure),
    "online": ("seconds for all images", online.measure),
}


def main(
    model: Annotated[Path | None, typer.Option(help="Folder of a model; unset: a small untrained one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Parquet file of prepared data; unset: noise pictures.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of one repetition.")] = 256,
    samples: Annotated[int, typer.Option(min=1, help="K, answers to each image.")] = 20,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Token limit of one answer.")] = 16,
    repetitions: Annotated[int, typer.Option(min=1, help="Turns of each arm.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of all samples.")] = 0,
    section: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(SECTIONS)}; repeatable.")] = None,
    save_results: Annotated[bool, typer.Option("--save", help=f"Keep the results in {RESULTS.name}.")] = False,
) -> None:
    """Measure, print every repetition, and say which claims hold."""
    chosen = section or list(SECTIONS)
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is no section: use {', '.join(SECTIONS)}.")
    all_hold = True
    with tempfile.TemporaryDirectory(prefix="divek-mining-") as scratch:
        if chosen != ["controller"]:
            model = model or make_model(Path(scratch) / "model")
            # Growth is measured with up to four times the images of the other sections.
            data = data or make_data(Path(scratch) / "data", 4 * images if "growth" in chosen else images)
        workload = Workload(model or Path(), data or Path(), images, samples, max_new_tokens, repetitions, seed)
        try:
            for name in chosen:
                unit, measure = SECTIONS[name]
                measured = Section(name, unit)
                measure(workload, measured)
                measured.show(Console(width=160))
                all_hold &= all(claim.holds for claim in measured.claims)
                if save_results:
                    save(measured, workload)
        except SetupError as error:
            raise SystemExit(f"error: {error}") from None
    raise typer.Exit(0 if all_hold else 1)


if __name__ == "__main__":
    typer.run(main)
