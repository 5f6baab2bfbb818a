"""Averages of the measures with bootstrap intervals: per data source, and the harmonic mean of base and new.

The images are what is drawn again: an interval says how much the number would move with other pictures of the same
kind, not with another seed of the sampler. Micro averages weigh every image alike, macro averages every class.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from divek_verl import prompts
from divek_verl.evaluation.results import Average, ClassScore, Estimate, Group, HarmonicMean
from divek_verl.evaluation.visits import EvaluatedVisit

LEVEL = 0.95
# Resamples at one time: bounds memory to CHUNK x images numbers.
CHUNK = 256
SIDES = ("base", "new")


@dataclass(frozen=True)
class Draws:
    """A measure of one group in each resample; shape (resamples,)."""

    micro: np.ndarray
    macro: np.ndarray


def by_source(visits: Iterable[EvaluatedVisit]) -> dict[str, list[EvaluatedVisit]]:
    """Data source -> its visits, both sorted, so that no order of rows or replies changes a number."""
    found: dict[str, list[EvaluatedVisit]] = {}
    for visit in sorted(visits, key=lambda visit: visit.key):
        found.setdefault(visit.data_source, []).append(visit)
    return found


def summarize(
    visits: Iterable[EvaluatedVisit], measures: Sequence[str], *, seed: int, resamples: int
) -> tuple[list[Group], list[HarmonicMean]]:
    """The numbers of every data source, and of every data set that has base and new classes."""
    groups, draws = [], {}
    for source, own in by_source(visits).items():
        drawn = draw(own, measures, generator(seed, source), resamples)
        draws[source] = drawn
        groups.append(_group(source, own, measures, drawn))
    return groups, _harmonic_means(groups, draws, measures)


def generator(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for each use: another data source more or less changes no interval."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def values_of(visits: Sequence[EvaluatedVisit], measures: Sequence[str]) -> np.ndarray:
    """Shape (images, measures)."""
    return np.array([[getattr(visit, name) for name in measures] for visit in visits], dtype=float)


def draw(
    visits: Sequence[EvaluatedVisit], measures: Sequence[str], random: np.random.Generator, resamples: int
) -> dict[str, Draws]:
    """Every measure in ``resamples`` draws of as many images with replacement; the measures share the draws.

    A class that a draw holds no image of is left out of that draw's macro average.
    """
    ordered = sorted(visits, key=lambda visit: (visit.truth, visit.key))
    values = values_of(ordered, measures)
    truths = [visit.truth for visit in ordered]
    starts = [index for index, truth in enumerate(truths) if index == 0 or truth != truths[index - 1]]
    micro, macro = [], []
    for first in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - first)
        counts = random.multinomial(len(ordered), np.full(len(ordered), 1 / len(ordered)), size=size).astype(float)
        micro.append(counts @ values / len(ordered))
        macro.append(_macro(counts, values, starts))
    micros, macros = np.concatenate(micro), np.concatenate(macro)
    return {name: Draws(micros[:, index], macros[:, index]) for index, name in enumerate(measures)}


def _macro(counts: np.ndarray, values: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Mean over the classes of the mean in each; shape (draws, measures). Images of a class stand together."""
    drawn = np.add.reduceat(counts, starts, axis=1)
    present = drawn > 0
    means = [
        np.divide(np.add.reduceat(counts * column, starts, axis=1), drawn, out=np.zeros_like(drawn), where=present)
        for column in values.T
    ]
    return np.stack([mean.sum(axis=1) / present.sum(axis=1) for mean in means], axis=1)


def estimate(value: float, draws: np.ndarray, unjudged: float = 0.0) -> Estimate:
    """A value with its percentile interval."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high), unjudged=unjudged)


def mean(values: Iterable[float]) -> float:
    """The plain mean; 0.0 of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def harmonic(first: float, second: float) -> float:
    """The harmonic mean; 0.0 where either is."""
    return 2 * first * second / (first + second) if first > 0 and second > 0 else 0.0


def _group(source: str, visits: list[EvaluatedVisit], measures: Sequence[str], draws: Mapping[str, Draws]) -> Group:
    dataset, side = prompts.parse_data_source(source)
    classes = _by_class(visits)
    return Group(
        data_source=source,
        dataset=dataset,
        side=side,
        images=len(visits),
        classes=len(classes),
        averages={name: _average(name, visits, classes, draws[name]) for name in measures},
        unanswered=mean(visit.silent / visit.num_samples for visit in visits),
        unknown=mean(sum(visit.unknown.values()) / visit.num_samples for visit in visits),
        failed=mean(visit.failed_samples / visit.num_samples for visit in visits),
        truncated=mean(visit.truncated / visit.num_samples for visit in visits),
        mean_options=mean(len(visit.options) for visit in visits if visit.options),
        input_tokens_per_image=mean(visit.input_tokens for visit in visits),
        output_tokens_per_image=mean(visit.output_tokens for visit in visits),
        right_by_filler=mean(visit.two_step * (visit.chosen not in visit.votes) for visit in visits),
        failures=dict(sorted(Counter(_reason(visit) for visit in visits if visit.failure is not None).items())),
        per_class=[_class_score(name, own, measures) for name, own in classes.items()],
    )


def _reason(visit: EvaluatedVisit) -> str:
    return f"{visit.failed_step}: {visit.failure}"


def _by_class(visits: Iterable[EvaluatedVisit]) -> dict[str, list[EvaluatedVisit]]:
    classes: dict[str, list[EvaluatedVisit]] = {}
    for visit in sorted(visits, key=lambda visit: (visit.truth, visit.key)):
        classes.setdefault(visit.truth, []).append(visit)
    return classes


def _class_score(name: str, visits: list[EvaluatedVisit], measures: Sequence[str]) -> ClassScore:
    means = {measure: mean(getattr(visit, measure) for visit in visits) for measure in measures}
    return ClassScore(name=name, images=len(visits), means=means)


def _average(
    measure: str, visits: list[EvaluatedVisit], classes: Mapping[str, list[EvaluatedVisit]], draws: Draws
) -> Average:
    def value(own: Iterable[EvaluatedVisit]) -> float:
        return mean(getattr(visit, measure) for visit in own)

    def unjudged(own: Iterable[EvaluatedVisit]) -> float:
        return mean(visit.unjudged.get(measure, 0.0) for visit in own)

    return Average(
        micro=estimate(value(visits), draws.micro, unjudged(visits)),
        macro=estimate(mean(map(value, classes.values())), draws.macro, mean(map(unjudged, classes.values()))),
    )


def _harmonic_means(
    groups: Sequence[Group], draws: Mapping[str, Mapping[str, Draws]], measures: Sequence[str]
) -> list[HarmonicMean]:
    found = []
    sides = {(group.dataset, group.side): group for group in groups}
    for dataset in sorted({group.dataset for group in groups}):
        base, new = (sides.get((dataset, side)) for side in SIDES)
        if base is not None and new is not None:
            averages = {name: _harmonic_mean(name, base, new, draws) for name in measures}
            found.append(HarmonicMean(dataset=dataset, averages=averages))
    return found


def _harmonic_mean(measure: str, base: Group, new: Group, draws: Mapping[str, Mapping[str, Draws]]) -> Average:
    estimates = {}
    for kind in ("micro", "macro"):
        first, second = (getattr(group.averages[measure], kind) for group in (base, new))
        drawn = [getattr(draws[group.data_source][measure], kind) for group in (base, new)]
        value = harmonic(first.value, second.value)
        most = harmonic(first.value + first.unjudged, second.value + second.unjudged)
        each = np.array([harmonic(*pair) for pair in zip(*drawn, strict=True)])
        estimates[kind] = estimate(value, each, most - value)
    return Average(**estimates)
