"""Rows in verl's schema, and their check: the truth is a class, and full marks go to the right letter only."""

import pytest

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.prepare import rows
from divek_verl.prepare.rows import SCHEMA, Example, Row, Split, build_row, check_row
from divek_verl.prompts import user_prompt

BIRDS = ("Brandt's Cormorant", "Sooty Albatross", "Mew Gull", "Ovenbird", "Black-footed Albatross", "Mallard")
PROMPT = user_prompt("Which bird?")


def row(truth: str, index: int = 0, content: bytes | None = None) -> Row:
    return build_row("cub", Split("train", "base", []), PROMPT, Example("images/a.png", truth, "a"), index, content)


def test_a_row_has_verls_columns_and_its_picture_by_path_or_content() -> None:
    made = row(BIRDS[0], 7)
    assert list(made) == SCHEMA.names
    assert made["data_source"] == "divek/cub/base"
    assert made["prompt"] == [{"role": "user", "content": "<image>Which bird?"}]
    assert made["images"] == [{"image": "images/a.png"}]
    assert made["reward_model"] == {"style": "rule", "ground_truth": BIRDS[0]}
    assert made["extra_info"] == {"index": 7, "split": "train", "image_id": "a", "dataset": "cub"}
    assert row(BIRDS[0], content=b"x")["images"] == [{"bytes": b"x"}]


def test_every_validation_file_is_of_stage_val() -> None:
    assert [Split(name, "all", []).stage for name in ("train", "val", "val_base", "val_new")] == ["train"] + ["val"] * 3


# The check


@pytest.mark.parametrize("truth", BIRDS)
def test_a_good_row_passes(truth: str) -> None:
    for index in range(5):
        check_row(row(truth, index), ClassNames(BIRDS))
        check_row(row(truth, index), ClassNames((truth, "Roc")))


@pytest.mark.parametrize("truth", ["Roc", "mew gull"])
def test_the_truth_must_be_a_display_name_of_the_class_list(truth: str) -> None:
    with pytest.raises(SetupError, match=f"a is labelled '{truth}', no class of divek/cub/base"):
        check_row(row(truth), ClassNames(BIRDS))


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_row_that_the_reward_cannot_grade_is_refused(monkeypatch: pytest.MonkeyPatch, constant: float) -> None:
    monkeypatch.setattr(rows, "compute_score", lambda *_: {"acc": constant})
    with pytest.raises(SetupError, match="graded wrongly"):
        check_row(row(BIRDS[0]), ClassNames(BIRDS))


def test_a_class_that_no_answer_can_name_is_refused() -> None:
    names = ClassNames(("Mew</answer> Gull", "Ovenbird"))
    with pytest.raises(SetupError, match="rename the class"):
        check_row(row("Mew</answer> Gull"), names)
