"""What every part measures with: a workload, numbers of several repetitions, and claims that they decide."""

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parents[1] / "results" / "mining.json"


@dataclass(frozen=True)
class Workload:
    """What is mined: the same for every arm of a comparison."""

    model: Path
    data: Path
    images: int
    samples: int
    max_new_tokens: int
    repetitions: int
    seed: int


@dataclass(frozen=True)
class Claim:
    """A number that has to be at least (or, with ``at_most``, at most) another."""

    text: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        relation = "at most" if self.at_most else "at least"
        return (
            f"{'holds' if self.holds else 'DOES NOT HOLD'}: {self.text}: {self.value:,.3f} ({relation} {self.bound:,g})"
        )


@dataclass
class Section:
    """What one part of the benchmark measured: name -> one number a repetition, and what follows from them."""

    name: str
    unit: str = ""
    measured: dict[str, list[float]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.measured.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.measured[name])

    def claim(self, text: str, value: float, bound: float, at_most: bool = False) -> None:
        self.claims.append(Claim(text, value, bound, at_most))

    def show(self, console: Console) -> None:
        table = Table("", f"median ({self.unit})", "each repetition", title=self.name)
        for name, values in self.measured.items():
            each = ", ".join(f"{value:,.4g}" for value in values)
            table.add_row(name, f"{statistics.median(values):,.4g}", each)
        console.print(table)
        for name, value in self.facts.items():
            console.print(f"{name}: {value}", markup=False, highlight=False)
        for claim in self.claims:
            console.print(str(claim), markup=False, highlight=False)

    def to_json(self, workload: Workload) -> dict[str, Any]:
        used = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(workload).items()}
        medians = {name: statistics.median(values) for name, values in self.measured.items()}
        claims = [{**asdict(claim), "holds": claim.holds} for claim in self.claims]
        return {
            "machine": machine(),
            "workload": {**used, "model": Path(used["model"]).name, "data": Path(used["data"]).name},
            "unit": self.unit,
            "median": medians,
            "each": self.measured,
            "facts": self.facts,
            "claims": claims,
        }


def machine() -> dict[str, Any]:
    """What the numbers were measured on; the load of other processes tells how far to trust them."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
    }


def take_turns(section: Section, arms: Mapping[str, Callable[[int], float]], repetitions: int) -> None:
    """A B A B: what else runs on the machine then slows all arms alike. An arm is given the repetition's number."""
    for repetition in range(repetitions):
        for name, arm in arms.items():
            value = arm(repetition)
            print(f"[{section.name}] {repetition + 1}/{repetitions} {name}: {value:.4g} {section.unit}", flush=True)
            section.add(name, value)


def save(section: Section, workload: Workload, path: Path = RESULTS) -> None:
    """Put a section in the place of its last one."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    results[section.name] = section.to_json(workload)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
