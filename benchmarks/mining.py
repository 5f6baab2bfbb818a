"""What do votes cost? Offline mining against the engine alone, against the usual way, and the controller's own part.

    python benchmarks/mining.py                                  # a small untrained model, on whatever is here
    python benchmarks/mining.py --model DIR --data train.parquet --max-new-tokens 1024

Arms that are compared take turns in one process, on the same pictures, prompts, lengths and seeds; the ratio is that
of their medians, and every repetition is printed. With `--save` the results are kept in benchmarks/results/mining.json,
each section in the place of its last one.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

# Engines start processes of their own, which look for this folder as this one does.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from mining_parts.measuring import RESULTS, Section, Workload, save

from divek_verl.errors import SetupError


def controller(workload: Workload) -> Section:
    from mining_parts.controller import measure

    return measure(workload, Section("controller", "per second of one core"))


def offline(workload: Workload) -> Section:
    from mining_parts.offline import measure

    return measure(workload, Section("offline", "images/s"))


def offline_long(workload: Workload) -> Section:
    from mining_parts.offline import measure
    from mining_parts.workload import make_long_data

    with tempfile.TemporaryDirectory(prefix="divek-mining-") as scratch:
        data = make_long_data(Path(scratch) / "data", workload.images, workload.model)
        return measure(replace(workload, data=data), Section("offline-long", "images/s"))


def growth(workload: Workload) -> Section:
    from mining_parts.offline import measure_growth

    return measure_growth(workload, Section("growth", "images/s"))


def cache(workload: Workload) -> Section:
    from mining_parts.cache import measure

    return measure(workload, Section("cache", "per image"))


def online(workload: Workload) -> Section:
    from mining_parts.online import measure

    return measure(workload, Section("online", "seconds for all images"))


def online_mining(workload: Workload) -> Section:
    from mining_parts.online import MINING, measure

    return measure(workload, Section("online-mining", "seconds for all images"), [MINING])


# Each measures one thing and can be run alone with --section.
SECTIONS: dict[str, Callable[[Workload], Section]] = {
    "controller": controller,
    "offline": offline,
    "offline-long": offline_long,
    "growth": growth,
    "cache": cache,
    "online": online,
    "online-mining": online_mining,
}


def main(
    model: Annotated[Path | None, typer.Option(help="Folder of a model; unset: a small untrained one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Parquet file of prepared data; unset: noise pictures.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of one repetition.")] = 256,
    samples: Annotated[int, typer.Option(min=1, help="K, answers to each image.")] = 20,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Token limit of one answer.")] = 16,
    repetitions: Annotated[int, typer.Option(min=1, help="Turns of each arm.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of all samples.")] = 0,
    section: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SECTIONS)}; repeatable.")] = None,
    save_results: Annotated[bool, typer.Option("--save", help=f"Keep the results in {RESULTS.name}.")] = False,
) -> None:
    """Measure, print every repetition, and say which claims hold."""
    # "online" has all of "online-mining".
    chosen = section or [name for name in SECTIONS if name != "online-mining"]
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is no section: use {', '.join(SECTIONS)}.")
    held = []
    with tempfile.TemporaryDirectory(prefix="divek-mining-") as scratch:
        try:
            made_model, made_data = prepare(Path(scratch), model, data, images, chosen)
            workload = Workload(made_model, made_data, images, samples, max_new_tokens, repetitions, seed)
            for name in chosen:
                measured = SECTIONS[name](workload)
                measured.show(Console(width=160))
                held += [claim.holds for claim in measured.claims]
                if save_results:
                    save(measured, workload)
        except SetupError as error:
            raise SystemExit(f"error: {error}") from None
    raise typer.Exit(0 if all(held) else 1)


def prepare(
    scratch: Path, model: Path | None, data: Path | None, images: int, chosen: Sequence[str]
) -> tuple[Path, Path]:
    """The model and the rows that are measured; what is not given is made in ``scratch``."""
    from mining_parts.workload import make_data, make_model

    if chosen == ["controller"]:
        return model or scratch, data or scratch
    # Growth is measured up to sixteen times the images of the other sections' quarter.
    made = data or make_data(scratch / "data", 4 * images if "growth" in chosen else images)
    return model or make_model(scratch / "model"), made


if __name__ == "__main__":
    typer.run(main)
