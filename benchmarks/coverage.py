"""How often does a 95 % interval of `divek eval` hold the true number?

    python benchmarks/coverage.py --save

draws many evaluations from a known law, for the classes and held-out images of the five sets, and counts how often the
intervals hold the mean of the law. In the law, each class has an accuracy of its own (a beta law, standard deviation 20
points), and training shifts it by a gain of its own (standard deviation 8 points); each image is right with the
accuracy of its class. A training's seed moves all classes by 2 points. The intervals and tests are the functions of
divek_verl/intervals.py and evaluation/statistics.py on the sums over each class, which is all that they use of the
images.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import binom, norm

from divek_verl.evaluation.statistics import BootstrapEstimate, change, over_both_sides, swapped
from divek_verl.intervals import by_class, interval

RESULTS = Path(__file__).resolve().parent / "results" / "coverage.json"
# Set -> classes and images of base and of new, and how unequal the classes are (standard deviation of the logarithm).
SETS = {
    "cub": ((100, 100), (600, 600), 0.0),
    "flowers": ((51, 51), (1053, 1053), 0.6),
    "pets": ((19, 18), (378, 358), 0.05),
    "cars": ((98, 98), (818, 817), 0.1),
    "aircraft": ((50, 50), (1667, 1666), 0.0),
}
MEAN, GAIN = 0.75, 0.04
BETWEEN_CLASSES, BETWEEN_GAINS, BETWEEN_SEEDS = 0.20, 0.08, 0.02
# Columns of an evaluation: the model before training, three seeds after it, and another model that is as good as the
# first one on average.
BEFORE, AFTER, EQUAL = 0, [1, 2, 3], 4
IMAGES = {
    f"{name}, {side}": count
    for name, (_, images, _) in SETS.items()
    for side, count in zip(("base", "new"), images, strict=True)
}
LEAST, MOST = 0.93, 0.97


def shares_of(random: np.random.Generator, classes: int, seeds: np.ndarray) -> np.ndarray:
    """The accuracy of each class in each column; a gain never leaves 0 to 1."""
    law = MEAN * (1 - MEAN) / BETWEEN_CLASSES**2 - 1
    before = random.beta(MEAN * law, (1 - MEAN) * law, classes)
    room = 4 * before * (1 - before)
    own, other = BETWEEN_GAINS * random.standard_normal((2, classes))
    moved = [*(before + (GAIN + seed + own) * room for seed in seeds), before + other * room]
    return np.clip(np.stack([before, *moved], axis=1), 0, 1)


def evaluation(random: np.random.Generator, truth: np.ndarray, resamples: int) -> dict[str, BootstrapEstimate]:
    """One evaluation of all sets: each source, each harmonic mean and the averages; ``most`` holds the truth."""
    parts: dict[tuple[str, str], BootstrapEstimate] = {}
    for name, (classes, images, spread) in SETS.items():
        seeds = BETWEEN_SEEDS * random.standard_normal(len(AFTER))
        for side, count, total in zip(("base", "new"), classes, images, strict=True):
            sizes = np.exp(spread * random.standard_normal(count))
            images_of = np.maximum(1, np.round(total * sizes / sizes.sum()))
            right = random.binomial(images_of.astype(int)[:, None], shares_of(random, count, seeds)).astype(float)
            value, draws = by_class(right, images_of, random, resamples)
            swaps = swapped(right[:, [BEFORE, EQUAL], None] / images_of.sum(), random, resamples)
            parts[name, side] = BootstrapEstimate(value, truth, draws, draws, count, total, total, swaps)
    means, over = over_both_sides(parts)
    found = {f"{name}, {side}": part for (name, side), part in parts.items()}
    found |= {f"{name}, harmonic mean": mean for name, mean in means.items()}
    return found | {f"five sets, {row}": each for row, (_, each) in over.items()}


def count_trial(
    random: np.random.Generator, truth: np.ndarray, resamples: int, hits: dict[str, dict[str, float]]
) -> None:
    """Add to ``hits`` whether each interval of one evaluation holds the truth, and whether a test finds what is not."""
    for label, found in evaluation(random, truth, resamples).items():
        value, draws, true, swap, units = found.value, found.classes, found.most, found.swaps, found.num_classes
        low, high = interval(value, draws, units, 0.0)
        for kind, name in enumerate(("accuracy, micro", "accuracy, macro")):
            hits[label][name] += bool(low[kind, BEFORE] <= true[kind, BEFORE] <= high[kind, BEFORE])
        micro, drawn, expected = value[0], draws[0], true[0]
        gains = {"one seed": ([BEFORE, EQUAL], 0.0), "three seeds": ([BEFORE, *AFTER], expected[1] - expected[BEFORE])}
        for name, (runs, gain) in gains.items():
            low, high, _ = change(micro[runs, None], drawn[:, runs, None], 1, units)
            hits[label][f"difference, {name}"] += bool(low[0] <= gain <= high[0])
        if label in IMAGES:
            # A draw of images is a draw of the binomial law.
            low, high = binom.ppf((0.025, 0.975), IMAGES[label], micro[BEFORE]) / IMAGES[label]
            hits[label]["accuracy, micro, by image"] += bool(low <= expected[BEFORE] <= high)
        moved = np.abs(swap[:, 1, 0] - swap[:, 0, 0])
        hits[label]["test finds no difference"] += (moved >= moved[0] - 1e-12).mean() > 0.05


def main(
    trials: Annotated[int, typer.Option(help="Simulated evaluations.")] = 1000,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of each.")] = 500,
    save: Annotated[bool, typer.Option(help=f"Write the numbers to {RESULTS.name}.")] = False,
) -> None:
    """Simulate, and print how often the intervals hold the truth."""
    random = np.random.default_rng(0)
    # The means of the law, from so many classes that nothing is left to chance; 20 quantiles stand for the seeds.
    seeds = BETWEEN_SEEDS * norm.ppf((np.arange(20) + 0.5) / 20)
    many = shares_of(random, 1_000_000, seeds).mean(axis=0)
    truth = np.tile(np.array([many[0], *[many[1:-1].mean()] * len(AFTER), many[-1]]), (2, 1))
    hits: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for _ in range(trials):
        count_trial(random, truth, resamples, hits)
    shares = {label: {name: count / trials for name, count in row.items()} for label, row in hits.items()}
    names = list(next(iter(shares.values())))
    table = Table(title=f"% of {trials} evaluations whose 95 % interval holds the truth")
    for name in ("", *names):
        table.add_column(name)
    for label, row in shares.items():
        table.add_row(label, *(f"{100 * row[name]:.1f}" if name in row else "" for name in names))
    console = Console()
    console.print(table)
    outside = [
        f"{label}: {name}"
        for label, row in shares.items()
        for name, share in row.items()
        if "image" not in name and not LEAST <= share <= MOST
    ]
    console.print(f"outside {100 * LEAST:.0f} to {100 * MOST:.0f} %: {'; '.join(outside) or 'none'}")
    if save:
        content = {
            "command": f"python benchmarks/coverage.py --trials {trials} --resamples {resamples} --save",
            "law": {"accuracy": MEAN, "between classes": BETWEEN_CLASSES, "between gains": BETWEEN_GAINS},
            "coverage": shares,
            "outside": outside,
        }
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
