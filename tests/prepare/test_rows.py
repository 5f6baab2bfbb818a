"""Rows in verl's schema."""

from divek_verl.labels import ClassNames
from divek_verl.prepare import Example, Split
from divek_verl.prepare.rows import SCHEMA, RowBuilder
from divek_verl.prompts import Wording

BIRDS = ("Sooty Albatross", "Mew Gull")
BUILDER = RowBuilder("cub", Split("train", "base", []), ClassNames(BIRDS), Wording("bird", "species"))


def test_a_row_has_verls_columns() -> None:
    row = BUILDER.build(Example("images/a.png", BIRDS[0], "0"), 7)
    assert list(row) == SCHEMA.names
    assert row["data_source"] == "divek/cub/base"
    assert row["images"] == [{"image": "images/a.png"}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": BIRDS[0]}
    assert row["extra_info"] == {"index": 7, "split": "train", "image_id": "0", "dataset": "cub"}


def test_a_row_can_hold_its_picture() -> None:
    assert BUILDER.build(Example("a.png", BIRDS[0], "0"), 0, b"x")["images"] == [{"bytes": b"x"}]


def test_the_prompt_shows_the_picture_before_the_class_list() -> None:
    (message,) = BUILDER.build(Example("a.png", BIRDS[0], "0"), 0)["prompt"]
    assert message["role"] == "user"
    assert message["content"].startswith("<image>Look at the bird in the image")
    assert all(name in message["content"] for name in BIRDS)


def test_every_validation_file_is_of_stage_val() -> None:
    assert [Split(name, "all", []).stage for name in ("train", "val", "val_base", "val_new")] == ["train"] + ["val"] * 3
