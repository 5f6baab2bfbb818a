"""Averages, intervals and paired tests against tables worked out by hand, and what no order may change."""

import random
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from divek_verl.evaluation.measuring import measure
from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.evaluation.results import Average, Difference, Group
from divek_verl.evaluation.statistics import bootstrap, differences, harmonic, mcnemar, summarize
from divek_verl.intervals import generator
from divek_verl.measures import MEASURES

from .fabricated_set import record

NEW = "divek/flags/new"

# id, truth, votes, unknown, unanswered, options, chosen; K = 4
TABLE = [
    ("a", "Chad", {"Chad": 3, "Romania": 1}, {}, 0, ("Chad", "Romania"), "Chad"),
    ("b", "Chad", {"Romania": 2, "Chad": 1}, {"X": 1}, 0, ("Chad", "Romania"), "Romania"),
    ("c", "Chad", {"Romania": 1}, {}, 3, ("Romania", "Andorra"), "Romania"),
    ("d", "Romania", {"Romania": 4}, {}, 0, ("Romania", "Chad"), "Romania"),
    ("e", "Andorra", {}, {}, 4, ("Andorra", "Chad"), "Andorra"),
]
NEW_TABLE = [
    ("f", "Moldova", {"Moldova": 2, "Monaco": 2}, {}, 0, ("Moldova", "Monaco"), "Moldova"),
    ("g", "Monaco", {"Moldova": 4}, {}, 0, ("Moldova", "Indonesia"), "Moldova"),
]


def rows(table: list, source: str = "divek/flags/base") -> list[EvaluationRecord]:
    made = [
        record(name, source=source, truth=truth, votes=v, unknown=u, unanswered=n, options=o, chosen=c)
        for name, truth, v, u, n, o, c in table
    ]
    for each in made:
        each.input_tokens, each.output_tokens = 100, 20
        measure(each)
    return made


def failed(name: str, truth: str) -> EvaluationRecord:
    made = record(name, truth=truth, failure="unreadable_image")
    measure(made)
    return made


def groups(records: list[EvaluationRecord]) -> list[Group]:
    return summarize(records, list(MEASURES), seed=0, resamples=200).groups


def test_every_number_of_a_group_is_that_of_the_table() -> None:
    (group,) = groups([*rows(TABLE), failed("z", "Romania")])
    # two_step a 1, b 0, c 0, d 1, e 1 (a filler), z 0; classes: Chad 1/3, Romania 1/2, Andorra 1
    expected = {
        "two_step": (3 / 6, (1 / 3 + 1 / 2 + 1) / 3),
        "one_step_greedy": (0.0, 0.0),
        "one_step": ((3 / 4 + 1 / 4 + 0 + 1 + 0 + 0) / 6, ((3 / 4 + 1 / 4) / 3 + 1 / 2 + 0) / 3),
        "consistency": (2 / 6, (1 / 3 + 1 / 2 + 0) / 3),
        "recall": (3 / 6, (2 / 3 + 1 / 2 + 0) / 3),
        "pass_at_k": (3 / 6, (2 / 3 + 1 / 2 + 0) / 3),
    }
    assert group.averages.keys() == expected.keys()
    for name, average in group.averages.items():
        assert (average.micro.value, average.macro.value) == pytest.approx(expected[name])
    assert (group.images, group.classes) == (6, 3)
    assert group.unanswered == pytest.approx((3 / 4 + 4 / 4) / 6)
    assert group.unknown == pytest.approx(1 / 4 / 6)
    assert group.failed == pytest.approx(1 / 6)
    # The rest are the 12 of 24 samples that name a class of the list.
    assert group.unanswered + group.unknown + group.failed == pytest.approx(1 - 12 / 24)
    assert group.mean_options == 2.0
    assert group.input_tokens_per_image == pytest.approx(500 / 6)
    assert group.output_tokens_per_image == pytest.approx(100 / 6)
    assert group.right_by_filler == pytest.approx(1 / 6)
    assert group.failures == {"open question: unreadable_image": 1}
    assert {each.name: (each.images, each.means["two_step"]) for each in group.per_class} == {
        "Andorra": (1, 1.0),
        "Chad": (3, pytest.approx(1 / 3)),
        "Romania": (2, 0.5),
    }


def test_a_failed_image_lowers_every_average_and_never_raises_one() -> None:
    (without,), (with_it,) = groups(rows(TABLE)), groups([*rows(TABLE), failed("z", "Chad")])
    for name in MEASURES:
        assert with_it.averages[name].micro.value == pytest.approx(without.averages[name].micro.value * 5 / 6)
        assert with_it.averages[name].macro.value <= without.averages[name].macro.value


def test_the_harmonic_mean_is_of_base_and_new() -> None:
    found = summarize([*rows(TABLE), *rows(NEW_TABLE, NEW)], list(MEASURES), seed=0, resamples=200)
    assert [group.data_source for group in found.groups] == ["divek/flags/base", NEW]
    (mean,) = found.harmonic_means
    # base two-step 3/5, new 1/2
    assert mean.averages["two_step"].micro.value == pytest.approx(2 * 0.6 * 0.5 / 1.1)
    assert mean.dataset == "flags"
    # Another data source changes no interval.
    assert summarize(rows(TABLE), list(MEASURES), seed=0, resamples=200).groups == found.groups[:1]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(0.5, 0.5, 0.5), (1.0, 0.5, 2 / 3), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.808, 0.788, 0.797875)],
)
def test_harmonic(first: float, second: float, expected: float) -> None:
    assert harmonic([np.array([first]), np.array([second])])[0] == pytest.approx(expected)


def test_over_several_data_sets_the_harmonic_mean_is_of_the_means() -> None:
    records = [*rows(TABLE), *rows(NEW_TABLE, NEW)]
    records += [*rows(TABLE[:1], "divek/pets/base"), *rows(NEW_TABLE[1:], "divek/pets/new")]
    found = summarize(records, list(MEASURES), seed=0, resamples=100)
    base, new, mean = found.over_data_sets
    assert [each.row for each in found.over_data_sets] == ["base", "new", "harmonic mean"]
    assert base.averages["two_step"].micro.value == pytest.approx((0.6 + 1.0) / 2)
    assert new.averages["two_step"].micro.value == pytest.approx((0.5 + 0.0) / 2)
    assert mean.averages["two_step"].micro.value == pytest.approx(2 * 0.8 * 0.25 / 1.05)
    assert {each.dataset for each in found.harmonic_means} == {"flags", "pets"}
    for each in found.over_data_sets:
        estimate = each.averages["two_step"].micro
        assert estimate.low <= estimate.value <= estimate.high


def test_data_sets_that_are_not_divided_have_one_row_over_all_classes() -> None:
    records = [*rows(TABLE, "divek/flags/all"), *rows(NEW_TABLE, "divek/birds/all")]
    found = summarize(records, ["two_step"], seed=0, resamples=100)
    assert found.harmonic_means == []
    (over,) = found.over_data_sets
    assert (over.row, over.data_sets) == ("all", 2)
    assert over.averages["two_step"].micro.value == pytest.approx((3 / 5 + 1 / 2) / 2)
    assert summarize(records[:5], ["two_step"], seed=0, resamples=100).over_data_sets == []


def test_one_side_has_no_harmonic_mean_and_one_data_set_no_mean_over_data_sets() -> None:
    assert summarize(rows(TABLE), list(MEASURES), seed=0, resamples=10).harmonic_means == []
    records = [*rows(TABLE), *rows(NEW_TABLE, NEW), *rows(TABLE, "divek/pets/base")]
    assert summarize(records, list(MEASURES), seed=0, resamples=10).over_data_sets == []


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(rng: random.Random) -> None:
    records = [*rows(TABLE), *rows(NEW_TABLE, NEW)]
    before = summarize(records, list(MEASURES), seed=3, resamples=50)
    rng.shuffle(records)
    assert summarize(records, list(MEASURES), seed=3, resamples=50) == before


def test_the_seed_decides_the_interval_and_nothing_else() -> None:
    first, second = (summarize(rows(TABLE), ["one_step"], seed=seed, resamples=50).groups[0] for seed in (0, 1))
    assert first.averages["one_step"].micro.value == second.averages["one_step"].micro.value
    assert first != second


def without_greedy(records: list[EvaluationRecord]) -> list[EvaluationRecord]:
    """As they are read from a file that an older release wrote."""
    lines = [each.to_json() for each in records]
    return [EvaluationRecord.from_json({k: v for k, v in line.items() if k != "one_step_greedy"}) for line in lines]


def test_a_measure_that_records_lack_has_no_average_and_no_difference() -> None:
    older, newer = without_greedy(rows(TABLE)), rows(NEW_TABLE, NEW)
    found = summarize([*older, *newer], list(MEASURES), seed=0, resamples=100)
    base, new = found.groups
    rest = [name for name in MEASURES if name != "one_step_greedy"]
    assert list(base.averages) == rest and list(new.averages) == list(MEASURES)
    assert all(list(each.means) == rest for each in base.per_class)
    assert [list(mean.averages) for mean in found.harmonic_means] == [rest]
    assert base.averages == {
        name: average
        for name, average in summarize(rows(TABLE), list(MEASURES), seed=0, resamples=100).groups[0].averages.items()
        if name in rest
    }
    for before, after in ((older, rows(TABLE)), (rows(TABLE), older)):
        pairs = [(name, name) for name in MEASURES]
        compared = differences([before], [after], pairs, seed=0, resamples=100)
        assert [each.measure for each in compared] == rest
    assert differences([older], [older], [("one_step_greedy", "two_step")], seed=0, resamples=100) == []


# --------------------------------------------------------------------- intervals


def two_step(records: list[EvaluationRecord], resamples: int, seed: int = 0) -> Average:
    (group,) = summarize(records, ["two_step"], seed=seed, resamples=resamples).groups
    return group.averages["two_step"]


def coins(count: int, right: int) -> list[EvaluationRecord]:
    """``count`` images of one class, ``right`` of them right."""
    return [record(f"{index:04d}", two_step=float(index < right)) for index in range(count)]


def test_the_interval_by_image_is_that_of_the_binomial_law() -> None:
    found = two_step(coins(400, 120), 4000).micro
    error = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert found.value == pytest.approx(0.3)
    assert found.image_low == pytest.approx(0.3 - error, abs=0.006)
    assert found.image_high == pytest.approx(0.3 + error, abs=0.006)
    # One class says nothing about others.
    assert (found.low, found.high) == (pytest.approx(0.025 * 0.3), pytest.approx(1 - 0.025 * 0.7))


def test_95_of_100_intervals_by_image_hold_the_true_share() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        right = int(rng.binomial(60, 0.4))
        found = two_step(coins(60, right), 300, seed=trial).micro
        held += found.image_low <= 0.4 <= found.image_high
    assert 180 <= held <= 199


def of_classes(means: list[float], images: int = 20) -> list[EvaluationRecord]:
    """``images`` of each class, of which a share of ``means`` is right."""
    return [
        record(f"{index:02d}-{image:02d}", truth=f"class {index:02d}", two_step=float(image < round(share * images)))
        for index, share in enumerate(means)
        for image in range(images)
    ]


def test_the_interval_by_class_is_students_of_the_class_means() -> None:
    means = [0.1, 0.3, 0.4, 0.5, 0.5, 0.6, 0.6, 0.7, 0.8, 0.85, 0.9, 1.0]
    average = two_step(of_classes(means), 8000)
    error = ttest_1samp(means, 0).confidence_interval(0.95)
    for found in (average.micro, average.macro):
        assert (found.low, found.high) == (pytest.approx(error.low, abs=0.02), pytest.approx(error.high, abs=0.02))
        assert found.low < found.image_low < found.image_high < found.high


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_where_all_are_alike_the_interval_is_the_exact_one(right: float) -> None:
    average = two_step(of_classes([right] * 8, images=5), 50)
    for found in (average.micro, average.macro):
        for units, low, high in ((8, found.low, found.high), (40, found.image_low, found.image_high)):
            exact = binomtest(int(right * units), units).proportion_ci(0.95)
            assert (low, high) == (pytest.approx(exact.low), pytest.approx(exact.high))


def test_macro_draws_are_the_mean_over_the_classes_that_were_drawn() -> None:
    micro, macro = bootstrap(np.array([[1.0], [0.0]]), ["Chad", "Romania"], generator(0, "x"), 200).images
    # Both, the first twice, the second twice: no other draw exists, and micro equals macro in each of them.
    assert set(macro[:, 0]) == {0.0, 0.5, 1.0}
    assert np.array_equal(macro, micro)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, truths = np.eye(30, 2), ["Chad", "Romania", "Andorra"] * 10
    whole = bootstrap(values, truths, generator(0, "x"), 100)
    monkeypatch.setattr("divek_verl.evaluation.statistics.CHUNK", 7)
    assert np.array_equal(bootstrap(values, truths, generator(0, "x"), 100).images, whole.images)


def test_what_is_unjudged_is_averaged_beside_the_value() -> None:
    records = coins(4, 1)
    records[3].unjudged = {"two_step": 1.0}
    (group,) = summarize(records, ["two_step"], seed=0, resamples=20).groups
    assert (group.averages["two_step"].micro.value, group.averages["two_step"].micro.unjudged) == (0.25, 0.25)
    assert group.per_class[0].unjudged == {"two_step": 0.25}


# --------------------------------------------------------------------- paired differences


def pairs(gained: int, lost: int, both: int = 2, neither: int = 3) -> tuple[np.ndarray, np.ndarray]:
    counts = [gained, lost, both, neither]
    return np.repeat([0.0, 1.0, 1.0, 0.0], counts), np.repeat([1.0, 0.0, 1.0, 0.0], counts)


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [
        # By hand, the exact two-sided binomial p: 2 * sum of C(n, i) / 2^n for i up to the smaller one.
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 0, 0.25),
        (6, 0, 2 / 64),
        (5, 1, 2 * (1 + 6) / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (4, 4, pytest.approx(1.0)),
        (5000, 0, 0.0),
        (3000, 2800, pytest.approx(0.00894, abs=5e-5)),
    ],
)
def test_mcnemars_p_value(gained: int, lost: int, expected: float) -> None:
    found = mcnemar(*pairs(gained, lost))
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p_value == expected


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_has_no_direction_and_ignores_what_did_not_change(gained: int, lost: int, same: int) -> None:
    found = mcnemar(*pairs(gained, lost, same, same))
    assert found.p_value == mcnemar(*pairs(lost, gained, 0, 0)).p_value
    assert 0.0 < found.p_value <= 1.0


def scored(shares: dict[str, float], source: str = "divek/flags/base") -> list[EvaluationRecord]:
    return [record(name, source=source, two_step=value, one_step=value) for name, value in shares.items()]


def compare(
    before: list[EvaluationRecord], after: list[EvaluationRecord], measure: str = "two_step"
) -> list[Difference]:
    return differences([before], [after], [(measure, measure)], seed=0, resamples=500)


def test_the_difference_is_of_the_images_that_both_have() -> None:
    before, after = scored({"a": 0, "b": 1, "c": 0, "x": 1}), scored({"c": 1, "a": 1, "b": 1, "y": 0})
    (found,) = compare(before, after)
    assert compare(before[::-1], after) == [found]
    assert (found.images, found.before, found.after) == (3, pytest.approx(1 / 3), 1.0)
    assert found.difference == pytest.approx(2 / 3)
    assert found.mcnemar is not None and (found.mcnemar.gained, found.mcnemar.lost) == (2, 0)
    assert found.low <= found.difference <= found.high


def test_pairing_makes_the_interval_narrow_where_most_images_agree() -> None:
    before = {str(index): float(index % 2) for index in range(100)}
    (same,) = compare(scored(before), scored(before))
    assert (same.difference, same.p_value, same.p_holm) == (0.0, 1.0, 1.0)
    # 100 images without a change: at most 1 - 0.025 ** (1 / 100) of all change.
    assert (same.image_low, same.image_high) == (pytest.approx(-0.036, abs=1e-3), pytest.approx(0.036, abs=1e-3))
    (changed,) = compare(scored(before), scored({**before, "0": 1.0}))
    assert changed.image_low >= 0.0 and changed.image_high <= 0.04


def test_a_share_has_a_difference_and_no_mcnemar() -> None:
    (found,) = compare(scored({"a": 0.25, "b": 0.5}), scored({"a": 0.5, "b": 0.5}), "one_step")
    assert (found.difference, found.mcnemar) == (pytest.approx(0.125), None)
    (whole,) = compare(scored({"a": 0.0}), scored({"a": 1.0}), "one_step")
    assert whole.mcnemar is None


def test_each_data_source_has_its_own() -> None:
    found = compare(scored({"a": 0}) + scored({"a": 1}, NEW), scored({"a": 1}) + scored({"a": 0}, NEW))
    sources = [(each.data_source, each.difference) for each in found]
    assert sources == [("divek/flags/base", 1.0), (NEW, -1.0), ("flags, harmonic mean", 0.0)]


def test_two_measures_of_one_run_can_be_compared() -> None:
    records = [record("a", consistency=0.0, two_step=1.0), record("b", consistency=1.0, two_step=1.0)]
    (found,) = differences([records], [records], [("consistency", "two_step")], seed=0, resamples=50)
    assert (found.measure, found.difference) == ("two_step", 0.5)


def test_what_is_unjudged_on_either_side_is_said() -> None:
    before, after = scored({"a": 0, "b": 1}), scored({"a": 0, "b": 1})
    before[0].unjudged = {"two_step": 1.0, "one_step": 0.25}
    (found,) = compare(before, after)
    assert (found.difference, found.before_unjudged, found.after_unjudged) == (0.0, 0.5, 0.0)


# --------------------------------------------------------------------- classes that change sides, several seeds, Holm


def shifted(means: list[float], by: float, source: str = "divek/flags/base") -> list[EvaluationRecord]:
    records = of_classes([min(1.0, mean + by) for mean in means])
    for each in records:
        each.data_source = source
    return records


MEANS = [0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 0.75]


def test_the_permutation_test_exchanges_whole_classes() -> None:
    # Each of 8 classes gains: only 2 of the 256 ways to exchange them are as far apart.
    (found,) = differences([shifted(MEANS, 0)], [shifted(MEANS, 0.1)], [("two_step",) * 2], seed=0, resamples=20000)
    assert found.p_value == pytest.approx(2 / 256, abs=0.003)
    # One class alone, with as many images changed, shows nothing.
    one = [0.2 + 0.8, *MEANS[1:]]
    (found,) = differences([shifted(MEANS, 0)], [shifted(one, 0)], [("two_step",) * 2], seed=0, resamples=200)
    assert found.difference == pytest.approx(0.1) and found.p_value == 1.0
    assert found.low < 0 < found.high and found.image_low > 0.05


def test_harmonic_means_and_averages_over_data_sets_are_compared_in_pairs() -> None:
    sources = [f"divek/{name}/{side}" for name in ("flags", "pets") for side in ("base", "new")]
    before = [each for source in sources for each in shifted(MEANS, 0, source)]
    after = [each for source in sources for each in shifted(MEANS, 0.1, source)]
    found = {each.data_source: each for each in compare(before, after)}
    rows = [*sources, *(f"{name}, harmonic mean" for name in ("flags", "pets"))]
    assert list(found) == [*rows, *(f"2 data sets, {row}" for row in ("base", "new", "harmonic mean"))]
    first, last = (summarize(run, ["two_step"], seed=0, resamples=100).over_data_sets[2] for run in (before, after))
    mean = found["2 data sets, harmonic mean"]
    for side, value in ((first, mean.before), (last, mean.after)):
        assert value == pytest.approx(side.averages["two_step"].micro.value)
    assert mean.difference == pytest.approx(0.1) and mean.images == len(before)
    # Every class gained the same: nothing spreads, although the classes differ by far more than they gained.
    assert 0.09 < mean.low <= mean.difference <= mean.high < 0.11
    assert mean.p_value < 0.01 and mean.mcnemar is None


def test_several_seeds_are_one_comparison_whose_interval_holds_the_variance_of_training() -> None:
    before = [shifted(MEANS, 0)]
    after = [
        of_classes([mean + by + jitter for mean, jitter in zip(MEANS, [-0.05, 0.05] * 4, strict=True)])
        for by in (0.05, 0.1, 0.15)
    ]
    pair = [("two_step", "two_step")]
    (alone,) = differences(before, after[1:2], pair, seed=0, resamples=4000)
    (found,) = differences(before, after, pair, seed=0, resamples=4000)
    assert (alone.after_spread, found.before_spread) == (0.0, 0.0)
    assert found.after_spread == pytest.approx(0.05)
    assert found.difference == pytest.approx(alone.difference) == pytest.approx(0.1)
    # Student's t with 2 degrees of freedom is 4.3, and 4.3 * 0.05 / sqrt(3) = 0.124.
    assert alone.high - alone.low == pytest.approx(2 * 2.36 * 0.053 / 8**0.5, abs=0.03)
    assert 2 * 0.09 < found.high - found.low < 2 * 0.16
    assert alone.p_value < found.p_value


@pytest.mark.slow
def test_6000_images_take_less_than_20_seconds_of_processor_time() -> None:
    random, runs = np.random.default_rng(0), []
    for _ in range(2):
        runs.append([each for side in ("base", "new") for each in shifted([0.7] * 100, 0, f"divek/cub/{side}")])
        runs[-1] = [replace(each, image_id=f"{each.image_id}-{n}") for each in runs[-1] for n in range(2)][:6000]
        for each in runs[-1]:
            for name, value in zip(MEASURES, random.random(len(MEASURES)), strict=True):
                setattr(each, name, float(value < 0.7))
    names, drawn, started = list(MEASURES), {"seed": 0, "resamples": 2000}, time.process_time()
    summarize(runs[0], names, **drawn)
    gains = [("one_step_greedy", "two_step"), ("consistency", "two_step")]
    differences(runs[:1], runs[:1], gains, **drawn)
    found = differences(runs[:1], runs[1:], [(name, name) for name in names], **drawn)
    assert sum(each.images for each in found[:1] + found[len(names) : len(names) + 1]) == 6000
    assert time.process_time() - started < 20


def test_holms_correction_is_over_all_rows_of_one_table() -> None:
    names = ["two_step", "one_step"]
    before, after = shifted(MEANS, 0), shifted(MEANS, 0.1)
    for each, value in ((before, 0.0), (after, 1.0)):
        for image in each:
            image.one_step = value if image.truth == "class 00" else 0.0
    two, one = differences([before], [after], [(name, name) for name in names], seed=0, resamples=2000)
    assert two.p_holm == pytest.approx(2 * two.p_value) and one.p_holm == pytest.approx(one.p_value)
