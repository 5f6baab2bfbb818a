"""Averages of the measures with bootstrap intervals: per data source, and the harmonic mean of base and new.

The images are what is drawn again: an interval says how much the number would move with other pictures of the same
kind, not with another seed of the sampler. Micro averages weigh every image alike, macro averages every class.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from divek_verl import prompts
from divek_verl.evaluation.results import Average, ClassScore, Estimate, Group, HarmonicMean, OverDataSets
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


@dataclass(frozen=True)
class Drawn:
    """An average with the draws that its intervals come from, so that averages of averages have intervals too."""

    average: Average
    draws: Draws


def by_source(visits: Iterable[EvaluatedVisit]) -> dict[str, list[EvaluatedVisit]]:
    """Data source -> its visits, both sorted, so that no order of rows or replies changes a number."""
    found: dict[str, list[EvaluatedVisit]] = {}
    for visit in sorted(visits, key=lambda visit: visit.key):
        found.setdefault(visit.data_source, []).append(visit)
    return found


@dataclass(frozen=True)
class Summary:
    """The numbers of every data source, of every data set with base and new classes, and over such data sets."""

    groups: list[Group]
    harmonic_means: list[HarmonicMean]
    over_data_sets: list[OverDataSets]


def summarize(visits: Iterable[EvaluatedVisit], measures: Sequence[str], *, seed: int, resamples: int) -> Summary:
    """All averages of ``measures``, with intervals from ``resamples`` draws."""
    groups = []
    drawn: dict[tuple[str, str], dict[str, Drawn]] = {}
    for source, own in by_source(visits).items():
        draws = draw(own, measures, generator(seed, source), resamples)
        group = _group(source, own, measures, draws)
        groups.append(group)
        drawn[group.dataset, group.side] = {name: Drawn(group.averages[name], draws[name]) for name in measures}
    paired = sorted({dataset for dataset, _ in drawn if all((dataset, side) in drawn for side in SIDES)})
    means = {name: {measure: _harmonic(*_sides(drawn, name, measure)) for measure in measures} for name in paired}
    harmonic_means = [HarmonicMean(dataset=name, averages=_averages(means[name])) for name in paired]
    return Summary(groups, harmonic_means, _over_data_sets(drawn, paired, measures))


def _sides(drawn: Mapping[tuple[str, str], Mapping[str, Drawn]], dataset: str, measure: str) -> list[Drawn]:
    return [drawn[dataset, side][measure] for side in SIDES]


def _averages(drawn: Mapping[str, Drawn]) -> dict[str, Average]:
    return {measure: each.average for measure, each in drawn.items()}


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
        sample_failures=_sample_failures(visits),
        per_class=[_class_score(name, own, measures) for name, own in classes.items()],
    )


def _reason(visit: EvaluatedVisit) -> str:
    return f"{visit.failed_step}: {visit.failure}"


def _sample_failures(visits: Iterable[EvaluatedVisit]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for visit in visits:
        if visit.sample_failure is not None:
            counted[visit.sample_failure] += visit.failed_samples
    return dict(sorted(counted.items()))


def _by_class(visits: Iterable[EvaluatedVisit]) -> dict[str, list[EvaluatedVisit]]:
    classes: dict[str, list[EvaluatedVisit]] = {}
    for visit in sorted(visits, key=lambda visit: (visit.truth, visit.key)):
        classes.setdefault(visit.truth, []).append(visit)
    return classes


def _class_score(name: str, visits: list[EvaluatedVisit], measures: Sequence[str]) -> ClassScore:
    means = {measure: mean(getattr(visit, measure) for visit in visits) for measure in measures}
    unjudged = {measure: mean(visit.unjudged.get(measure, 0.0) for visit in visits) for measure in measures}
    left_open = {measure: share for measure, share in unjudged.items() if share}
    return ClassScore(name=name, images=len(visits), means=means, unjudged=left_open)


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


def _harmonic(first: Drawn, second: Drawn) -> Drawn:
    return _combine(lambda values: harmonic(*values), [first, second])


def _combine(of: Callable[[Sequence[float]], float], parts: Sequence[Drawn]) -> Drawn:
    """A number made of several averages, and the same of each of their draws, which are independent of each other."""
    estimates, draws = {}, {}
    for kind in ("micro", "macro"):
        own = [getattr(part.average, kind) for part in parts]
        value, most = of([each.value for each in own]), of([each.value + each.unjudged for each in own])
        drawn = zip(*(getattr(part.draws, kind) for part in parts), strict=True)
        draws[kind] = np.array([of(values) for values in drawn])
        estimates[kind] = estimate(value, draws[kind], most - value)
    return Drawn(Average(**estimates), Draws(**draws))


def _over_data_sets(
    drawn: Mapping[tuple[str, str], Mapping[str, Drawn]], datasets: Sequence[str], measures: Sequence[str]
) -> list[OverDataSets]:
    """As papers report several data sets: the harmonic mean is that of the two means."""
    if len(datasets) < 2:
        return []
    rows: dict[str, dict[str, Drawn]] = {
        side: {measure: _combine(mean, [drawn[name, side][measure] for name in datasets]) for measure in measures}
        for side in SIDES
    }
    rows["harmonic mean"] = {measure: _harmonic(*(rows[side][measure] for side in SIDES)) for measure in measures}
    return [
        OverDataSets(row=row, data_sets=len(datasets), averages=_averages(found))  # type: ignore[arg-type]
        for row, found in rows.items()
    ]
