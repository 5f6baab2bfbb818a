"""Dividing by class and seed: disjoint, complete, of the sizes that the literature has."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.prepare.division import at_most, by_label, divide, draw_per_class, few_shots
from divek_verl.prepare.source import Item, Part

SHARES: dict[Part, float] = {"train": 0.5, "val": 0.2}
sizes = st.lists(st.integers(0, 60), min_size=1, max_size=6)


def items(counts: list[int]) -> list[Item]:
    return [Item(f"{label}/{index:03d}.jpg", label) for label, count in enumerate(counts) for index in range(count)]


@given(sizes, st.integers())
def test_parts_are_disjoint_and_complete(counts: list[int], seed: int) -> None:
    parts = divide(items(counts), SHARES, "test", str(seed))
    assert sorted(item.image for part in parts.values() for item in part) == [item.image for item in items(counts)]


@given(sizes)
def test_sizes_round_half_to_even(counts: list[int]) -> None:
    """Of 49 images 24 are trained on, not 25: rounding up would give another split than the published one."""
    parts = divide(items(counts), SHARES, "test", "0")
    for label, count in enumerate(counts):
        if count >= 5:
            got = {part: sum(item.label == label for item in chosen) for part, chosen in parts.items()}
            train, val = round(count * 0.5), round(count * 0.2)
            assert got == {"train": train, "val": val, "test": count - train - val}


def test_24_and_a_half_becomes_24() -> None:
    assert Counter(part for part, chosen in divide(items([49]), SHARES, "test", "0").items() for _ in chosen) == {
        "train": 24,
        "val": 10,
        "test": 15,
    }


@given(st.integers(1, 4), st.floats(0.01, 0.99))
def test_small_classes_give_one_to_each_part_as_far_as_they_reach(count: int, share: float) -> None:
    parts = divide(items([count]), {"val": share}, "train", "0")
    assert len(parts["train"]) >= 1
    assert bool(parts["val"]) == (count > 1)


@given(st.permutations(items([7, 9, 3])))
def test_the_order_in_which_a_folder_was_listed_does_not_matter(listed: list[Item]) -> None:
    assert divide(listed, SHARES, "test", "0") == divide(items([7, 9, 3]), SHARES, "test", "0")
    assert few_shots(listed, 4, "0") == few_shots(items([7, 9, 3]), 4, "0")


def test_another_seed_divides_otherwise() -> None:
    assert divide(items([40]), SHARES, "test", "0") != divide(items([40]), SHARES, "test", "1")


@pytest.mark.parametrize("shares", [{"val": 0.0}, {"val": 1.0}, {"train": 0.5, "val": 0.5}])
def test_shares_leave_something_to_the_rest(shares: dict[Part, float]) -> None:
    with pytest.raises(SetupError, match="do not divide a whole"):
        divide(items([5]), shares, "test", "0")


@given(sizes, st.integers(1, 8))
def test_few_shots_are_so_many_of_each_class(counts: list[int], shots: int) -> None:
    chosen = few_shots(items(counts), shots, "0")
    assert len(set(chosen)) == len(chosen)
    assert Counter(item.label for item in chosen) == {
        label: min(count, shots) for label, count in enumerate(counts) if count
    }


def test_a_trial_sees_many_classes_and_keeps_the_order() -> None:
    everything = items([50] * 20)
    chosen = at_most(everything, 100, "0")
    assert len(chosen) == 100
    assert chosen == sorted(chosen, key=everything.index)
    assert len({item.label for item in chosen}) > 15
    assert at_most(everything, None, "0") == at_most(everything, 5000, "0") == everything


def test_groups_are_in_label_order() -> None:
    assert list(by_label([Item("b", 1), Item("a", 0), Item("a", 1)]).values()) == [
        [Item("a", 0)],
        [Item("a", 1), Item("b", 1)],
    ]


def test_places_are_drawn_by_key() -> None:
    keys = ["a"] * 5 + ["b"] * 2
    drawn = draw_per_class(keys, 3, "0")
    assert Counter(keys[place] for place in drawn) == {"a": 3, "b": 2}
    assert drawn == draw_per_class(keys, 3, "0")
