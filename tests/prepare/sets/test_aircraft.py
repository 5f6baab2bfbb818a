"""FGVC-Aircraft in its official layout and in those of CoOp and DiVE-k."""

from pathlib import Path

import pytest

from divek_verl.labels import ClassNames
from divek_verl.prepare.sets.aircraft import read

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


@pytest.fixture
def classes_of_makers(tmp_path: Path) -> ClassNames:
    names = ("707-320", "737-200", "737-300", "C-130", "Fokker 70", "F-16A/B", "Model B200", "MD-80", "MD-87")
    families = ("Boeing 707", "Boeing 737", "Boeing 737", "C-130", "Fokker 70", "F-16", "King Air", "MD-80", "MD-80")
    makers = ("Boeing", "Boeing", "Boeing", "Lockheed Corporation", "Fokker", "Lockheed Martin", "Beechcraft")
    folder = aircraft(tmp_path, 1, names, family=families, manufacturer=(*makers, *["McDonnell Douglas"] * 2))
    return read(folder).classes.of("all")


def test_the_maker_may_stand_before_a_variant(classes_of_makers: ClassNames) -> None:
    assert classes_of_makers.match("Boeing 737-200") == "737-200"
    assert classes_of_makers.match("Lockheed Corporation C-130") == classes_of_makers.match("Lockheed C-130") == "C-130"
    assert classes_of_makers.match("McDonnell Douglas MD-80") == "MD-80"
    assert classes_of_makers.match("Airbus 737-200") is None
    assert "Fokker Fokker 70" not in classes_of_makers


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("Boeing 707", "707-320"),
        ("707", "707-320"),
        ("F-16", "F-16A/B"),
        ("Lockheed Martin F-16", "F-16A/B"),
        ("King Air", "Model B200"),
        ("Beechcraft King Air", "Model B200"),
        ("Fokker 70", "Fokker 70"),
    ],
)
def test_a_family_of_one_variant_names_it(classes_of_makers: ClassNames, family: str, variant: str) -> None:
    assert classes_of_makers.match(family) == variant


@pytest.mark.parametrize("answer", ["Boeing 737", "737", "Boeing", "70", "16", "a Boeing 707 of the sixties"])
def test_a_family_of_several_variants_names_none(classes_of_makers: ClassNames, answer: str) -> None:
    assert classes_of_makers.match_answer(answer) is None


def test_a_family_whose_other_name_is_a_variant_stays_that_variant(tmp_path: Path) -> None:
    folder = aircraft(tmp_path, 1, ("707", "707-320"), family=("Old", "Boeing 707"), manufacturer=("Boeing", "Boeing"))
    classes = read(folder).classes.of("all")
    assert classes.match("707") == classes.match("Old") == classes.match("Boeing Old") == "707"
    assert classes.match("Boeing 707") is None  # both claim it
