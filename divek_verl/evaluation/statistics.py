"""Averages of the measures with bootstrap intervals, and paired differences with McNemar's exact test.

The bootstrap draws the images again: an interval says how far the number would move with other pictures of the same
kind, not with another seed of the sampler. Micro averages weigh every image alike, macro averages every class.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from divek_verl import prompts
from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.evaluation.results import (
    Average,
    ClassScore,
    Difference,
    Estimate,
    Group,
    HarmonicMean,
    McNemar,
    OverDataSets,
)
from divek_verl.records import FailureReason

# The 95 % interval.
QUANTILES = (0.025, 0.975)
# Resamples at one time; bounds memory to CHUNK x images numbers.
CHUNK = 256


@dataclass(frozen=True)
class BootstrapEstimate:
    """Averages of several measures with their resamples, so that averages of averages have intervals too.

    ``value`` has the shape (micro and macro, measures); ``most`` too, as if all that is unjudged were right. ``draws``
    has the shape (micro and macro, resamples, measures).
    """

    value: np.ndarray
    most: np.ndarray
    draws: np.ndarray

    def averages(self, measures: Sequence[str]) -> dict[str, Average]:
        """Measure -> its micro and macro average with intervals; ``measures`` names the last axis."""
        low, high = np.quantile(self.draws, QUANTILES, axis=1)
        columns = np.stack([self.value, low, high, self.most - self.value], axis=-1)
        estimates = [
            [Estimate(value=value, low=low, high=high, unjudged=unjudged) for value, low, high, unjudged in kind]
            for kind in columns.tolist()
        ]
        named = zip(measures, *estimates, strict=True)
        return {name: Average(micro=micro, macro=macro) for name, micro, macro in named}

    @staticmethod
    def combine(
        function: Callable[[Sequence[np.ndarray]], np.ndarray], parts: Sequence["BootstrapEstimate"]
    ) -> "BootstrapEstimate":
        """A function of several estimates, applied to each of their draws; the draws are independent of each other."""
        names = ("value", "most", "draws")
        return BootstrapEstimate(*(function([getattr(part, name) for part in parts]) for name in names))


def bootstrap(
    values: np.ndarray,
    truths: Sequence[str],
    random: np.random.Generator,
    resamples: int,
    unjudged: np.ndarray | float = 0.0,
) -> BootstrapEstimate:
    """Estimate the averages of ``values``, shape (images, measures), from draws of as many images with replacement.

    All measures share the draws. A class without an image in a draw is left out of that draw's macro average.
    """
    size = len(values)
    order = sorted(range(size), key=lambda index: truths[index])
    starts = [place for place, index in enumerate(order) if place == 0 or truths[index] != truths[order[place - 1]]]

    def averages(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
        drawn = np.add.reduceat(counts, starts, axis=1)
        present = drawn > 0
        sums = np.stack([np.add.reduceat(counts * column, starts, axis=1) for column in values.T], axis=-1)
        means = np.divide(sums, drawn[..., None], out=np.zeros_like(sums), where=present[..., None])
        return np.stack([counts @ values / size, means.sum(axis=1) / present.sum(axis=1)[:, None]])

    values, most = values[order], (values + unjudged)[order]
    whole = np.ones((1, size))
    shares = np.full(size, 1 / size)
    parts = [min(CHUNK, resamples - first) for first in range(0, resamples, CHUNK)]
    draws = [averages(random.multinomial(size, shares, size=part).astype(float), values) for part in parts]
    return BootstrapEstimate(averages(whole, values)[:, 0], averages(whole, most)[:, 0], np.concatenate(draws, axis=1))


def generator(seed: int, *names: str) -> np.random.Generator:
    """A separate generator for each use, so that one more data source changes no other interval."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def mean(values: Iterable[float]) -> float:
    """The plain mean; 0.0 without values."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def harmonic(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The elementwise harmonic mean of two arrays; 0.0 where either is."""
    first, second = parts
    total = first + second
    return np.divide(2 * first * second, total, out=np.zeros_like(total), where=total > 0)


def by_source(records: Iterable[EvaluationRecord]) -> dict[str, list[EvaluationRecord]]:
    """Data source -> its records, both sorted, so that no order of rows or replies changes a number."""
    found: dict[str, list[EvaluationRecord]] = {}
    for record in sorted(records, key=lambda record: record.key):
        found.setdefault(record.data_source, []).append(record)
    return found


@dataclass(frozen=True)
class Summary:
    """The numbers of each data source, of each data set with base and new classes, and over these data sets."""

    groups: list[Group]
    harmonic_means: list[HarmonicMean]
    over_data_sets: list[OverDataSets]


def summarize(records: Iterable[EvaluationRecord], measures: Sequence[str], *, seed: int, resamples: int) -> Summary:
    """All averages of ``measures``, with intervals from ``resamples`` draws."""
    groups = []
    estimates: dict[tuple[str, str], BootstrapEstimate] = {}
    for source, own in by_source(records).items():
        values = np.array([[getattr(record, name) for name in measures] for record in own], dtype=float)
        unjudged = np.array([[record.unjudged.get(name, 0.0) for name in measures] for record in own])
        truths = [record.truth for record in own]
        estimate = bootstrap(values, truths, generator(seed, source), resamples, unjudged)
        estimates[prompts.parse_data_source(source)] = estimate
        groups.append(_group(source, own, measures, estimate.averages(measures)))
    paired = sorted({name for name, _ in estimates if {(name, "base"), (name, "new")} <= set(estimates)})
    harmonic_means = []
    for name in paired:
        both = BootstrapEstimate.combine(harmonic, [estimates[name, "base"], estimates[name, "new"]])
        harmonic_means.append(HarmonicMean(dataset=name, averages=both.averages(measures)))
    over_data_sets = []
    if len(paired) > 1:
        # As papers report several data sets: the harmonic mean is that of the two means.
        base, new = (
            BootstrapEstimate.combine(lambda parts: np.mean(parts, axis=0), [estimates[name, side] for name in paired])
            for side in ("base", "new")
        )
        rows: list[tuple[Literal["base", "new", "harmonic mean"], BootstrapEstimate]] = [
            ("base", base),
            ("new", new),
            ("harmonic mean", BootstrapEstimate.combine(harmonic, [base, new])),
        ]
        over_data_sets = [
            OverDataSets(row=row, data_sets=len(paired), averages=estimate.averages(measures)) for row, estimate in rows
        ]
    return Summary(groups, harmonic_means, over_data_sets)


def _group(
    source: str, records: list[EvaluationRecord], measures: Sequence[str], averages: dict[str, Average]
) -> Group:
    dataset, side = prompts.parse_data_source(source)
    classes: dict[str, list[EvaluationRecord]] = {}
    for record in sorted(records, key=lambda record: record.truth):
        classes.setdefault(record.truth, []).append(record)
    per_class = []
    for name, own in classes.items():
        means = {measure: mean(getattr(record, measure) for record in own) for measure in measures}
        unjudged = {measure: mean(record.unjudged.get(measure, 0.0) for record in own) for measure in measures}
        undecided = {measure: share for measure, share in unjudged.items() if share}
        per_class.append(ClassScore(name=name, images=len(own), means=means, unjudged=undecided))
    failures = Counter(f"{record.failed_step}: {record.failure}" for record in records if record.failure is not None)
    failures.update(f"greedy answer: {record.greedy_failure}" for record in records if record.greedy_failure)
    sample_failures: Counter[str] = Counter()
    for record in records:
        if record.sample_failure is not None:
            sample_failures[record.sample_failure] += record.failed_samples
        if record.surplus_samples:
            sample_failures[FailureReason.MORE_THAN_ASKED.value] += record.surplus_samples
    return Group(
        data_source=source,
        dataset=dataset,
        side=side,
        images=len(records),
        classes=len(classes),
        averages=averages,
        unanswered=mean(record.no_answer / record.num_samples for record in records),
        unknown=mean(sum(record.unknown.values()) / record.num_samples for record in records),
        failed=mean(record.failed_samples / record.num_samples for record in records),
        truncated=mean(record.truncated / record.num_samples for record in records),
        mean_options=mean(len(record.options) for record in records if record.options),
        input_tokens_per_image=mean(record.input_tokens for record in records),
        output_tokens_per_image=mean(record.output_tokens for record in records),
        right_by_filler=mean(record.two_step * (record.chosen not in record.votes) for record in records),
        failures=dict(sorted(failures.items())),
        sample_failures=dict(sorted(sample_failures.items())),
        per_class=per_class,
    )


def differences(
    before: Sequence[EvaluationRecord],
    after: Sequence[EvaluationRecord],
    measures: Sequence[tuple[str, str]],
    *,
    seed: int,
    resamples: int,
) -> list[Difference]:
    """Compare each pair of measures (before, after) on the images that both have, per data source.

    Pairs of equal names compare two runs; pairs of different names compare two measures of one run.
    """
    earlier = {record.key: record for record in before}
    found = []
    for source, records in by_source(record for record in after if record.key in earlier).items():
        paired = [earlier[record.key] for record in records]
        for first, second in measures:
            old = np.array([float(getattr(record, first)) for record in paired])
            new = np.array([float(getattr(record, second)) for record in records])
            random = generator(seed, source, first, second)
            estimate = bootstrap((new - old)[:, None], [""] * len(records), random, resamples)
            difference = estimate.averages([second])[second].micro
            yes_or_no = second != "one_step" and set(old) | set(new) <= {0.0, 1.0}
            found.append(
                Difference(
                    measure=second,
                    baseline=first,
                    data_source=source,
                    images=len(records),
                    before=mean(old.tolist()),
                    after=mean(new.tolist()),
                    # Neither right nor wrong: a reader has to see how much of either side is undecided.
                    before_unjudged=mean(record.unjudged.get(first, 0.0) for record in paired),
                    after_unjudged=mean(record.unjudged.get(second, 0.0) for record in records),
                    difference=difference.value,
                    low=difference.low,
                    high=difference.high,
                    mcnemar=mcnemar(old, new) if yes_or_no else None,
                )
            )
    return found


def mcnemar(before: np.ndarray, after: np.ndarray) -> McNemar:
    """The exact two-sided test of pairs of 0.0 and 1.0: of the changed pairs, is either direction more frequent?"""
    gained, lost = int((after > before).sum()), int((after < before).sum())
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return McNemar(gained=gained, lost=lost, p_value=float(p_value))
