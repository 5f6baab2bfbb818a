"""Paired differences and McNemar's exact test, against numbers worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.evaluation.comparing import differences, mcnemar
from divek_verl.evaluation.results import Difference
from divek_verl.evaluation.visits import EvaluatedVisit

from .fabricated_set import visit

# (gained, lost) -> exact two-sided binomial p, by hand: 2 * sum of C(n, i) / 2^n for i up to the smaller one
P_VALUES = {
    (0, 0): 1.0,
    (1, 0): 1.0,
    (3, 0): 0.25,
    (6, 0): 2 / 64,
    (5, 1): 2 * (1 + 6) / 64,
    (8, 2): 2 * (1 + 10 + 45) / 1024,
    (4, 4): 1.0,
}


def pairs(gained: int, lost: int, both: int = 2, neither: int = 3) -> tuple[list[float], list[float]]:
    before = [0.0] * gained + [1.0] * lost + [1.0] * both + [0.0] * neither
    after = [1.0] * gained + [0.0] * lost + [1.0] * both + [0.0] * neither
    return before, after


@pytest.mark.parametrize(("changed", "expected"), P_VALUES.items())
def test_mcnemars_p_value(changed: tuple[int, int], expected: float) -> None:
    found = mcnemar(*pairs(*changed))
    assert (found.gained, found.lost) == changed
    assert found.p_value == pytest.approx(expected)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_has_no_direction_and_ignores_what_did_not_change(gained: int, lost: int, same: int) -> None:
    found = mcnemar(*pairs(gained, lost, same, same))
    assert found.p_value == mcnemar(*pairs(lost, gained, 0, 0)).p_value
    assert 0.0 < found.p_value <= 1.0


def test_mcnemar_is_exact_for_many_images() -> None:
    assert mcnemar(*pairs(3000, 2800)).p_value == pytest.approx(0.00894, abs=5e-5)
    assert mcnemar(*pairs(5000, 0)).p_value == 0.0


def scored(shares: dict[str, float], source: str = "divek/flags/base") -> list[EvaluatedVisit]:
    return [visit(name, source=source, two_step=value, one_step=value) for name, value in shares.items()]


def compare(before: list[EvaluatedVisit], after: list[EvaluatedVisit], measure: str = "two_step") -> list[Difference]:
    return differences(before, after, [(measure, measure)], seed=0, resamples=500)


def test_the_difference_is_of_the_images_that_both_have() -> None:
    (found,) = compare(scored({"a": 0, "b": 1, "c": 0, "x": 1}), scored({"c": 1, "a": 1, "b": 1, "y": 0}))
    assert (found.images, found.before, found.after) == (3, pytest.approx(1 / 3), 1.0)
    assert found.difference == pytest.approx(2 / 3)
    assert found.mcnemar is not None and (found.mcnemar.gained, found.mcnemar.lost) == (2, 0)
    assert found.low <= found.difference <= found.high


def test_pairing_makes_the_interval_narrow_where_most_images_agree() -> None:
    before = {str(index): float(index % 2) for index in range(100)}
    (same,) = compare(scored(before), scored(before))
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)
    (changed,) = compare(scored(before), scored({**before, "0": 1.0}))
    assert changed.low >= 0.0 and changed.high <= 0.04


def test_a_share_has_a_difference_and_no_mcnemar() -> None:
    (found,) = compare(scored({"a": 0.25, "b": 0.5}), scored({"a": 0.5, "b": 0.5}), "one_step")
    assert (found.difference, found.mcnemar) == (pytest.approx(0.125), None)
    (whole,) = compare(scored({"a": 0.0}), scored({"a": 1.0}), "one_step")
    assert whole.mcnemar is None


def test_each_data_source_has_its_own() -> None:
    new = "divek/flags/new"
    found = compare(scored({"a": 0}) + scored({"a": 1}, new), scored({"a": 1}) + scored({"a": 0}, new))
    assert [(each.data_source, each.difference) for each in found] == [("divek/flags/base", 1.0), (new, -1.0)]


def test_two_measures_of_one_run_can_be_compared() -> None:
    visits = [visit("a", consistency=0.0, two_step=1.0), visit("b", consistency=1.0, two_step=1.0)]
    (found,) = differences(visits, visits, [("consistency", "two_step")], seed=0, resamples=50)
    assert (found.measure, found.difference) == ("two_step", 0.5)


def test_what_is_unjudged_on_either_side_is_said() -> None:
    before, after = scored({"a": 0, "b": 1}), scored({"a": 0, "b": 1})
    before[0].unjudged = {"two_step": 1.0, "one_step": 0.25}
    (found,) = compare(before, after)
    assert (found.difference, found.before_unjudged, found.after_unjudged) == (0.0, 0.5, 0.0)


def test_the_order_of_images_changes_nothing() -> None:
    before, after = scored({"a": 0, "b": 1, "c": 0}), scored({"a": 1, "b": 0, "c": 1})
    assert compare(before, after) == compare(before[::-1], after[::-1])
