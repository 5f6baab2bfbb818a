"""95 % intervals over classes, the same in `divek eval` and in the report of a run.

New classes are a sample of classes, and the images of one class are alike. So an interval draws classes (cluster
bootstrap): it says how far a number would move with other classes.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t

# The 95 % interval.
QUANTILES = (0.025, 0.975)
RESAMPLES = 2000
# Differences below this are rounding.
ROUNDING = 1e-12


def class_interval(
    values: Sequence[float], truths: Sequence[str], source: str, lowest: float
) -> tuple[float, float] | None:
    """The ends of the interval of the mean of ``values``, one for each image, from ``lowest`` to 1.

    They are those that `divek eval` gives a data source by default. None for fewer than two classes.
    """
    member = membership(truths)
    images_of = member.sum(axis=0)
    if len(images_of) < 2:
        return None
    totals = member.T @ np.array(values, dtype=float)[:, None]
    value, draws = by_class(totals, images_of, generator(0, source), RESAMPLES)
    low, high = interval(value, draws, len(images_of), lowest)
    return float(low[0, 0]), float(high[0, 0])


def interval(value: np.ndarray, draws: np.ndarray, units: int, lowest: float) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95 % interval of ``value``, from ``lowest`` to 1; ``draws`` have one more axis, the second last.

    Draws that are all equal, as at 0 and 100 %, say nothing about the spread. There it is the exact (Clopper-Pearson)
    bound for ``units`` that all came out alike, which holds for any law of classes or images.
    """
    low, high = np.quantile(draws, QUANTILES, axis=-2)
    distance = 1 - QUANTILES[0] ** (1 / units)
    alike = high - low < ROUNDING
    low = np.where(alike, value - distance * (value - lowest), np.minimum(low, value))
    high = np.where(alike, value + distance * (1 - value), np.maximum(high, value))
    return np.clip(low, lowest, 1), np.clip(high, lowest, 1)


def stretch(units: int) -> float:
    """How much farther than a percentile bootstrap of ``units`` an interval by Student's t reaches.

    The bootstrap misses the factor sqrt(n / (n - 1)) and the tails of t: 10 % for 19 classes (Hesterberg, "What
    Teachers Should Know About the Bootstrap", 2015).
    """
    freedom = max(1, units - 1)
    return float(math.sqrt(units / freedom) * t.ppf(QUANTILES[1], freedom) / norm.ppf(QUANTILES[1]))


def by_class(
    totals: np.ndarray, images_of: np.ndarray, random: np.random.Generator, resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Micro and macro averages of ``totals``, shape (classes, measures), of ``images_of`` images, and draws of them.

    A draw has as many classes, each with all of its images. Draws are stretched around the value.
    """
    count, means = len(totals), totals / images_of[:, None]
    value = np.stack([totals.sum(axis=0) / images_of.sum(), means.mean(axis=0)])
    drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    draws = np.stack([drawn @ totals / (drawn @ images_of)[:, None], drawn @ means / count])
    return value, value[:, None] + stretch(count) * (draws - value[:, None])


def membership(truths: Sequence[str]) -> np.ndarray:
    """1.0 where an image is of a class; the shape is (images, classes)."""
    names, index = np.unique(np.array(truths), return_inverse=True)
    return np.eye(len(names))[index]


def generator(seed: int, *names: str) -> np.random.Generator:
    """A separate generator for each use, so that one more data source changes no other interval."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
