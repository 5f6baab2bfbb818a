"""A user's own folder: each sub-folder is a class."""

import os
from pathlib import Path

import pytest
from PIL import Image

import divek_verl.images

from ..layouts import MUSHROOMS, paint
from ..running import classes, counts, images, prepare, rows


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


def test_images_may_lie_deeper_and_other_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "raw")
    paint(root / "morel/2024/autumn/x.PNG", 900)
    (root / "morel/notes.txt").write_text("found under ash")
    (root / "morel/.hidden.png").write_text("x")
    (root / ".cache").mkdir()
    arguments = ["--data-root", root, "--setting", "all", "--depth", "top"]
    out = prepare("image_folder", *arguments, out=tmp_path / "out")
    assert "morel/2024/autumn/x.PNG" in images(out, "train") + images(out, "val")
    assert sum(counts(out).values()) == 41
    assert "ignored, no image of a class: 1 .txt" in capsys.readouterr().out


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


def test_nested_folders_are_refused_or_their_innermost_ones_are_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("apple/gala", "apple/boskoop", "pear/anjou", "pear/kaiser")):
        fill(tmp_path / "raw", names=(name,), start=100 * number)
    root = ["--data-root", tmp_path / "raw"]
    prepare("image_folder", *root, out=tmp_path / "out", status=2)
    assert "raw/apple holds a folder of images (apple/boskoop): with --depth leaf" in capsys.readouterr().err
    out = prepare("image_folder", *root, "--depth", "leaf", out=tmp_path / "out")
    assert classes(out)["all"] == ["anjou", "boskoop", "gala", "kaiser"]
    assert counts(out) == {"train": 16, "val_base": 4, "val_new": 4}
    fill(tmp_path / "raw", names=("pear/gala",), start=400)
    prepare("image_folder", *root, "--depth", "leaf", out=tmp_path / "out", status=2)
    assert "raw/apple/gala and " in capsys.readouterr().err


def test_the_classes_to_hold_out_are_given_and_all_of_them_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--data-root", fill(tmp_path / "raw")]
    (tmp_path / "raw/truffle").mkdir()
    (tmp_path / "new.txt").write_text("Chanterelle\n\nfly_agaric\n")
    out = prepare("image_folder", *root, "--new-classes", tmp_path / "new.txt", out=tmp_path / "out")
    assert (classes(out)["base"], classes(out)["new"]) == (["death cap", "morel"], ["chanterelle", "fly agaric"])
    assert {image.partition("/")[0] for image in images(out, "val_new")} == {"chanterelle", "fly agaric"}
    shown = capsys.readouterr().out.splitlines()
    assert "base (2): death cap, morel" in shown and "new (2): chanterelle, fly agaric" in shown
    assert "left out, no training image: truffle" in shown
    assert "in no file: 16 of 40 images (16 train images of new classes)" in shown
    for text, setting, sentence in (
        ("morel\nporcini\n", "base-to-novel", "names porcini: no class of raw"),
        ("morel\n", "all", "--new-classes holds no class out with --setting all"),
        (None, "base-to-novel", "cannot be read"),
    ):
        file = tmp_path / f"{text}.txt"
        if text:
            file.write_text(text)
        prepare("image_folder", *root, "--new-classes", file, "--setting", setting, out=tmp_path / "x", status=2)
        assert sentence in capsys.readouterr().err


def test_photographs_of_telephones_are_read_or_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "raw")
    for path in list((root / "morel").iterdir()):
        Image.open(path).save(path.with_suffix(".HEIC"), "HEIF")
        path.unlink()
    arguments = ["--data-root", root, "--setting", "all"]
    assert sum(counts(prepare("image_folder", *arguments, out=tmp_path / "out")).values()) == 40
    monkeypatch.setattr(divek_verl.images, "FORMATS", ("PNG",))
    prepare("image_folder", *arguments, out=tmp_path / "out", status=2)
    error = capsys.readouterr().err
    assert "10 images cannot be used" in error
    assert error.count("is a HEIC picture: install pillow-heif (divek_verl[heic])") == 10


@pytest.mark.parametrize("name", ["A", "b.", "E. coli"])
def test_a_class_that_reads_as_a_letter_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "raw", names=(*MUSHROOMS, name))
    prepare("image_folder", "--data-root", tmp_path / "raw", out=tmp_path / "out", status=2)
    assert f"would be read as the option {name[0].upper()} of a question: write it out" in capsys.readouterr().err


def test_a_folder_without_classes_and_two_classes_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "twice", names=(*MUSHROOMS, "Death-Cap"))
    for folder, sentence in (
        ("gone", "is no folder: give --data-root one with a sub-folder"),
        ("empty", "has no sub-folder of images: put the images"),
        ("twice", f"{tmp_path}/twice/Death-Cap and {tmp_path}/twice/death_cap name one class: rename or merge"),
    ):
        prepare("image_folder", "--data-root", tmp_path / folder, out=tmp_path / "out", status=2)
        assert sentence in capsys.readouterr().err
