"""Evaluations of a table side by side, with the averages that the paper reports.

python recipes/collect.py results/table1
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from composing import VLMS
from rich.console import Console
from rich.table import Table

from divek_verl.errors import SetupError

RESULTS = Path("results")
# Averages over the five sets with Qwen2.5-VL-7B: base, new, harmonic mean; for one model of all sets and for 4-shot
# the paper gives one number.
PAPER: dict[str, dict[str, tuple[float | None, float | None, float]]] = {
    "table1": {"base": (68.9, 70.5, 69.7), "virft": (73.0, 74.2, 73.6), "paper": (80.8, 78.8, 79.8)},
    "table2": {"paper": (None, None, 78.7)},
    "table3": {"base": (None, None, 63.9), "virft": (None, None, 67.02), "paper": (None, None, 74.75)},
}
PAPERS_MODEL = "qwen25vl_7b"
# Models that answer the open question alone are measured by it.
ONE_STEP = ("base", "virft")


@dataclass
class Scores:
    """Accuracy in % by side, one entry a data set."""

    sides: dict[str, list[float]] = field(default_factory=dict)

    def mean(self, side: str) -> float | None:
        values = self.sides.get(side)
        return fmean(values) if values else None

    @property
    def overall(self) -> float | None:
        """The harmonic mean of the averages of base and new, or the average over all classes."""
        base, new = self.mean("base"), self.mean("new")
        if base is None or new is None:
            return self.mean("all")
        return 2 * base * new / (base + new) if base + new else 0.0


def read(folder: Path) -> dict[tuple[str, str], Scores]:
    """Model and method -> scores, from every evaluation in a folder.

    Raises:
        SetupError: there is none, or a file is no results file of `divek eval`.
    """
    found: dict[tuple[str, str], Scores] = {}
    for path in sorted(folder.glob("*/results.json")):
        name = path.parent.name
        vlm, method = next((each for each in VLMS if name.startswith(f"{each}_")), ""), name.rpartition("_")[2]
        for side, value in _groups(path, "one_step" if method in ONE_STEP else "two_step"):
            found.setdefault((vlm, method), Scores()).sides.setdefault(side, []).append(100 * value)
    if not found:
        raise SetupError(f"{folder} holds no results.json of `divek eval`: run the table first.")
    return found


def _groups(path: Path, measure: str) -> Iterator[tuple[str, float]]:
    try:
        for group in json.loads(path.read_text(encoding="utf-8"))["groups"]:
            yield group["side"], float(group["averages"][measure]["micro"]["value"])
    except (KeyError, TypeError, ValueError):
        raise SetupError(f"{path} is no results file of `divek eval` with {measure}: evaluate again.") from None


def print_results(folder: Path, console: Console) -> None:
    """The table of a folder of evaluations."""
    reported = {(PAPERS_MODEL, method): numbers for method, numbers in PAPER.get(folder.name, {}).items()}
    table = Table(title=f"{folder.name}: average accuracy, %")
    for column in ("model", "method", "measure", "sets", "base", "new", "harmonic mean / all", "the paper's"):
        table.add_column(column)
    for (vlm, method), scores in read(folder).items():
        numbers = (scores.mean("base"), scores.mean("new"), scores.overall)
        count = max(len(values) for values in scores.sides.values())
        measure = "one-step" if method in ONE_STEP else "two-step"
        paper = " / ".join(map(_shown, reported.get((vlm, method), ())))
        table.add_row(vlm, method, measure, str(count), *map(_shown, numbers), paper)
    console.print(table)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    try:
        print_results(Path(sys.argv[1] if len(sys.argv) > 1 else RESULTS / "table1"), Console())
    except SetupError as problem:
        sys.exit(f"error: {problem}")
