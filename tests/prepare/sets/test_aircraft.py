"""FGVC-Aircraft in its official layout and in those of CoOp and DiVE-k."""

from pathlib import Path

import pytest

from ..layouts import VARIANTS, aircraft
from ..running import classes, counts, images, prepare, truths


@pytest.mark.parametrize(
    "folder", ["fgvc-aircraft-2013b/data", "data", "fgvc_aircraft", "fgvc_aircraft/fgvc_aircraft", "."]
)
def test_every_nesting_is_found_and_variants_keep_their_spaces_slashes_and_order(tmp_path: Path, folder: str) -> None:
    aircraft(tmp_path / folder)
    out = prepare("aircraft", "--data-root", tmp_path, out=tmp_path / "out")
    assert counts(out) == {"train": 12, "val_base": 12, "val_new": 8}
    assert classes(out) == {
        **{"base": list(VARIANTS[:3]), "new": list(VARIANTS[3:]), "all": list(VARIANTS)},
        "aliases": {},
        "wording": {"thing": "aircraft", "kind": "make and model"},
    }
    assert truths(out, "val_new") == ["F-16A/B"] * 4 + ["Yak-42"] * 4


def test_the_official_parts_are_followed(tmp_path: Path) -> None:
    aircraft(tmp_path)
    reference = prepare("aircraft", "--data-root", tmp_path, out=tmp_path / "out")
    assert images(reference, "train")[0] == "0034001.jpg"
    validated = images(reference, "val_base")
    tested = prepare("aircraft", "--data-root", tmp_path, "--eval-split", "test", out=tmp_path / "out")
    assert counts(tested) == {"train": 12, "val_base": 12, "val_new": 8}
    assert not set(images(tested, "val_base")) & set(validated)
