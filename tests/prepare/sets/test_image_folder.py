"""A user's own folder: each sub-folder is a class."""

import os
from pathlib import Path

import pytest

from ..layouts import paint
from ..running import classes, counts, images, prepare, rows

MUSHROOMS = ("chanterelle", "death_cap", "fly agaric", "morel")


def fill(root: Path, names: tuple[str, ...] = MUSHROOMS, per_class: int = 10, start: int = 0) -> Path:
    for label, name in enumerate(names):
        for index in range(per_class):
            paint(root / name / f"{index}.png", start + label * per_class + index)
    return root


def test_sub_folders_are_classes_in_alphabetical_order(tmp_path: Path) -> None:
    root = fill(tmp_path / "My Mushrooms (2)")
    out = prepare("image_folder", "--data-root", root, out=tmp_path / "out")
    assert classes(out)["all"] == ["chanterelle", "death cap", "fly agaric", "morel"]
    assert counts(out) == {"train": 16, "val_base": 4, "val_new": 4}
    assert rows(out, "train")[0]["data_source"] == "divek/my-mushrooms-2/base"
    assert rows(out, "train")[0]["extra_info"]["image_id"].startswith("chanterelle/")
    named = prepare("image_folder", "--data-root", root, "--name", "fungi", out=tmp_path / "named")
    assert rows(named, "val_new")[0]["data_source"] == "divek/fungi/new"


def test_parts_that_the_folder_has_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for start, (part, count) in enumerate((("train", 5), ("valid", 2), ("test", 3))):
        fill(root / part, per_class=count, start=100 * start)
    out = prepare("image_folder", "--data-root", root, out=tmp_path / "out")
    assert counts(out) == {"train": 10, "val_base": 4, "val_new": 4}
    assert all(image.startswith("valid/") for image in images(out, "val_new"))
    tested = prepare("image_folder", "--data-root", root, "--eval-split", "test", out=tmp_path / "out")
    assert counts(tested) == {"train": 10, "val_base": 6, "val_new": 6}


def test_images_may_lie_deeper_and_other_files_do_not_matter(tmp_path: Path) -> None:
    root = fill(tmp_path / "raw")
    paint(root / "morel/2024/autumn/x.PNG", 900)
    (root / "morel/notes.txt").write_text("found under ash")
    (root / "morel/.hidden.png").write_text("x")
    (root / ".cache").mkdir()
    out = prepare("image_folder", "--data-root", root, "--setting", "all", out=tmp_path / "out")
    assert "morel/2024/autumn/x.PNG" in images(out, "train") + images(out, "val")
    assert sum(counts(out).values()) == 41


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    root = fill(tmp_path / "raw")
    (root / "morel").rename(tmp_path / "elsewhere")
    (root / "morel").symlink_to(tmp_path / "elsewhere")
    (root / "death_cap/again").symlink_to(root / "death_cap")
    (root / "death_cap/up").symlink_to(root)
    (root / "fly agaric/loop").symlink_to("loop")
    out = prepare("image_folder", "--data-root", root, "--setting", "all", "--on-error", "skip", out=tmp_path / "out")
    assert sum(image.startswith("morel/") for image in images(out, "train")) == 8


def test_a_class_folder_that_is_not_utf8_is_named_and_an_image_is_one_of_the_bad_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill(tmp_path / "raw")
    os.rename(root / "morel/0.png", os.fsencode(root) + b"/morel/\xe8.png")
    prepare("image_folder", "--data-root", root, "--setting", "all", out=tmp_path / "out", status=2)
    assert r"morel/\xe8.png has a name that is not UTF-8: fix or remove it" in capsys.readouterr().err
    out = prepare("image_folder", "--data-root", root, "--setting", "all", "--on-error", "skip", out=tmp_path / "out")
    assert sum(counts(out).values()) == 39
    os.rename(root / "morel", os.fsencode(root) + b"/c\xe8pe")
    prepare("image_folder", "--data-root", root, out=tmp_path / "again", status=2)
    assert r"c\xe8pe has a name that is not UTF-8: rename the folder" in capsys.readouterr().err


def test_a_folder_without_classes_and_two_classes_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "twice", names=(*MUSHROOMS, "Death-Cap"))
    for folder, sentence in (
        ("gone", "is no folder: give --data-root one with a sub-folder"),
        ("empty", "has no sub-folder: put the images"),
        ("twice", "one and the same; rename either"),
    ):
        prepare("image_folder", "--data-root", tmp_path / folder, out=tmp_path / "out", status=2)
        assert sentence in capsys.readouterr().err
