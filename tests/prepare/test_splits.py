"""The files of each setting, from the parts of a source; division by class and seed."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.prepare.source import Classes, Item, Part, Source
from divek_verl.prepare.splits import EvalSplit, Plan, Planned, Setting, at_most, divide, few_shots, plan_splits

NAMES = ("a", "b", "c", "d", "e")
SHARES: dict[Part, float] = {"train": 0.5, "val": 0.2}
CLASS_SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=6)


def source(new_part: Part = "val", **sizes: int) -> Source:
    """A source with `sizes[part]` images of each class."""
    parts = {
        part: [Item(f"{part}/{name}{index:02d}", label) for label, name in enumerate(NAMES) for index in range(size)]
        for part, size in sizes.items()
    }
    return Source("birds", Path(), Classes(NAMES, {"d": ["dee"]}), parts, "by hand", new_part)  # type: ignore[arg-type]


def images(planned: Planned) -> dict[str, list[str]]:
    return {split.name: [example.image for example in split.examples] for split in planned.splits}


def sizes(planned: Planned) -> dict[str, int]:
    return {name: len(found) for name, found in images(planned).items()}


@pytest.mark.parametrize(("new_part", "val_new"), [("val", 6), ("test", 4)])
def test_base_to_novel_trains_on_the_first_half_and_validates_both(new_part: Part, val_new: int) -> None:
    """The new classes of Flowers are validated on its test part."""
    planned = plan_splits(source(new_part, train=4, val=3, test=2), Plan())
    assert {split.name: split.side for split in planned.splits} == {
        "train": "base",
        "val_base": "base",
        "val_new": "new",
    }
    assert sizes(planned) == {"train": 12, "val_base": 9, "val_new": val_new}
    assert all(image.startswith(f"{new_part}/") for image in images(planned)["val_new"])
    assert {example.truth for example in planned.splits[0].examples} == {"a", "b", "c"}
    # Images of held-out classes are watched in every part.
    assert len(planned.held_out) == 2 * (4 + 3 + 2) - val_new
    assert all(image[-3] in "de" for image in planned.held_out)


def test_the_test_part_validates_on_demand_and_training_stays_the_same() -> None:
    everything = source(train=4, val=3, test=2)
    reference, tested = (plan_splits(everything, Plan(eval_split=each)) for each in EvalSplit)
    assert images(tested)["train"] == images(reference)["train"]
    assert sizes(tested) == {"train": 12, "val_base": 6, "val_new": 4}


def test_without_a_validation_part_a_share_of_training_is_held_out() -> None:
    planned = plan_splits(source(train=10, test=2), Plan(val_fraction=0.3))
    assert sizes(planned) == {"train": 21, "val_base": 9, "val_new": 6}
    with_test = plan_splits(source(train=10, test=2), Plan(val_fraction=0.3, eval_split=EvalSplit.TEST))
    assert images(with_test)["train"] == images(planned)["train"]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(Setting.FEW_SHOT, shots=4), {"train": 20, "val": 5}),
        (Plan(Setting.ALL), {"train": 45, "val": 5}),
        (Plan(limit=5), {"train": 5, "val_base": 3, "val_new": 2}),
    ],
)
def test_each_setting_has_its_number_of_images(plan: Plan, expected: dict[str, int]) -> None:
    planned = plan_splits(source(train=9, val=1), plan)
    assert sizes(planned) == expected
    if plan.setting is not Setting.BASE_TO_NOVEL:
        assert ({split.side for split in planned.splits}, planned.held_out) == ({"all"}, [])


def test_a_class_without_training_images_does_not_count() -> None:
    """CoOp's rule goes by the labels that occur in training."""
    full = source(train=2, val=2)
    without_a = [item for item in full.parts["train"] if item.label != 0]
    planned = plan_splits(Source("birds", Path(), full.classes, {**full.parts, "train": without_a}, ""), Plan())
    assert planned.classes.base == ("b", "c")
    assert planned.classes.new == ("d", "e")
    assert planned.classes.aliases == {"d": ["dee"]}
    assert sizes(planned)["val_base"] == 4


def test_a_missing_part_is_named() -> None:
    with pytest.raises(SetupError, match="birds has no test part: use --eval-split reference"):
        plan_splits(source(train=4), Plan(eval_split=EvalSplit.TEST))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_class_cannot_be_asked_about(count: int) -> None:
    few = Source("birds", Path(), Classes(NAMES[:count]), {"train": source(train=2).parts["train"][: 2 * count]}, "")
    alone = "1 new classes with training images, and a question needs two of a side: use --setting all"
    with pytest.raises(SetupError, match="1 classes with training images" if count == 1 else alone):
        plan_splits(few, Plan())
    if count > 1:
        assert sizes(plan_splits(few, Plan(Setting.ALL)))["train"] == count


@given(st.integers(3, 12), st.integers(0, 5), st.sampled_from(Setting), st.integers())
def test_no_image_is_in_two_files_and_no_held_out_class_in_training(
    train: int, test: int, setting: Setting, seed: int
) -> None:
    planned = plan_splits(source(train=train, test=test), Plan(setting, shots=1, seed=seed))
    assert planned == plan_splits(source(train=train, test=test), Plan(setting, shots=1, seed=seed))
    found = [image for each in images(planned).values() for image in each]
    assert len(found) == len(set(found))
    assert len(found) + planned.unused.total() == 5 * (train + test)
    if setting in (Setting.BASE_TO_NOVEL, Setting.PRETRAIN_SHOTS):
        assert {example.truth for example in planned.splits[0].examples} <= set(planned.classes.base)
        shown = {*found, *planned.held_out}
        assert {f"train/{name}{index:02d}" for name in "de" for index in range(train)} <= shown


# Division by class


def items(counts: list[int]) -> list[Item]:
    return [Item(f"{label}/{index:03d}.jpg", label) for label, count in enumerate(counts) for index in range(count)]


@given(CLASS_SIZES, st.integers())
def test_parts_are_disjoint_and_complete(counts: list[int], seed: int) -> None:
    parts = divide(items(counts), SHARES, "test", str(seed))
    assert sorted(item.image for part in parts.values() for item in part) == [item.image for item in items(counts)]


@given(CLASS_SIZES)
@example([49])
def test_sizes_round_half_to_even(counts: list[int]) -> None:
    """24 of 49 images are trained on, not 25: rounding up would give another split than the published one."""
    parts = divide(items(counts), SHARES, "test", "0")
    for label, count in enumerate(counts):
        if count >= 5:
            got = {part: sum(item.label == label for item in chosen) for part, chosen in parts.items()}
            train, val = round(count * 0.5), round(count * 0.2)
            assert got == {"train": train, "val": val, "test": count - train - val}


@given(st.integers(1, 4), st.floats(0.01, 0.99))
def test_small_classes_give_one_to_each_part_as_far_as_they_reach(count: int, share: float) -> None:
    parts = divide(items([count]), {"val": share}, "train", "0")
    assert len(parts["train"]) >= 1
    assert bool(parts["val"]) == (count > 1)


@given(st.permutations(items([7, 9, 3])))
def test_the_order_in_which_a_folder_was_listed_does_not_matter(listed: list[Item]) -> None:
    assert divide(listed, SHARES, "test", "0") == divide(items([7, 9, 3]), SHARES, "test", "0")
    assert few_shots(listed, 4, str) == few_shots(items([7, 9, 3]), 4, str)
    # Another seed divides otherwise.
    assert divide(items([40]), SHARES, "test", "0") != divide(items([40]), SHARES, "test", "1")


@pytest.mark.parametrize("shares", [{"val": 0.0}, {"val": 1.0}, {"train": 0.5, "val": 0.5}])
def test_shares_leave_something_to_the_rest(shares: dict[Part, float]) -> None:
    with pytest.raises(SetupError, match="do not divide a whole"):
        divide(items([5]), shares, "test", "0")


@given(CLASS_SIZES, st.integers(1, 8))
def test_few_shots_are_the_same_number_of_each_class(counts: list[int], shots: int) -> None:
    chosen = few_shots(items(counts), shots, str)
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
