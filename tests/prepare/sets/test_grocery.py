"""The Grocery Store Dataset in its official layout."""

from pathlib import Path

import pytest

from divek_verl.class_lists import load_classes

from ..layouts import grocery
from ..running import classes, counts, images, prepare, rows, truths


@pytest.mark.parametrize("folder", ["GroceryStoreDataset/dataset", "."])
def test_groups_stay_whole_and_alternate_between_base_and_new(tmp_path: Path, folder: str) -> None:
    grocery(tmp_path / folder)
    out = prepare("grocery", "--data-root", tmp_path, "--eval-split", "test", out=tmp_path / "out")
    # Apples are base, melons new and yoghurt base again; avocados are base and aubergines new.
    base = ["Golden Delicious", "Granny Smith", "Avocado", "Arla Natural Yoghurt", "Yoggi Vanilla Yoghurt"]
    assert (classes(out)["base"], classes(out)["new"]) == (base, ["Cantaloupe", "Honeydew Melon", "Aubergine"])
    assert counts(out) == {"train": 50, "val_base": 20, "val_new": 12}
    assert truths(out, "val_new") == ["Cantaloupe"] * 4 + ["Honeydew Melon"] * 4 + ["Aubergine"] * 4
    assert images(out, "val_new")[-1] == "test/Vegetables/Aubergine/Aubergine_004.jpg"
    assert load_classes.__wrapped__(str(out), "base").match("golden delicious apple") == "Golden Delicious"
    assert load_classes.__wrapped__(str(out), "base").match("Arla natural yogurt") == "Arla Natural Yoghurt"
    assert load_classes.__wrapped__(str(out), "new").match("eggplant") == "Aubergine"


def test_images_of_every_class_are_set_apart_for_a_warm_start(tmp_path: Path) -> None:
    root = ["--data-root", grocery(tmp_path / "raw"), "--eval-split", "test"]
    apart = [*root, "--setting", "pretrain-shots", "--shots", 4]
    out = prepare("grocery", *apart, out=tmp_path / "out")
    plain = prepare("grocery", *root, out=tmp_path / "plain")
    assert counts(out) == {"pretrain": 32, "train": 30, "val_base": 20, "val_new": 12}
    assert {row["data_source"] for row in rows(out, "pretrain")} == {"divek/grocery/all"}
    assert {row["extra_info"]["split"] for row in rows(out, "pretrain")} == {"pretrain"}
    found = [image for name in counts(out) for image in images(out, name)]
    assert len(found) == len(set(found))
    assert images(out, "val_new") == images(plain, "val_new")
    again = prepare("grocery", *apart, "--seed", 1, out=tmp_path / "again")
    assert images(again, "pretrain") != images(out, "pretrain")


def test_what_is_set_apart_is_in_no_other_file_by_content_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = grocery(tmp_path / "raw")
    apart = ["--data-root", root, "--setting", "pretrain-shots", "--shots", 4, "--eval-split", "test"]
    out = prepare("grocery", *apart, out=tmp_path / "out")
    pretrain, train, val = (images(out, name)[0] for name in ("pretrain", "train", "val_base"))
    (root / train).write_bytes((root / pretrain).read_bytes())
    (root / images(out, "pretrain")[1]).write_bytes((root / val).read_bytes())
    prepare("grocery", *apart, out=tmp_path / "out", status=2)
    error = capsys.readouterr().err
    assert f"{train} has the same content as {pretrain}, which is held out" in error
    assert f"has the same content as {val}, which is held out" in error


def test_a_class_that_would_have_no_training_image_left_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = grocery(tmp_path / "raw")
    arguments = ["--data-root", root, "--setting", "pretrain-shots", "--shots", 10]
    prepare("grocery", *arguments, out=tmp_path / "out", status=2)
    assert "Golden Delicious has no training image beside the 10 of --shots: lower it" in capsys.readouterr().err
