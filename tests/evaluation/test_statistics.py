"""Averages and intervals against tables worked out by hand, and what no order may change."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divek_verl.evaluation.measuring import TITLES, measure
from divek_verl.evaluation.results import Group
from divek_verl.evaluation.statistics import draw, generator, harmonic, summarize
from divek_verl.evaluation.visits import EvaluatedVisit

from .fabricated_set import visit

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


def rows(table: list, source: str = "divek/flags/base") -> list[EvaluatedVisit]:
    made = [
        visit(name, source=source, truth=truth, votes=v, unknown=u, unanswered=n, options=o, chosen=c)
        for name, truth, v, u, n, o, c in table
    ]
    for each in made:
        each.input_tokens, each.output_tokens = 100, 20
        measure(each)
    return made


def failed(name: str, truth: str) -> EvaluatedVisit:
    made = visit(name, truth=truth, failure="unreadable_image")
    measure(made)
    return made


def groups(visits: list[EvaluatedVisit]) -> list[Group]:
    return summarize(visits, list(TITLES), seed=0, resamples=200).groups


def test_every_number_of_a_group_is_that_of_the_table() -> None:
    (group,) = groups([*rows(TABLE), failed("z", "Romania")])
    micro = {name: average.micro.value for name, average in group.averages.items()}
    macro = {name: average.macro.value for name, average in group.averages.items()}
    # two_step a 1, b 0, c 0, d 1, e 1 (a filler), z 0; classes: Chad 1/3, Romania 1/2, Andorra 1
    assert micro == pytest.approx(
        {
            "two_step": 3 / 6,
            "one_step": (3 / 4 + 1 / 4 + 0 + 1 + 0 + 0) / 6,
            "consistency": 2 / 6,
            "recall": 3 / 6,
            "pass_at_k": 3 / 6,
        }
    )
    assert macro == pytest.approx(
        {
            "two_step": (1 / 3 + 1 / 2 + 1) / 3,
            "one_step": ((3 / 4 + 1 / 4) / 3 + 1 / 2 + 0) / 3,
            "consistency": (1 / 3 + 1 / 2 + 0) / 3,
            "recall": (2 / 3 + 1 / 2 + 0) / 3,
            "pass_at_k": (2 / 3 + 1 / 2 + 0) / 3,
        }
    )
    assert (group.images, group.classes) == (6, 3)
    assert group.unanswered == pytest.approx((3 / 4 + 4 / 4) / 6)
    assert group.unknown == pytest.approx(1 / 4 / 6)
    assert group.failed == pytest.approx(1 / 6)
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


def test_answered_unknown_unanswered_and_failed_samples_are_all_there_are() -> None:
    (group,) = groups([*rows(TABLE), failed("z", "Romania")])
    answered = sum(sum(each.votes.values()) for each in rows(TABLE)) / 4 / 6
    assert answered + group.unknown + group.unanswered + group.failed == pytest.approx(1.0)


def test_a_failed_image_lowers_every_average_and_never_raises_one() -> None:
    (without,), (with_it,) = groups(rows(TABLE)), groups([*rows(TABLE), failed("z", "Chad")])
    for name in TITLES:
        assert with_it.averages[name].micro.value == pytest.approx(without.averages[name].micro.value * 5 / 6)
        assert with_it.averages[name].macro.value <= without.averages[name].macro.value


def test_the_harmonic_mean_is_of_base_and_new() -> None:
    found = summarize([*rows(TABLE), *rows(NEW_TABLE, NEW)], list(TITLES), seed=0, resamples=200)
    assert [group.data_source for group in found.groups] == ["divek/flags/base", NEW]
    (mean,) = found.harmonic_means
    # base two-step 3/5, new 1/2
    assert mean.averages["two_step"].micro.value == pytest.approx(2 * 0.6 * 0.5 / 1.1)
    assert mean.dataset == "flags"


@pytest.mark.parametrize(
    ("first", "second", "expected"), [(0.5, 0.5, 0.5), (1.0, 0.5, 2 / 3), (0.0, 1.0, 0.0), (0, 0, 0)]
)
def test_harmonic(first: float, second: float, expected: float) -> None:
    assert harmonic(first, second) == pytest.approx(expected)


def test_the_papers_own_harmonic_mean() -> None:
    assert round(100 * harmonic(0.808, 0.788), 1) == 79.8


def test_there_is_no_harmonic_mean_of_one_side() -> None:
    assert summarize(rows(TABLE), list(TITLES), seed=0, resamples=10).harmonic_means == []


def test_over_several_data_sets_the_harmonic_mean_is_of_the_means() -> None:
    visits = [*rows(TABLE), *rows(NEW_TABLE, NEW)]
    visits += [*rows(TABLE[:1], "divek/pets/base"), *rows(NEW_TABLE[1:], "divek/pets/new")]
    found = summarize(visits, list(TITLES), seed=0, resamples=100)
    base, new, mean = found.over_data_sets
    assert [each.row for each in found.over_data_sets] == ["base", "new", "harmonic mean"]
    assert base.averages["two_step"].micro.value == pytest.approx((0.6 + 1.0) / 2)
    assert new.averages["two_step"].micro.value == pytest.approx((0.5 + 0.0) / 2)
    assert mean.averages["two_step"].micro.value == pytest.approx(harmonic(0.8, 0.25))
    assert {each.dataset for each in found.harmonic_means} == {"flags", "pets"}
    for each in found.over_data_sets:
        estimate = each.averages["two_step"].micro
        assert estimate.low <= estimate.value <= estimate.high


def test_one_data_set_has_no_mean_over_data_sets() -> None:
    visits = [*rows(TABLE), *rows(NEW_TABLE, NEW), *rows(TABLE, "divek/pets/base")]
    assert summarize(visits, list(TITLES), seed=0, resamples=10).over_data_sets == []


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(rng: random.Random) -> None:
    visits = [*rows(TABLE), *rows(NEW_TABLE, NEW)]
    shuffled = list(visits)
    rng.shuffle(shuffled)
    assert summarize(shuffled, list(TITLES), seed=3, resamples=50) == summarize(
        visits, list(TITLES), seed=3, resamples=50
    )


def test_another_data_source_changes_no_interval() -> None:
    alone = summarize(rows(TABLE), list(TITLES), seed=0, resamples=100)
    beside = summarize([*rows(TABLE), *rows(NEW_TABLE, NEW)], list(TITLES), seed=0, resamples=100)
    assert alone.groups[0] == beside.groups[0]


def test_the_seed_decides_the_interval_and_nothing_else() -> None:
    first, second = (summarize(rows(TABLE), ["one_step"], seed=seed, resamples=50).groups[0] for seed in (0, 1))
    assert first.averages["one_step"].micro.value == second.averages["one_step"].micro.value
    assert first != second


# --------------------------------------------------------------------- intervals


def coins(count: int, right: int) -> list[EvaluatedVisit]:
    """``count`` images of one class, ``right`` of them right."""
    made = []
    for index in range(count):
        chosen = "Chad" if index < right else "Romania"
        made.append(visit(f"{index:04d}", votes={"Chad": 1, "Romania": 1}, options=("Chad", "Romania"), chosen=chosen))
        measure(made[-1])
    return made


def test_the_interval_is_that_of_the_binomial_law() -> None:
    (group,) = summarize(coins(400, 120), ["two_step"], seed=0, resamples=4000).groups
    found = group.averages["two_step"].micro
    error = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - error, abs=0.006)
    assert found.high == pytest.approx(0.3 + error, abs=0.006)


def test_95_of_100_intervals_hold_the_true_share() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        right = int(rng.binomial(60, 0.4))
        (group,) = summarize(coins(60, right), ["two_step"], seed=trial, resamples=300).groups
        found = group.averages["two_step"].micro
        held += found.low <= 0.4 <= found.high
    assert 180 <= held <= 199


@pytest.mark.parametrize("right", [0, 20])
def test_where_all_are_alike_the_interval_is_a_point(right: int) -> None:
    (group,) = summarize(coins(20, right), ["two_step"], seed=0, resamples=50).groups
    found = group.averages["two_step"]
    assert (found.micro.low, found.micro.high) == (right / 20, right / 20)
    assert (found.macro.low, found.macro.high) == (right / 20, right / 20)


def test_macro_draws_are_the_mean_over_the_classes_that_were_drawn() -> None:
    visits = [visit("a", truth="Chad", two_step=1.0), visit("b", truth="Romania", two_step=0.0)]
    draws = draw(visits, ["two_step"], generator(0, "x"), 200)["two_step"]
    # Both, the first twice, the second twice: no other draw exists, and micro equals macro in each of them.
    assert set(draws.macro) == {0.0, 0.5, 1.0}
    assert np.array_equal(draws.macro, draws.micro)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw(coins(30, 10), ["two_step"], generator(0, "x"), 100)["two_step"]
    monkeypatch.setattr("divek_verl.evaluation.statistics.CHUNK", 7)
    parts = draw(coins(30, 10), ["two_step"], generator(0, "x"), 100)["two_step"]
    assert np.array_equal(whole.micro, parts.micro) and np.array_equal(whole.macro, parts.macro)


def test_what_is_unjudged_is_averaged_beside_the_value() -> None:
    visits = coins(4, 1)
    visits[3].unjudged = {"two_step": 1.0}
    (group,) = summarize(visits, ["two_step"], seed=0, resamples=20).groups
    assert (group.averages["two_step"].micro.value, group.averages["two_step"].micro.unjudged) == (0.25, 0.25)
    assert group.per_class[0].unjudged == {"two_step": 0.25}


def test_the_folder_of_tests_is_no_part_of_the_results() -> None:
    """Groups are plain data: nothing of a machine is in them."""
    (group,) = groups(rows(TABLE))
    assert str(Path.cwd()) not in group.model_dump_json()
