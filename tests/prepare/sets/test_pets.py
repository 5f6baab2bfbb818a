"""Oxford-IIIT Pet in its official layout."""

from pathlib import Path

import pytest

from divek_verl.class_lists import load_classes

from ..layouts import pets, zhou
from ..running import classes, counts, images, prepare, truths


@pytest.mark.parametrize("name", ["oxford-iiit-pet", "oxford_pets", "."])
def test_breeds_are_in_lower_case_in_the_order_of_their_ids(tmp_path: Path, name: str) -> None:
    pets(tmp_path / name, trained=10, tested=4)
    out = prepare("pets", "--data-root", tmp_path, "--eval-split", "test", out=tmp_path / "out")
    base, new = ["abyssinian", "american bulldog", "basset hound"], ["bengal", "maine coon"]
    wording = {"thing": "pet", "kind": "breed"}
    assert classes(out) == {"base": base, "new": new, "all": [*base, *new], "aliases": {}, "wording": wording}
    assert load_classes.__wrapped__(str(out), "base").match("American_Bulldog") == "american bulldog"
    # Training and test images are the official ones.
    assert counts(out) == {"train": 24, "val_base": 12, "val_new": 8}
    assert set(images(out, "val_new")) == {
        f"{name}_{n}.jpg" for name in ("Bengal", "Maine_Coon") for n in (11, 12, 13, 14)
    }
    assert truths(out, "val_new") == ["bengal"] * 4 + ["maine coon"] * 4


def test_a_split_of_coop_is_followed_without_the_annotations(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "annotations").rename(tmp_path.parent / f"{tmp_path.name}-away")
    names = ("abyssinian", "american_bulldog", "basset_hound", "Bengal")
    stems = ("Abyssinian", "american_bulldog", "basset_hound", "Bengal")
    parts = {
        part: [(f"{stem}_{n}.jpg", label, names[label]) for label, stem in enumerate(stems) for n in numbers]
        for part, numbers in (("train", (1, 2, 3)), ("val", (4,)), ("test", (5, 6)))
    }
    zhou(tmp_path / "split_zhou_OxfordPets.json", parts)
    out = prepare("pets", "--data-root", tmp_path, out=tmp_path / "out")
    assert classes(out)["all"] == ["abyssinian", "american bulldog", "basset hound", "bengal"]
    assert counts(out) == {"train": 6, "val_base": 2, "val_new": 2}
