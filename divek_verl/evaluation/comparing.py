"""Two measures of the same images: paired differences with intervals, and McNemar's exact test."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from divek_verl.evaluation.results import Difference, McNemar
from divek_verl.evaluation.statistics import CHUNK, by_source, estimate, generator, mean
from divek_verl.evaluation.visits import EvaluatedVisit


def mcnemar(before: Sequence[float], after: Sequence[float]) -> McNemar:
    """The exact two-sided test of pairs of 0.0 and 1.0: of the changed pairs, is either direction more frequent?"""
    gained = sum(second > first for first, second in zip(before, after, strict=True))
    lost = sum(second < first for first, second in zip(before, after, strict=True))
    changed = gained + lost
    # Whole numbers up to the last division: exact for any number of images. Each coefficient from the one before.
    coefficients = accumulate(range(min(gained, lost)), lambda c, i: c * (changed - i) // (i + 1), initial=1)
    tail = sum(coefficients)
    return McNemar(gained=gained, lost=lost, p_value=min(1.0, 2 * tail / 2**changed))


def differences(
    before: Sequence[EvaluatedVisit],
    after: Sequence[EvaluatedVisit],
    measures: Sequence[tuple[str, str]],
    *,
    seed: int,
    resamples: int,
) -> list[Difference]:
    """Each pair of measures (before, after) on the images of both, per data source.

    ``measures`` are pairs of names, equal ones to compare two runs, different ones to compare two measures of a run.
    """
    earlier = {visit.key: visit for visit in before}
    found = []
    for source, visits in by_source(visit for visit in after if visit.key in earlier).items():
        for first, second in measures:
            old = [float(getattr(earlier[visit.key], first)) for visit in visits]
            new = [float(getattr(visit, second)) for visit in visits]
            random = generator(seed, source, first, second)
            compared = _difference(second, source, old, new, random, resamples)
            # Not right and not wrong: a reader has to see how much of either side is open.
            compared.before_unjudged = mean(earlier[visit.key].unjudged.get(first, 0.0) for visit in visits)
            compared.after_unjudged = mean(visit.unjudged.get(second, 0.0) for visit in visits)
            found.append(compared)
    return found


def _difference(
    measure: str,
    source: str,
    before: list[float],
    after: list[float],
    random: np.random.Generator,
    resamples: int,
) -> Difference:
    paired = np.array(after) - np.array(before)
    draws = _draws(paired, random, resamples)
    estimated = estimate(mean(after) - mean(before), draws)
    yes_or_no = set(before) | set(after) <= {0.0, 1.0}
    return Difference(
        measure=measure,
        data_source=source,
        images=len(paired),
        before=mean(before),
        after=mean(after),
        difference=estimated.value,
        low=estimated.low,
        high=estimated.high,
        mcnemar=mcnemar(before, after) if yes_or_no and measure != "one_step" else None,
    )


def _draws(paired: np.ndarray, random: np.random.Generator, resamples: int) -> np.ndarray:
    """The mean difference in each resample; shape (resamples,)."""
    size = len(paired)
    shares = np.full(size, 1 / size)
    parts = [min(CHUNK, resamples - first) for first in range(0, resamples, CHUNK)]
    return np.concatenate([random.multinomial(size, shares, size=part) @ paired / size for part in parts])
