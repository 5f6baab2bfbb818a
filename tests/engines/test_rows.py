"""Rows are read as training reads them; what cannot be asked is named."""

from pathlib import Path

import pytest
from PIL import Image

from divek_verl.engines.rows import OpenQuestions, read_open_questions
from divek_verl.errors import SetupError
from divek_verl.prompts import open_question

from .conftest import CLASSES, paint

PIXELS = {"min_pixels": 3136, "max_pixels": 401408}


def test_a_row_is_the_open_question_about_its_picture(rows: OpenQuestions, data: Path) -> None:
    assert rows.keys == [("divek/flags/base", f"train-{index}") for index in range(6)]
    row = rows["divek/flags/base", "train-1"]
    (message,) = row.messages
    picture, text = message["content"]
    assert picture == {"type": "image", "image": str(data / "images" / "train-1.png"), **PIXELS, "upright": True}
    assert text == {"type": "text", "text": open_question("flags", CLASSES.base)}
    assert (row.truth, row.classes.names) == ("Romania", CLASSES.base)
    assert row.classes.match("Rumania") == "Romania"


def test_a_limit_takes_the_first_rows(data: Path) -> None:
    rows = read_open_questions([data / "train.parquet"], **PIXELS, limit=2)
    assert [key[1] for key in rows.keys] == ["train-0", "train-1"]


def test_a_row_that_cannot_be_read_is_named(data: Path) -> None:
    (data / "images" / "train-2.png").write_bytes(b"no picture")
    rows = read_open_questions([data / "train.parquet"], **PIXELS)
    assert rows.left_out == {"unreadable_image": ["train-2"]}
    assert len(rows) == 5


def test_a_repeated_row_is_there_once(data: Path) -> None:
    rows = read_open_questions([data / "train.parquet", data / "train.parquet"], **PIXELS)
    assert (len(rows), rows.repeated) == (6, 6)


def test_a_missing_file_stops_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="does not exist: give a parquet file"):
        read_open_questions([tmp_path / "train.parquet"], **PIXELS)


def test_a_data_source_has_one_class_list(data: Path, tmp_path: Path) -> None:
    from divek_verl.prepare import Classes, write_set

    other = tmp_path / "other"
    names = Classes(("Romania", "Chad", "Peru", "Mali"))
    split = paint(other, "train", "base", 1)
    Image.new("RGB", (112, 84), (1, 2, 3)).save(other / "images" / "train-0.png")
    split = type(split)("train", "base", [type(split.examples[0])("images/train-0.png", "Chad", "x")])
    write_set(other, "flags", names, [split])
    rows = read_open_questions([data / "train.parquet", other / "train.parquet"], **PIXELS)
    with pytest.raises(SetupError, match="mine them one by one"):
        rows.class_lists()
