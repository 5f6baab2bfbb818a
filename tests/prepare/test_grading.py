"""The self-check of a row: its truth is a class, and full marks go to the right letter only."""

import pytest

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.prepare import Example, Split, grading
from divek_verl.prepare.grading import check_row
from divek_verl.prepare.rows import Row, RowBuilder
from divek_verl.prompts import Wording

BIRDS = ("Brandt's Cormorant", "Sooty Albatross", "Mew Gull", "Ovenbird", "Black-footed Albatross", "Mallard")


def row(truth: str, index: int = 0) -> Row:
    split = Split("train", "base", [])
    builder = RowBuilder("cub", split, ClassNames(BIRDS), Wording("bird", "species"))
    return builder.build(Example("a.png", truth, "a"), index)


@pytest.mark.parametrize("truth", BIRDS)
def test_a_good_row_passes(truth: str) -> None:
    for index in range(5):
        check_row(row(truth, index), ClassNames(BIRDS))


def test_two_classes_are_enough() -> None:
    check_row(row("Ovenbird"), ClassNames(("Ovenbird", "Mallard")))


@pytest.mark.parametrize("truth", ["Roc", "mew gull"])
def test_the_truth_must_be_a_display_name_of_the_class_list(truth: str) -> None:
    with pytest.raises(SetupError, match=f"a is labelled '{truth}', no class of divek/cub/base"):
        check_row(row(truth), ClassNames(BIRDS))


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_row_that_the_reward_cannot_grade_is_refused(monkeypatch: pytest.MonkeyPatch, constant: float) -> None:
    monkeypatch.setattr(grading, "compute_score", lambda *_: {"acc": constant})
    with pytest.raises(SetupError, match="graded wrongly"):
        check_row(row(BIRDS[0]), ClassNames(BIRDS))


def test_a_class_that_no_answer_can_name_is_refused() -> None:
    names = ClassNames(("Mew</answer> Gull", "Ovenbird"))
    with pytest.raises(SetupError, match="rename the class"):
        check_row(row("Mew</answer> Gull"), names)
