"""Shared by all parts: the workload, the numbers of several repetitions, and the claims that they decide."""

import json
import os
import platform
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from divek_verl.engines.options import EngineOptions, SamplingOptions
from divek_verl.engines.rows import PreparedRows, read_rows
from divek_verl.prepare import Classes, Example, Split, write_set
from divek_verl.prompts import Wording, open_question

RESULTS = Path(__file__).resolve().parents[1] / "results" / "mining.json"
CLASSES = Classes(("Chad", "Romania", "Moldova", "Andorra", "Mali", "Guinea", "Senegal", "Ireland", "Italy", "Mexico"))
SIZE = (112, 84)
# Prompts as long as those of the paper's data sets, whose class lists take 300 to 1,100 tokens of a real tokenizer.
LONG_SIZE = (448, 336)
TOKENS_OF_LONG_LIST = 500


@dataclass(frozen=True)
class Workload:
    """The mined data: the same for every arm of a comparison."""

    model: Path
    data: Path
    images: int
    samples: int
    max_new_tokens: int
    repetitions: int
    seed: int

    @property
    def engine(self) -> EngineOptions:
        return EngineOptions(str(self.model))

    @property
    def sampling(self) -> SamplingOptions:
        """As in training, without the repetition penalty, which keeps a small model from repeating a one-token name."""
        return SamplingOptions(
            samples=self.samples, repetition_penalty=1.0, max_new_tokens=self.max_new_tokens, seed=self.seed
        )

    def rows(self, limit: int | None = None) -> PreparedRows:
        return read_rows([self.data], min_pixels=3136, max_pixels=401408, limit=limit)


@dataclass(frozen=True)
class Claim:
    """A number that has to be at least (or, with ``at_most``, at most) a bound."""

    text: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        relation = "at most" if self.at_most else "at least"
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return f"{verdict}: {self.text}: {self.value:,.3f} ({relation} {self.bound:,g})"


@dataclass
class Section:
    """The numbers of one part of the benchmark (name -> one for each repetition), its claims and facts."""

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

    def take_turns(self, arms: Mapping[str, Callable[[], float]], repetitions: int) -> None:
        """A B A B, so that other processes on the machine slow all arms alike."""
        for repetition in range(repetitions):
            for name, arm in arms.items():
                value = arm()
                print(f"[{self.name}] {repetition + 1}/{repetitions} {name}: {value:.4g} {self.unit}", flush=True)
                self.add(name, value)

    def show(self, console: Console) -> None:
        table = Table("", f"median ({self.unit})", "each repetition", title=self.name)
        for name, values in self.measured.items():
            table.add_row(name, f"{self.median(name):,.4g}", ", ".join(f"{value:,.4g}" for value in values))
        console.print(table)
        for line in [*(f"{name}: {value}" for name, value in self.facts.items()), *map(str, self.claims)]:
            console.print(line, markup=False, highlight=False)


def save(section: Section, workload: Workload, path: Path = RESULTS) -> None:
    """Write a section into the results; the load average tells how far to trust it."""
    import torch

    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    results[section.name] = {
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "load_average": [round(load, 1) for load in os.getloadavg()],
            "python": platform.python_version(),
        },
        "workload": {**asdict(workload), "model": workload.model.name, "data": workload.data.name},
        "unit": section.unit,
        "median": {name: section.median(name) for name in section.measured},
        "each": section.measured,
        "facts": section.facts,
        "claims": [{**asdict(claim), "holds": claim.holds} for claim in section.claims],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def make_data(folder: Path, images: int, classes: Classes = CLASSES, size: tuple[int, int] = SIZE) -> Path:
    """The parquet file of a set with ``images`` pictures of noise."""
    (folder / "images").mkdir(parents=True)
    examples = []
    for index in range(images):
        noise = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path = Path("images", f"{index}.png")
        Image.fromarray(noise).save(folder / path)
        examples.append(Example(path.as_posix(), random.Random(index).choice(classes.base), str(index)))
    write_set(folder, "flags", classes, [Split("train", "base", examples)])
    return folder / "train.parquet"


def make_long_data(folder: Path, images: int, model: Path) -> Path:
    """Rows whose pictures and class lists are as large as those of the paper's data sets."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    names = [f"Class {number:02}" for number in range(1, 100)]
    while len(names) > 1 and len(tokenizer(", ".join(names[:-1]))["input_ids"]) >= TOKENS_OF_LONG_LIST:
        names.pop()
    return make_data(folder, images, Classes(tuple(names)), LONG_SIZE)


def make_model(folder: Path) -> Path:
    """The demo's architecture with random weights."""
    from divek_verl.demo.model import build_model, build_processor, build_tokenizer, save

    tokenizer = build_tokenizer([open_question(Wording(), CLASSES.base), "user assistant"], CLASSES.all)
    save(build_model(tokenizer, seed=0), build_processor(tokenizer), folder)
    return folder
