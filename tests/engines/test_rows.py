"""Prepared rows: the questions that training asks; whatever is wrong with the set-up is one sentence."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image

from divek_verl.engines.rows import PreparedRow, PreparedRows, read_rows
from divek_verl.errors import SetupError
from divek_verl.prepare import Classes, Example, Split, write_set
from divek_verl.prompts import Wording, open_question, user_prompt

from .conftest import CLASSES, paint

PIXELS = {"min_pixels": 3136, "max_pixels": 401408}
BASE = CLASSES.base


def picture(size: int = 32, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (size, size), (size % 256, 40, 200)).save(content, kind)
    return content.getvalue()


def row(index: int, dataset: str = "flags", names: tuple[str, ...] = BASE, **changes: Any) -> dict[str, Any]:
    return {
        "data_source": f"divek/{dataset}/base",
        "prompt": user_prompt(open_question(Wording(), names)),
        "images": [{"image": f"images/train-{index}.png", "bytes": None}],
        "ability": "classification",
        "reward_model": {"style": "rule", "ground_truth": names[index % len(names)]},
        "extra_info": {"index": index, "split": "train", "image_id": f"train-{index}"},
        **changes,
    }


def write(folder: Path, *rows: dict[str, Any], name: str = "rows", group: int | None = None) -> Path:
    path = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=group)
    return path


def read(*paths: Path, **options: Any) -> PreparedRows:
    return read_rows(paths, **PIXELS, **options)


def only(path: Path, **options: Any) -> PreparedRow:
    (found,) = read(path, **options)
    return found


def wrong(message: str, *paths: Path, **options: Any) -> None:
    with pytest.raises(SetupError, match=message) as error:
        read(*paths, **options)
    assert "\n" not in str(error.value)


def as_training_sees_them(*paths: Path) -> list[Any]:
    from divek_verl.trainer.dataset import DiveKDataset

    config = OmegaConf.create({"divek": PIXELS})
    dataset = DiveKDataset([str(path) for path in paths], tokenizer=None, config=config, processor=object())
    return [dataset[index]["raw_prompt"] for index in range(len(dataset))]


def test_a_row_is_the_open_question_about_its_picture(rows: PreparedRows, data: Path) -> None:
    assert rows.keys == [("divek/flags/base", f"train-{index}") for index in range(6)]
    found = rows["divek/flags/base", "train-1"]
    (message,) = found.messages
    shown, text = message["content"]
    assert shown == {"type": "image", "image": found.image, **PIXELS, "upright": True}
    assert found.image == str(data / "images" / "train-1.png")
    assert text == {"type": "text", "text": open_question(Wording(), BASE)}
    assert (found.truth, found.classes.names, found.wording) == ("Romania", BASE, Wording())
    assert found.classes.match("Rumania") == "Romania"


def test_messages_are_those_of_training(data: Path) -> None:
    system = [{"role": "system", "content": "Be brief."}, *user_prompt("Which flag? <b>")]
    path = write(data, row(0), row(1, prompt=system))
    assert [found.messages for found in read(path)] == as_training_sees_them(path)


@pytest.mark.parametrize("group", [None, 2])
def test_messages_about_embedded_pictures_are_those_of_training(data: Path, group: int | None) -> None:
    contents = [picture(30 + index, kind) for index, kind in enumerate(("PNG", "JPEG", "WEBP", "GIF", "PNG"))]
    rows = [row(index, images=[{"bytes": content, "path": None}]) for index, content in enumerate(contents)]
    path = write(data, *rows, group=group)
    found = read(path)
    assert [each.messages for each in found] == as_training_sees_them(path)
    assert found[found.keys[3]].messages[0]["content"][0]["image"].startswith("data:image/gif;base64,")
    assert {each.image for each in found} == {""}


def test_messages_of_a_mixed_set_are_those_of_training(data: Path) -> None:
    pets = ("Beagle", "Boxer", "Pug")
    nouns = {"thing": "pet", "kind": "breed"}
    lists = {"flags": {"base": list(BASE)}, "pets": {"base": list(pets), "wording": nouns}}
    (data / "classes.json").write_text(json.dumps({"sets": lists}))
    both = write(data, row(0), row(1, images=[{"image": None, "bytes": picture()}]), name="flags")
    path = write(data, *(row(index, "pets", pets, images=[{"image": "images/train-2.png"}]) for index in (1, 2)))
    found = read(both, path)
    assert [each.messages for each in found] == as_training_sees_them(both, path)
    assert [each.classes.names for each in found] == [BASE, BASE, pets, pets]
    assert [each.wording for each in found] == [Wording()] * 2 + [Wording("pet", "breed")] * 2
    assert {source: names.names for source, names in found.classes.items()} == {
        "divek/flags/base": BASE,
        "divek/pets/base": pets,
    }


def test_a_limit_takes_the_first_rows(data: Path) -> None:
    assert [key[1] for key in read(data / "train.parquet", limit=2).keys] == ["train-0", "train-1"]


def test_files_are_told_apart_by_content(data: Path) -> None:
    paths = [write(data, row(index), name=str(index)) for index in range(2)]
    files = read(*paths).files
    assert [(file.path, file.rows) for file in files] == [(str(path), 1) for path in paths]
    assert files[0].sha256 != files[1].sha256


def test_the_truth_is_the_display_name_of_what_the_row_says(data: Path) -> None:
    assert only(write(data, row(1, reward_model={"ground_truth": "rumania"}))).truth == "Romania"


@pytest.mark.parametrize("entry", [{"image": "images/none.png", "bytes": None}, {"image": None, "bytes": b"none"}])
def test_a_missing_or_damaged_picture_is_found_when_it_is_asked_about(data: Path, entry: dict[str, Any]) -> None:
    assert only(write(data, row(0, images=[entry]))).messages[0]["content"][0]["image"]


def test_rows_of_other_tasks_are_counted(data: Path) -> None:
    found = read(write(data, row(0), row(1, data_source="openai/gsm8k")))
    assert (len(found), found.others) == (1, 1)
    wrong("hold no row of DiVE-k", write(data, row(0, data_source="openai/gsm8k")))


@pytest.mark.parametrize("info", [None, {"image_id": None, "index": None}])
def test_a_row_without_an_id_has_its_number(data: Path, info: Any) -> None:
    found = read(write(data, *(row(index, extra_info=info) for index in range(2))))
    assert [key[1] for key in found.keys] == ["0", "1"]
    assert only(write(data, row(0, extra_info={"index": 7}))).image_id == "7"


def test_a_repeated_image_is_refused(data: Path) -> None:
    wrong("'train-0' of divek/flags/base a second time", data / "train.parquet", data / "train.parquet")


def test_a_truth_outside_the_class_list(data: Path) -> None:
    path = write(data, row(0, reward_model={"ground_truth": "Atlantis"}))
    wrong("'Atlantis' of image train-0 is not among the classes 'base'", path)
    assert only(path, open_vocabulary=True).truth == "Atlantis"


def test_a_file_that_is_not_there_or_no_parquet(data: Path) -> None:
    wrong("does not exist: give --data the parquet file", data / "none.parquet")
    (data / "text.parquet").write_text("text")
    wrong("cannot be read as parquet", data / "text.parquet")
    wrong("no column 'data_source'", write(data, {"a": 1}))
    (data / "empty").mkdir()
    wrong("holds no [*].parquet", data / "empty")
    os.mkfifo(data / "pipe.parquet")
    wrong("is no regular file", data / "pipe.parquet")


def test_pixel_bounds_that_cannot_work(data: Path) -> None:
    with pytest.raises(SetupError, match="Pictures of 9 to 4 pixels do not exist"):
        read_rows([data / "train.parquet"], min_pixels=9, max_pixels=4)


def test_no_class_list(data: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    wrong("classes.json is missing", write(tmp_path / "elsewhere", row(0)))


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": asked("which flag?")}, "1 pictures, and its prompt 0 times <image>"),
        ({"prompt": asked("<image><image>which?")}, "1 pictures, and its prompt 2 times <image>"),
        ({"images": []}, "0 pictures, and its prompt 1 times <image>"),
        ({"images": None}, "0 pictures, and its prompt 1 times <image>"),
        ({"images": None, "prompt": asked("which flag?")}, "0 pictures, and its prompt 0 times <image>"),
        ({"images": [{"image": None}]}, "a picture with neither a path nor bytes"),
        ({"images": [{"bytes": b"", "image": ""}]}, "a picture with neither a path nor bytes"),
        ({"images": ["images/train-0.png"]}, "a picture with neither a path nor bytes"),
        ({"reward_model": {"ground_truth": None}}, "the truth None, which is no class name"),
        ({"reward_model": {"ground_truth": 3}}, "the truth 3, which is no class name"),
        ({"reward_model": "Chad", "prompt": ["<image>"]}, "the truth None, which is no class name"),
        ({"prompt": ["<image>which?"]}, "a prompt that is no list of messages"),
        ({"reward_model": None}, "the truth None, which is no class name"),
        ({"data_source": None}, "the data_source None, which is no text"),
        ({"data_source": 7}, "the data_source 7, which is no text"),
        ({"prompt": None}, "a prompt that is no list of messages"),
        ({"prompt": asked("")}, "a prompt that is no list of messages"),
        ({"extra_info": "train-0"}, "an extra_info that is no record"),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_by_its_number_in_training_too(
    data: Path, changes: dict[str, Any], sentence: str
) -> None:
    path = write(data, row(0, **changes))
    wrong(f"Row 0 of .*rows.parquet has {sentence}", path)
    with pytest.raises(SetupError, match=f"Row 0 of .*rows.parquet has {sentence}"):
        as_training_sees_them(path)


def test_a_data_source_has_one_class_list(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    paint(other, "other", "base", 1)
    split = Split("train", "base", [Example("images/other-0.png", "Chad", "x")])
    write_set(other, "flags", Classes(("Romania", "Chad", "Peru", "Mali")), [split])
    wrong("give such files singly", data / "train.parquet", other / "train.parquet")
