"""CUB-200-2011 in its official layout."""

from pathlib import Path

import pytest

from divek_verl.class_lists import load_classes
from divek_verl.prepare.sets.cub import class_name

from ..layouts import BIRDS, cub, zhou
from ..running import classes, counts, images, prepare, truths


@pytest.mark.parametrize(
    ("trained", "options", "expected"),
    [
        # As in the reference: 24 and 6 of the 30 images of a class; the official test images stay unused.
        (30, [], {"train": 72, "val_base": 18, "val_new": 12}),
        (29, [], {"train": 69, "val_base": 18, "val_new": 12}),
        (10, ["--eval-split", "test"], {"train": 24, "val_base": 9, "val_new": 6}),
    ],
)
def test_a_fifth_of_the_training_images_or_the_official_test_images_validate(
    tmp_path: Path, trained: int, options: list[str], expected: dict[str, int]
) -> None:
    cub(tmp_path / "CUB_200_2011", trained=trained, tested=3)
    assert counts(prepare("cub", "--data-root", tmp_path, *options, out=tmp_path / "out/cub")) == expected


def test_names_are_as_people_write_them(tmp_path: Path) -> None:
    cub(tmp_path)
    out = prepare("cub", "--data-root", tmp_path, out=tmp_path / "out")
    base = ["Black footed Albatross", "Laysan Albatross", "Sooty Albatross"]
    new = ["Groove billed Ani", "Crested Auklet"]
    wording = {"thing": "bird", "kind": "species"}
    assert classes(out) == {"base": base, "new": new, "all": [*base, *new], "aliases": {}, "wording": wording}
    for image, truth in zip(images(out, "val_new"), truths(out, "val_new"), strict=True):
        assert class_name(image.split("/")[0]) == truth
    names = load_classes(str(out), "base")
    for spelling in ("Black-footed Albatross", "black_footed_albatross", "Black footed Albatross."):
        assert names.match(spelling) == "Black footed Albatross"


def test_misspelt_names_have_the_right_ones_as_aliases(tmp_path: Path) -> None:
    cub(tmp_path, names=(*BIRDS, "006.Artic_Tern", "007.Geococcyx"))
    out = prepare("cub", "--data-root", tmp_path, out=tmp_path / "out")
    names = load_classes(str(out), "new")
    assert names.match("Arctic tern") == "Artic Tern"
    assert names.match("greater roadrunner") == "Geococcyx"


def test_a_split_of_coop_is_followed(tmp_path: Path) -> None:
    cub(tmp_path)
    listed = sorted(path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").glob("*/*"))
    # The reference's builder ends each name with a full stop.
    entries = [(image, int(image[:3]) - 1, f"{class_name(image.split('/')[0])}.") for image in listed]
    zhou(tmp_path / "split_zhou_CUB.json", {"train": entries[::3], "val": entries[1::3], "test": entries[2::3]})
    out = prepare("cub", "--data-root", tmp_path, out=tmp_path / "out")
    assert classes(out)["new"] == ["Groove billed Ani", "Crested Auklet"]
    assert images(out, "train") == [image for image, label, _ in entries[::3] if label < 3]
    assert images(out, "val_base") == [image for image, label, _ in entries[1::3] if label < 3]
    assert images(out, "val_new") == [image for image, label, _ in entries[1::3] if label > 2]
