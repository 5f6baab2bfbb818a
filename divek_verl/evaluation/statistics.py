"""Averages of the measures with intervals, and paired differences with tests.

New classes are a sample of classes, so the first interval of every number draws classes (cluster bootstrap): it says
how far the number would move with other classes. The second draws images: other pictures of the same classes. An
interval by image is too narrow for a claim about new classes (benchmarks/coverage.py). Neither holds another seed of
the training, except in a comparison of several runs. Micro averages weigh every image alike, macro averages every
class.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Literal, TypeVar

import numpy as np
from scipy.stats import binomtest, t
from statsmodels.stats.multitest import multipletests

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
from divek_verl.intervals import QUANTILES, RESAMPLES, ROUNDING, by_class, generator, interval, membership
from divek_verl.records import FailureReason

# Resamples at one time; bounds memory to CHUNK x images numbers.
CHUNK = 256

Side = tuple[str, str]
Arm = TypeVar("Arm")
Row = Literal["base", "new", "harmonic mean", "all"]


@dataclass(frozen=True)
class BootstrapEstimate:
    """Averages of several measures with their resamples, so that averages of averages have intervals too.

    ``value`` has the shape (micro and macro, measures); ``most`` too, as if all that is unjudged were right.
    ``classes`` and ``images`` are draws with the shape (micro and macro, resamples, measures); the first are stretched
    around the value. ``num_classes`` and ``num_images`` are those of the smallest part, ``total`` is all images.
    ``swaps``: see ``swapped``.
    """

    value: np.ndarray
    most: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    num_classes: int
    num_images: int
    total: int
    swaps: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def averages(self, measures: Sequence[str]) -> dict[str, Average]:
        """Measure -> its micro and macro average with intervals; ``measures`` names the last axis.

        A measure that an image lacks is left out.
        """
        by_class = interval(self.value, self.classes, self.num_classes, 0.0)
        by_image = interval(self.value, self.images, self.num_images, 0.0)
        columns = np.stack([self.value, *by_class, *by_image, self.most - self.value], axis=-1)
        names = ("value", "low", "high", "image_low", "image_high", "unjudged")
        estimates = [[Estimate(**dict(zip(names, row, strict=True))) for row in kind] for kind in columns.tolist()]
        named = zip(measures, *estimates, strict=True)
        return {name: Average(micro=micro, macro=macro) for name, micro, macro in named if not isnan(micro.value)}

    @staticmethod
    def combine(
        function: Callable[[Sequence[np.ndarray]], np.ndarray], parts: Sequence["BootstrapEstimate"]
    ) -> "BootstrapEstimate":
        """A function of several estimates, applied to each of their draws; the draws are independent of each other."""
        names = ("value", "most", "classes", "images", "swaps")
        return BootstrapEstimate(
            **{name: function([getattr(part, name) for part in parts]) for name in names},
            num_classes=min(part.num_classes for part in parts),
            num_images=min(part.num_images for part in parts),
            total=sum(part.total for part in parts),
        )


def bootstrap(
    values: np.ndarray,
    truths: Sequence[str],
    random: np.random.Generator,
    resamples: int,
    unjudged: np.ndarray | float = 0.0,
) -> BootstrapEstimate:
    """Estimate the averages of ``values``, shape (images, measures), from draws of as many classes, and of images.

    All measures share the draws. A class without an image in a draw of images is left out of its macro average.
    """
    size, member = len(values), membership(truths)
    images_of = member.sum(axis=0)
    value, classes = by_class(member.T @ values, images_of, random, resamples)
    most = by_class(member.T @ (values + unjudged), images_of, random, 0)[0]

    def by_image(counts: np.ndarray) -> np.ndarray:
        drawn = counts @ member
        sums = np.stack([(counts * column) @ member for column in values.T], axis=-1)
        means = np.divide(sums, drawn[..., None], out=np.zeros_like(sums), where=drawn[..., None] > 0)
        return np.stack([counts @ values / size, means.sum(axis=1) / (drawn > 0).sum(axis=1)[:, None]])

    shares = np.full(size, 1 / size)
    parts = [min(CHUNK, resamples - first) for first in range(0, resamples, CHUNK)]
    images = [by_image(random.multinomial(size, shares, size=part).astype(float)) for part in parts]
    return BootstrapEstimate(value, most, classes, np.concatenate(images, axis=1), len(images_of), size, size)


def swapped(totals: np.ndarray, random: np.random.Generator, resamples: int) -> np.ndarray:
    """Sums over the classes of ``totals``, shape (classes, 2, measures), where random classes change sides.

    If neither side is better, any class could as well have been the other way round. The first is the pair as it is;
    the shape is (1 + resamples, 2, measures).
    """
    change = random.integers(0, 2, (1 + resamples, len(totals))).astype(float)
    change[0] = 0
    return np.tensordot(1 - change, totals, 1) + np.tensordot(change, totals[:, ::-1], 1)


def mean(values: Iterable[float]) -> float:
    """The plain mean; 0.0 without values."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def harmonic(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The elementwise harmonic mean of two arrays; 0.0 where either is, or is below because it was stretched.

    nan where either is.
    """
    first, second = (np.maximum(part, 0) for part in parts)
    total = first + second
    return np.divide(2 * first * second, total, out=0 * total, where=total > 0)


def by_source(records: Iterable[EvaluationRecord]) -> dict[str, list[EvaluationRecord]]:
    """Data source -> its records, both sorted, so that no order of rows or replies changes a number."""
    found: dict[str, list[EvaluationRecord]] = {}
    for record in sorted(records, key=lambda record: record.key):
        found.setdefault(record.data_source, []).append(record)
    return found


def over_both_sides(
    parts: Mapping[Side, BootstrapEstimate],
) -> tuple[dict[str, BootstrapEstimate], dict[Row, tuple[int, BootstrapEstimate]]]:
    """The harmonic means of the data sets with base and new, and the rows over data sets if there are several.

    A row has the number of its data sets. As papers report them: the harmonic mean is that of the two means, and data
    sets whose classes are not divided have one row, "all".
    """
    combine = BootstrapEstimate.combine
    paired = sorted({name for name, _ in parts if {(name, "base"), (name, "new")} <= set(parts)})
    means = {name: combine(harmonic, [parts[name, "base"], parts[name, "new"]]) for name in paired}
    over: dict[Row, tuple[int, BootstrapEstimate]] = {}

    def mean_over(names: Sequence[str], side: str) -> BootstrapEstimate:
        return combine(lambda several: np.mean(several, axis=0), [parts[name, side] for name in names])

    if len(paired) > 1:
        base, new = mean_over(paired, "base"), mean_over(paired, "new")
        rows: dict[Row, BootstrapEstimate] = {"base": base, "new": new, "harmonic mean": combine(harmonic, [base, new])}
        over |= {row: (len(paired), each) for row, each in rows.items()}
    if len(whole := sorted(name for name, side in parts if side == "all")) > 1:
        over["all"] = len(whole), mean_over(whole, "all")
    return means, over


@dataclass(frozen=True)
class Summary:
    """The numbers of each data source, of each data set with base and new classes, and over these data sets."""

    groups: list[Group]
    harmonic_means: list[HarmonicMean]
    over_data_sets: list[OverDataSets]


def summarize(records: Iterable[EvaluationRecord], measures: Sequence[str], *, seed: int, resamples: int) -> Summary:
    """All averages of ``measures``, with intervals from ``resamples`` draws."""
    groups = []
    estimates: dict[Side, BootstrapEstimate] = {}
    for source, own in by_source(records).items():
        values = np.array([[getattr(record, name) for name in measures] for record in own], dtype=float)
        unjudged = np.array([[record.unjudged.get(name, 0.0) for name in measures] for record in own])
        truths = [record.truth for record in own]
        estimate = bootstrap(values, truths, generator(seed, source), resamples, unjudged)
        estimates[prompts.parse_data_source(source)] = estimate
        groups.append(_group(source, own, estimate.averages(measures)))
    means, over = over_both_sides(estimates)
    return Summary(
        groups,
        [HarmonicMean(dataset=name, averages=mean.averages(measures)) for name, mean in means.items()],
        [
            OverDataSets(row=row, data_sets=count, averages=each.averages(measures))
            for row, (count, each) in over.items()
        ],
    )


def _group(source: str, records: list[EvaluationRecord], averages: dict[str, Average]) -> Group:
    dataset, side = prompts.parse_data_source(source)
    classes: dict[str, list[EvaluationRecord]] = {}
    for record in sorted(records, key=lambda record: record.truth):
        classes.setdefault(record.truth, []).append(record)
    per_class = []
    for name, own in classes.items():
        means = {measure: mean(getattr(record, measure) for record in own) for measure in averages}
        unjudged = {measure: mean(record.unjudged.get(measure, 0.0) for record in own) for measure in averages}
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
    before: Sequence[Sequence[EvaluationRecord]],
    after: Sequence[Sequence[EvaluationRecord]],
    measures: Sequence[tuple[str, str]],
    *,
    seed: int,
    resamples: int,
) -> list[Difference]:
    """Compare each pair of measures (before, after) on the images that all runs have; one table, for Holm's correction.

    Each side is one run or several seeds of a run. Pairs of equal names compare runs; pairs of different names compare
    two measures of one run. Rows are the data sources, the harmonic means, and the averages over data sets; there is
    none where an image lacks the measure.
    """
    if not measures:
        return []
    runs = [{record.key: record for record in run} for run in (*before, *after)]
    shared = set.intersection(*map(set, runs))
    names = [*[[first for first, _ in measures]] * len(before), *[[second for _, second in measures]] * len(after)]
    estimates: dict[Side, BootstrapEstimate] = {}
    tests: dict[tuple[str, int], McNemar] = {}
    sources = by_source(runs[0][key] for key in shared)
    for source, own in sources.items():
        of_runs = [[run[record.key] for record in own] for run in runs]
        found = zip(of_runs, names, strict=True)
        marks = [[[(getattr(r, n), r.unjudged.get(n, 0.0)) for n in listed] for r in run] for run, listed in found]
        # From (runs, images, measures, value and unjudged) to (images, runs, measures).
        values, unjudged = np.array(marks, dtype=float).transpose(3, 1, 0, 2)
        truths, flat, random = [record.truth for record in own], (len(own), -1), generator(seed, source)
        estimate = bootstrap(values.reshape(flat), truths, random, resamples, unjudged.reshape(flat))
        halves = values[:, : len(before)], values[:, len(before) :]
        pair = np.stack([half.mean(axis=1) for half in halves], axis=1)
        swaps = swapped(np.tensordot(membership(truths).T, pair, 1) / len(own), random, resamples)
        estimates[prompts.parse_data_source(source)] = replace(estimate, swaps=swaps)
        for column, (_, second) in enumerate(measures):
            if len(runs) == 2 and second != "one_step" and set(values[..., column].flat) <= {0.0, 1.0}:
                tests[source, column] = mcnemar(*values[..., column].T)
    means, over = over_both_sides(estimates)
    rows = dict(zip(sources, estimates.values(), strict=True))
    rows |= {f"{name}, harmonic mean": each for name, each in means.items()}
    rows |= {f"{count} data sets, {row}": each for row, (count, each) in over.items()}
    differing = []
    for label, estimate in rows.items():
        shape = (len(runs), len(measures))
        value, most = estimate.value[0].reshape(shape), estimate.most[0].reshape(shape)
        old, new = value[: len(before)], value[len(before) :]
        moved = np.abs(estimate.swaps[:, 1] - estimate.swaps[:, 0])
        p_values = (moved >= moved[0] - ROUNDING).mean(axis=0)
        draws = (estimate.classes[0].reshape(-1, *shape), estimate.images[0].reshape(-1, *shape))
        low, high, of_training = change(value, draws[0], len(before), estimate.num_classes)
        image_low, image_high, _ = change(value, draws[1], len(before), estimate.num_images)
        # Exchanged classes do not show what another seed of the training would change.
        p_values = np.maximum(p_values, of_training)
        for column, (first, second) in enumerate(measures):
            if np.isnan(value[:, column]).any():  # an image of either side lacks the measure
                continue
            undecided = most[:, column] - value[:, column]
            differing.append(
                Difference(
                    measure=second,
                    baseline=first,
                    data_source=label,
                    images=estimate.total,
                    before=old[:, column].mean(),
                    after=new[:, column].mean(),
                    before_spread=old[:, column].std(ddof=1) if len(before) > 1 else 0.0,
                    after_spread=new[:, column].std(ddof=1) if len(after) > 1 else 0.0,
                    # Neither right nor wrong: a reader has to see how much of either side is undecided.
                    before_unjudged=undecided[: len(before)].mean(),
                    after_unjudged=undecided[len(before) :].mean(),
                    difference=new[:, column].mean() - old[:, column].mean(),
                    low=low[column],
                    high=high[column],
                    image_low=image_low[column],
                    image_high=image_high[column],
                    p_value=p_values[column],
                    mcnemar=tests.get((label, column)),
                )
            )
    return with_holm(differing)


def gains_over(
    runs: Mapping[Arm, Sequence[Sequence[EvaluationRecord]]], baselines: Mapping[Arm, Arm], measures: Sequence[str]
) -> dict[Arm, list[Difference]]:
    """The paired gains of each arm over its baseline by the same measures, with Holm's correction for all of them.

    An arm is one run or several seeds. The rows are the widest there are: over data sets, else harmonic means, else
    single data sources. An arm that shares no image with its baseline is left out.
    """
    found: dict[Arm, list[Difference]] = {}
    for arm, baseline in baselines.items():
        own, before = runs[arm], runs.get(baseline, ())
        if before and set.intersection(*({each.key for each in run} for run in (*own, *before))):
            rows = differences(before, own, [(name, name) for name in measures], seed=0, resamples=RESAMPLES)
            parts = (" data sets, ", ", harmonic mean", "")
            widest = ([each for each in rows if part in each.data_source] for part in parts)
            found[arm] = next(each for each in widest if each)
    corrected = iter(with_holm([each for rows in found.values() for each in rows]))
    return {arm: [next(corrected) for _ in rows] for arm, rows in found.items()}


def with_holm(table: Sequence[Difference]) -> list[Difference]:
    """The rows of a table with their p-values after Holm's correction for all of them."""
    corrected = multipletests([each.p_value for each in table], method="holm")[1] if table else []
    return [each.model_copy(update={"p_holm": float(p)}) for each, p in zip(table, corrected, strict=True)]


def change(value: np.ndarray, draws: np.ndarray, before: int, units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ends of the interval of after minus before, and a p-value that holds training's variance (0 for single runs).

    Of several seeds it is Student's t: the variance of their mean beyond that of the draws is added, with as few
    degrees of freedom as there are seeds (Welch-Satterthwaite).

    Args:
        value: of the runs, shape (runs, measures); the first ``before`` are one side.
        draws: of the same, shape (resamples, runs, measures).
        units: the number of classes or images that are drawn.
    """
    middle = value[before:].mean(axis=0) - value[:before].mean(axis=0)
    drawn = draws[:, before:].mean(axis=1) - draws[:, :before].mean(axis=1)
    low, high = interval(middle, drawn, units, -1.0)
    variance, per_freedom = drawn.var(axis=0), np.zeros(len(middle))
    for side in (slice(before), slice(before, None)):
        runs = len(value[side])
        if runs > 1:
            apart = draws[:, side] - draws[:, side].mean(axis=1, keepdims=True)
            known = apart.var(axis=0).sum(axis=0) / (runs - 1)
            added = np.maximum(0, value[side].var(axis=0, ddof=1) - known) / runs
            variance, per_freedom = variance + added, per_freedom + added**2 / (runs - 1)
    if len(value) == 2:
        return low, high, np.zeros(len(middle))
    error = np.maximum(np.sqrt(variance), ROUNDING)
    freedom = np.divide(variance**2, per_freedom, out=np.full(len(middle), np.inf), where=per_freedom > 0)
    reach = t.ppf(QUANTILES[1], freedom) * error
    ends = np.minimum(low, middle - reach), np.maximum(high, middle + reach)
    return *np.clip(ends, -1, 1), 2 * t.sf(np.abs(middle) / error, freedom)


def mcnemar(before: np.ndarray, after: np.ndarray) -> McNemar:
    """The exact two-sided test of pairs of 0.0 and 1.0: of the changed pairs, is either direction more frequent?"""
    gained, lost = int((after > before).sum()), int((after < before).sum())
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return McNemar(gained=gained, lost=lost, p_value=float(p_value))
