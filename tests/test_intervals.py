"""Intervals over classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from divek_verl.intervals import class_interval, interval

SOURCE = "divek/flags/new"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(1, 60), st.sampled_from([-1.0, 0.0]))
def test_no_interval_has_no_width_or_leaves_the_range(draws: list[int], units: int, lowest: float) -> None:
    marks = np.array(draws) / 4
    low, high = interval(marks[:1], marks[:, None], units, lowest)
    assert lowest <= low[0] < high[0] <= 1


def test_an_interval_counts_classes_and_not_their_images() -> None:
    by_class, alike = [0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50
    assert class_interval(by_class, alike, SOURCE, -1.0) == (-1.0, 1.0)  # two classes say nothing about others
    # Each class is half right, so that no class shows how far another could be off.
    mixed = class_interval(by_class, ["a", "b"] * 50, SOURCE, 0.0)
    assert mixed == pytest.approx((0.5 * 0.025**0.5, 1 - 0.5 * 0.025**0.5))
    assert class_interval([1.0, 1.0], ["a", "a"], SOURCE, 0.0) is None


def test_of_classes_of_one_size_it_is_students() -> None:
    means = [-0.2, -0.1, 0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.6]
    exact = ttest_1samp(means, 0).confidence_interval(0.95)
    names = [f"class {index}" for index in range(12)]
    assert class_interval(means * 3, names * 3, SOURCE, -1.0) == pytest.approx((exact.low, exact.high), abs=0.02)
