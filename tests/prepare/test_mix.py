"""Several prepared sets as one of mixed domains."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from divek_verl.class_lists import classes_of, image_root, wording_of
from divek_verl.prompts import Wording

from .layouts import MUSHROOMS, aircraft, cub, paint
from .running import counts, prepare, rows, truths


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    return prepare("cub", "--data-root", cub(tmp_path / "raw/CUB_200_2011"), out=tmp_path / "birds")


@pytest.fixture
def planes(tmp_path: Path) -> Path:
    """One of the aircraft is called as one of the birds."""
    names = ("707-320", "Sooty Albatross", "F-16A/B", "Yak-42")
    return prepare("aircraft", "--data-root", aircraft(tmp_path / "raw/data", names=names), out=tmp_path / "planes")


def mix(*sets: object, out: Path, status: int = 0) -> Path:
    return prepare("mix", *sets, out=out, status=status)


def test_each_row_keeps_its_own_question(tmp_path: Path, birds: Path, planes: Path) -> None:
    out = mix(birds, planes, out=tmp_path / "mixed")
    assert counts(out) == {name: counts(birds)[name] + counts(planes)[name] for name in counts(birds)}
    assert [row["extra_info"]["index"] for row in rows(out, "train")] == list(range(counts(out)["train"]))
    for name in counts(out):
        for row in rows(out, name):
            assert (image_root(str(out), row["extra_info"]["dataset"]) / row["images"][0]["image"]).is_file()
        kept = [row["prompt"] for row in rows(out, name)]
        assert kept == [row["prompt"] for each in (birds, planes) for row in rows(each, name)]
    first, last = rows(out, "train")[0], rows(out, "train")[-1]
    assert "bird" in first["prompt"][0]["content"] and "aircraft" not in first["prompt"][0]["content"]
    assert "aircraft" in last["prompt"][0]["content"]
    wordings = [wording_of(str(out), row["data_source"]) for row in (first, last)]
    assert wordings == [Wording("bird", "species"), Wording("aircraft", "make and model")]


def test_equal_names_of_two_sets_do_not_clash(tmp_path: Path, birds: Path, planes: Path) -> None:
    out = mix(birds, planes, out=tmp_path / "mixed")
    named = [row for row in rows(out, "train") if row["reward_model"]["ground_truth"] == "Sooty Albatross"]
    assert {row["data_source"] for row in named} == {"divek/cub/base", "divek/aircraft/base"}
    assert classes_of(str(out), "divek/aircraft/base").names == ("707-320", "Sooty Albatross")
    assert len(classes_of(str(out), "divek/cub/base")) == 3


def test_per_class_limits_training_and_validation_stays_whole(tmp_path: Path, birds: Path, planes: Path) -> None:
    out = mix(birds, planes, "--per-class", 2, out=tmp_path / "mixed")
    drawn = Counter((row["data_source"], row["reward_model"]["ground_truth"]) for row in rows(out, "train"))
    assert set(drawn.values()) == {2} and len(drawn) == 5
    assert counts(out)["val_new"] == counts(birds)["val_new"] + counts(planes)["val_new"]
    again = mix(birds, planes, "--per-class", 2, out=tmp_path / "again")
    assert (out / "train.parquet").read_bytes() == (again / "train.parquet").read_bytes()


def test_images_by_path_and_by_content_can_be_mixed(tmp_path: Path, birds: Path) -> None:
    raw = tmp_path / "raw/data"
    planes = prepare("aircraft", "--data-root", aircraft(raw), "--embed-images", out=tmp_path / "planes")
    out = mix(birds, planes, out=tmp_path / "mixed")
    first, last = rows(out, "train")[0]["images"][0], rows(out, "train")[-1]["images"][0]
    assert first["bytes"] is None and first["image"]
    assert last["bytes"] and last["image"] is None
    both = mix(planes, out=tmp_path / "one")
    assert pq.read_schema(both / "train.parquet").equals(pq.read_schema(planes / "train.parquet"))


def test_a_mixed_set_can_be_mixed_again(tmp_path: Path, birds: Path, planes: Path) -> None:
    for number in range(40):
        paint(tmp_path / "raw/mine" / MUSHROOMS[number % 4] / f"{number}.png", number)
    mine = prepare("image_folder", "--data-root", tmp_path / "raw/mine", out=tmp_path / "mine")
    out = mix(mix(birds, planes, out=tmp_path / "two"), mine, out=tmp_path / "three")
    assert list(json.loads((out / "classes.json").read_text())["sets"]) == ["cub", "aircraft", "mine"]
    assert truths(out, "val_new")[-1] == "morel"


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ("birds", "Two of the sets are called 'cub'"),
        ("few", "prepare both with the same --setting"),
        ("nowhere", "is no prepared set (no readable classes.json): prepare it first"),
    ],
)
def test_sets_that_do_not_go_together_are_refused(
    tmp_path: Path, birds: Path, second: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if second == "few":
        root = aircraft(tmp_path / "raw/data")
        prepare("aircraft", "--data-root", root, "--setting", "few-shot", out=tmp_path / "few")
    mix(birds, tmp_path / second, out=tmp_path / "mixed", status=2)
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "mixed").exists()
