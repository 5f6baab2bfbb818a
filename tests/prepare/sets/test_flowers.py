"""Oxford Flowers 102: CoOp's split, else the official one, else a seeded one."""

import json
from pathlib import Path

import pytest

from divek_verl.class_lists import load_classes

from ..layouts import FLOWERS, flowers, zhou
from ..running import classes, counts, images, prepare, truths


def test_without_any_division_half_and_a_fifth_and_the_rest_round_half_to_even(tmp_path: Path) -> None:
    """49 images a class: 24 train (not 25), 10 validate base classes, and the 15 others validate new ones."""
    flowers(tmp_path / "oxford_flowers", per_class=49)
    out = prepare("flowers", "--data-root", tmp_path, out=tmp_path / "out")
    assert counts(out) == {"train": 3 * 24, "val_base": 3 * 10, "val_new": 2 * 15}


def test_the_official_parts_are_followed_where_they_are_unless_a_split_of_coop_is_there(tmp_path: Path) -> None:
    """Either way test images validate new classes."""
    flowers(tmp_path, setid=True)
    out = prepare("flowers", "--data-root", tmp_path, out=tmp_path / "out")
    assert counts(out) == {"train": 9, "val_base": 9, "val_new": 8}
    assert max(images(out, "train")) <= "image_00015.jpg" < min(images(out, "val_base"))
    assert min(images(out, "val_new")) > "image_00030.jpg"
    entries = [(f"image_{n:05d}.jpg", (n - 1) % 5, FLOWERS[(n - 1) % 5]) for n in range(1, 51)]
    parts = {"train": entries[:20], "val": entries[20:30], "test": entries[30:]}
    zhou(tmp_path / "split_zhou_OxfordFlowers.json", parts)
    out = prepare("flowers", "--data-root", tmp_path, out=tmp_path / "out")
    assert counts(out) == {"train": 12, "val_base": 6, "val_new": 8}
    assert sorted(images(out, "val_new")) == [image for image, label, _ in entries[30:] if label > 2]
    tested = prepare("flowers", "--data-root", tmp_path, "--eval-split", "test", out=tmp_path / "out")
    assert counts(tested) == {"train": 12, "val_base": 12, "val_new": 8}


def test_a_label_belongs_to_the_image_of_its_number_and_names_need_not_be_in_order(tmp_path: Path) -> None:
    flowers(tmp_path)
    shuffled = {str(number): FLOWERS[number - 1] for number in (3, 1, 5, 2, 4)}
    (tmp_path / "cat_to_name.json").write_text(json.dumps(shuffled))
    out = prepare("flowers", "--data-root", tmp_path, out=tmp_path / "out")
    assert classes(out)["all"] == list(FLOWERS)
    for image, truth in zip(images(out, "train"), truths(out, "train"), strict=True):
        # The fixture gives image 1 the first class, image 2 the second, and so on in turn.
        assert truth == FLOWERS[(int(image[6:11]) - 1) % len(FLOWERS)]


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("prince of wales feathers", "plumed celosia"),
        ("cape flower", "guernsey lily"),
        ("watercress", "nasturtium"),
        ("barbeton daisy", "barberton daisy"),
    ],
)
def test_variant_spellings_stand_for_their_flower_whichever_the_list_has(
    tmp_path: Path, name: str, variant: str
) -> None:
    for listed, other in ((name, variant), (variant, name)):
        root = flowers(tmp_path / listed, names=(listed, "pink primrose", "rose", "azalea"))
        out = prepare("flowers", "--data-root", root, out=tmp_path / "out")
        names = load_classes.__wrapped__(str(out), "base")
        assert names.match(other) == names.match(f"{other}.") == names.match(other.replace(" ", "_")) == listed
        assert classes(out)["base"] == [listed, "pink primrose"]
