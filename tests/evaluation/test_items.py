"""Rows as items: sorted, each once, with the picture of its file; whatever is wrong with the setup is one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from divek_verl.errors import SetupError
from divek_verl.evaluation.items import Item, read_items
from divek_verl.prompts import open_question

from .fabricated_set import BASE, row, write_rows, write_set

BOUNDS = {"min_pixels": 3136, "max_pixels": 401408}


def read(*paths: Path, **options: Any) -> list[Item]:
    return read_items(paths, **BOUNDS, **options)[0]


def test_a_row_becomes_its_open_question(tmp_path: Path) -> None:
    paths = write_set(tmp_path, {"base": 2})
    item = read(*paths)[1]
    assert (item.data_source, item.image_id, item.truth) == ("divek/flags/base", "base-001", "Romania")
    assert item.image == str(tmp_path / "images" / "base-1.png")
    picture, text = item.question.messages[0]["content"]
    assert picture == {"type": "image", "image": item.image, **BOUNDS}
    assert text == {"type": "text", "text": open_question("flags", BASE)}
    assert (item.question.key, item.question.dataset) == ("divek/flags/base-base-001", "flags")
    assert item.question.classes.names == BASE


def test_neither_the_order_of_files_nor_that_of_rows_matters(tmp_path: Path) -> None:
    base, new = write_set(tmp_path, {"base": 4, "new": 3})
    shuffled = tmp_path / "shuffled.parquet"
    write_rows(shuffled, [row(tmp_path, "flags", "base", index) for index in (2, 0, 3, 1)])
    assert [item.key for item in read(new, base)] == [item.key for item in read(base, new)]
    assert [item.key for item in read(shuffled)] == [item.key for item in read(base)]


def test_files_are_told_apart_by_content(tmp_path: Path) -> None:
    paths = write_set(tmp_path, {"base": 2, "new": 2})
    files = read_items(paths, **BOUNDS)[1]
    assert [(file.path, file.rows) for file in files] == [(str(path), 2) for path in paths]
    assert files[0].sha256 != files[1].sha256


def test_the_truth_is_the_display_name_of_what_the_row_says(tmp_path: Path) -> None:
    write_set(tmp_path, {})
    write_rows(tmp_path / "a.parquet", [row(tmp_path, "flags", "base", 0, reward_model={"ground_truth": "tchad"})])
    assert read(tmp_path / "a.parquet")[0].truth == "Chad"


def test_an_embedded_picture_needs_no_file(tmp_path: Path) -> None:
    write_set(tmp_path, {})
    content = Path(tmp_path / "x.png")
    Image.new("RGB", (32, 32)).save(content)
    write_rows(
        tmp_path / "a.parquet",
        [row(tmp_path, "flags", "base", 0, images=[{"bytes": content.read_bytes(), "image": None}])],
    )
    item = read(tmp_path / "a.parquet")[0]
    assert item.image == ""
    assert item.question.messages[0]["content"][0]["image"].startswith("data:image/")


def test_a_missing_or_damaged_picture_is_found_when_it_is_asked_and_not_before(tmp_path: Path) -> None:
    write_set(tmp_path, {})
    rows = [
        row(tmp_path, "flags", "base", 0, images=[{"image": "images/none.png", "bytes": None}]),
        row(tmp_path, "flags", "base", 1, images=[{"image": None, "bytes": b"no picture"}]),
    ]
    write_rows(tmp_path / "a.parquet", rows)
    assert len(read(tmp_path / "a.parquet")) == 2


def test_rows_of_other_tasks_are_left_to_others(tmp_path: Path) -> None:
    write_set(tmp_path, {})
    write_rows(
        tmp_path / "a.parquet",
        [row(tmp_path, "flags", "base", 0), row(tmp_path, "flags", "base", 1, data_source="openai/gsm8k")],
    )
    assert len(read(tmp_path / "a.parquet")) == 1


def test_a_row_without_an_id_has_its_place(tmp_path: Path) -> None:
    write_set(tmp_path, {})
    write_rows(tmp_path / "a.parquet", [row(tmp_path, "flags", "base", index, extra_info=None) for index in range(2)])
    assert [item.image_id for item in read(tmp_path / "a.parquet")] == ["0", "1"]


def wrong(tmp_path: Path, message: str, *paths: Path, **options: Any) -> None:
    with pytest.raises(SetupError, match=message) as error:
        read(*paths, **options)
    assert "\n" not in str(error.value)


def test_one_image_twice(tmp_path: Path) -> None:
    (base,) = write_set(tmp_path, {"base": 2})
    wrong(tmp_path, "a second time", base, base)


def test_a_truth_outside_the_class_list(tmp_path: Path) -> None:
    write_set(tmp_path, {})
    path = tmp_path / "a.parquet"
    write_rows(path, [row(tmp_path, "flags", "base", 0, reward_model={"ground_truth": "Atlantis"})])
    wrong(tmp_path, "'Atlantis' of image base-000 is not among the classes 'base'", path)
    assert read(path, open_vocabulary=True)[0].truth == "Atlantis"


def test_a_file_that_is_not_there_or_no_parquet(tmp_path: Path) -> None:
    wrong(tmp_path, "does not exist", tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("text")
    wrong(tmp_path, "cannot be read as parquet", tmp_path / "text.parquet")
    write_rows(tmp_path / "other.parquet", [{"a": 1}])
    wrong(tmp_path, "no column 'data_source'", tmp_path / "other.parquet")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    wrong(tmp_path, "is a folder: give --data its parquet files", tmp_path)


def test_no_class_list(tmp_path: Path) -> None:
    (base,) = write_set(tmp_path, {"base": 1})
    elsewhere = tmp_path / "elsewhere" / "val.parquet"
    elsewhere.parent.mkdir()
    base.rename(elsewhere)
    wrong(tmp_path, "classes.json is missing", elsewhere)


def test_no_row_at_all(tmp_path: Path) -> None:
    write_set(tmp_path, {})
    write_rows(tmp_path / "a.parquet", [row(tmp_path, "flags", "base", 0, data_source="openai/gsm8k")])
    wrong(tmp_path, "hold no row of DiVE-k", tmp_path / "a.parquet")


def test_a_prompt_without_a_place_for_its_picture(tmp_path: Path) -> None:
    write_set(tmp_path, {})
    prompt = [{"role": "user", "content": "which flag?"}]
    write_rows(tmp_path / "a.parquet", [row(tmp_path, "flags", "base", 0, prompt=prompt)])
    wrong(tmp_path, "Row 0 of .* cannot be asked", tmp_path / "a.parquet")


def test_the_class_lists_of_a_mixed_set_are_told_apart(tmp_path: Path) -> None:
    lists = {"flags": {"base": list(BASE)}, "pets": {"base": ["Beagle", "Boxer", "Pug"]}}
    (tmp_path / "classes.json").write_text(json.dumps({"sets": lists}))
    pets = row(tmp_path, "pets", "base", 1, reward_model={"ground_truth": "Boxer"})
    write_rows(tmp_path / "a.parquet", [row(tmp_path, "flags", "base", 0), pets])
    assert [item.question.classes.names for item in read(tmp_path / "a.parquet")] == [BASE, ("Beagle", "Boxer", "Pug")]
