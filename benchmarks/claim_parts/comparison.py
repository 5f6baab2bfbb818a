"""What the results of several seeds say: gates, means, paired differences with tests, and the refutations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import page_trend_test
from statsmodels.stats.multitest import multipletests

from divek_verl.demo.run import SIDES
from divek_verl.evaluation.statistics import change, harmonic
from divek_verl.intervals import generator, stretch

ROWS = (*SIDES, "harmonic mean")
PRIMARY = "two_step"
RESAMPLES = 4000
LEAST_TOLD = 0.90
TWO_STEP = (0.30, 0.65)
MOST_APART = 0.10
LEAST_GAP = 0.15
# The order that the method predicts, from least to most.
TREND = ("start", "virft", "random", "offline", "online")
WORTHWHILE = 0.02

# arm -> the content of its result file
Results = Mapping[str, Mapping[str, Any]]


def accuracy(result: Mapping[str, Any], side: str, measure: str = PRIMARY) -> float:
    """The share of right images of a side; both sides' harmonic mean for the row of that name."""
    if side == ROWS[2]:
        return float(harmonic([np.array([accuracy(result, each, measure)]) for each in SIDES])[0])
    classes = result["classes"][side].values()
    return float(sum(each[measure] for each in classes) / sum(each["images"] for each in classes))


def failed_gates(knowledge: Mapping[str, Any], start: Mapping[str, Any]) -> list[str]:
    """Why the start model of a seed cannot show anything; empty if it can."""
    two_step = {side: accuracy(start, side) for side in SIDES}
    gap = knowledge["captions"]["new"] - two_step["new"]
    checks = {
        f"the told class gets the right letter in {knowledge['told']:.1%}, needs {LEAST_TOLD:.0%}": knowledge["told"]
        >= LEAST_TOLD,
        f"two-step accuracy is {two_step['base']:.1%} on base and {two_step['new']:.1%} on new, both must lie between "
        f"{TWO_STEP[0]:.0%} and {TWO_STEP[1]:.0%}": all(
            TWO_STEP[0] <= value <= TWO_STEP[1] for value in two_step.values()
        ),
        f"the sides are {abs(two_step['base'] - two_step['new']):.1%} apart, at most {MOST_APART:.0%} are allowed": abs(
            two_step["base"] - two_step["new"]
        )
        <= MOST_APART,
        f"captions are right {gap:+.1%} more often than two steps on new, needs {LEAST_GAP:.0%}": gap >= LEAST_GAP,
    }
    return [sentence for sentence, holds in checks.items() if not holds]


@dataclass(frozen=True)
class Comparison:
    """Accuracy of ``arm`` minus that of ``reference``, over ``seeds``.

    The interval is over classes and, of several seeds, over trainings.
    """

    arm: str
    reference: str
    row: str
    seeds: int
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float = 1.0


def compare(seeds: Sequence[Results], arm: str, reference: str, measure: str = PRIMARY) -> list[Comparison]:
    """The paired differences of two arms on base, on new, and of their harmonic means.

    Each half of the classes is base in some seeds and new in others, so its classes are drawn once for all seeds: what
    is hard about a class is hard in each. Seeds are paired, since both arms share data, start model and order.
    """
    halves = _halves(seeds, arm, reference, measure)
    random = generator(0, arm, reference, measure)
    counts = {names: random.multinomial(len(names), [1 / len(names)] * len(names), RESAMPLES) for names in halves[0]}
    values, draws, exchanged = [], [], []
    flips = {names: random.integers(0, 2, (1 + RESAMPLES, len(names))) for names in halves[0]}
    for of_seed in halves:
        value, drawn, swaps = [], [], []
        for names, pair in of_seed.items():
            value.append(pair.mean(axis=0))
            drawn.append(value[-1] + stretch(len(names)) * (counts[names] @ pair / len(names) - value[-1]))
            flip = flips[names] * (np.arange(1 + RESAMPLES) > 0)[:, None]
            swaps.append((flip @ pair[:, ::-1] + (1 - flip) @ pair) / len(names))
        values.append(_rows(value))
        draws.append(_rows(drawn))
        exchanged.append(_rows(swaps))
    # The reference is the run that never changes: all variance is that of the paired differences.
    nothing = np.zeros(len(ROWS))
    all_draws = np.stack([np.zeros_like(draws[0]), *draws], axis=1)
    units = min(len(names) for names in halves[0])
    low, high, of_training = change(np.array([nothing, *values]), all_draws, 1, units)
    moved = np.abs(np.mean(exchanged, axis=0))
    p_values = np.maximum((moved >= moved[0] - 1e-12).mean(axis=0), of_training)
    columns = zip(ROWS, np.mean(values, axis=0), low, high, p_values, strict=True)
    return [Comparison(arm, reference, row, len(seeds), *map(float, numbers)) for row, *numbers in columns]


def _halves(
    seeds: Sequence[Results], arm: str, reference: str, measure: str
) -> list[dict[tuple[str, ...], np.ndarray]]:
    """For each seed: the classes of base and of new, with the accuracy of reference and arm, shape (classes, 2)."""
    found = []
    for results in seeds:
        pair = [results[name]["classes"] for name in (reference, arm)]
        of_seed = {}
        for side in SIDES:
            names = tuple(sorted(pair[0][side]))
            shares = [[each[side][name][measure] / each[side][name]["images"] for each in pair] for name in names]
            of_seed[names] = np.array(shares)
        found.append(of_seed)
    return found


def _rows(sides: Sequence[np.ndarray]) -> np.ndarray:
    """Arm minus reference on base, on new and of the harmonic means; from shape (..., 2) each to (..., 3)."""
    means = harmonic(sides)
    return np.stack([each[..., 1] - each[..., 0] for each in (*sides, means)], axis=-1)


def comparisons(seeds: Sequence[Results], measure: str = PRIMARY) -> list[Comparison]:
    """Every arm against the start model, online against every other one, and offline against random options.

    Each pair is compared on the seeds that have both; Holm's correction is for all.
    """
    there = dict.fromkeys(name for results in seeds for name in results if name != "start")
    pairs = [(name, "start") for name in there]
    pairs += [("online", name) for name in there if name != "online"] + [("offline", "random")]
    found = []
    for pair in pairs:
        if shared := [results for results in seeds if set(pair) <= set(results)]:
            found += compare(shared, *pair, measure)
    if not found:
        return []
    corrected = multipletests([each.p_value for each in found], method="holm")[1]
    return [Comparison(**{**vars(each), "p_holm": float(p)}) for each, p in zip(found, corrected, strict=True)]


def trend(seeds: Sequence[Results]) -> float | None:
    """The p-value of Page's test that two-step harmonic means rise in the order of ``TREND``; None if some are missing.

    Each seed that has all of them ranks the arms; no seed's level matters.
    """
    ranked = [[accuracy(results[name], ROWS[2]) for name in TREND] for results in seeds if set(TREND) <= set(results)]
    return float(page_trend_test(ranked).pvalue) if len(ranked) > 1 else None


@dataclass(frozen=True)
class Refutation:
    """What would speak against the claim, written before the runs, and what the comparisons say."""

    arm: str
    reference: str
    row: str
    sentence: str

    def verdict(self, found: Sequence[Comparison]) -> str:
        """``refuted``, ``not refuted`` or, with an interval on both sides of the bound, ``undecided``."""
        each = next((c for c in found if (c.arm, c.reference, c.row) == (self.arm, self.reference, self.row)), None)
        if each is None:
            return "not measured"
        bound = WORTHWHILE if self.reference == "start" else 0.0
        numbers = f"{100 * each.difference:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f})"
        if each.high < bound:
            return f"refuted: {numbers}"
        return f"{'not refuted' if each.low > bound else 'undecided'}: {numbers}"


REFUTATIONS = (
    Refutation("online", "start", "new", "online gains less than 2 points on classes that RL never saw"),
    Refutation("online", "virft", ROWS[2], "ViRFT, asked in two steps, is as good as online"),
    Refutation("offline", "random", ROWS[2], "random options are as good as offline"),
    Refutation("online", "coin", ROWS[2], "a coin as answer reward gains as much as online"),
    Refutation("online", "offline", ROWS[2], "offline is as good as online (refutes only the use of the live policy)"),
)
