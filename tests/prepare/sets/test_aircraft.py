"""FGVC-Aircraft in its official layout and in those of CoOp and DiVE-k."""

from pathlib import Path

import pytest

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


# The 100 variants by maker.
MAKERS = {
    "Boeing": "707-320, 727-200, 737-200, 737-300, 737-400, 737-500, 737-600, 737-700, 737-800, 737-900, 747-100, "
    "747-200, 747-300, 747-400, 757-200, 757-300, 767-200, 767-300, 767-400, 777-200, 777-300, Boeing 717",
    "Airbus": "A300B4, A310, A318, A319, A320, A321, A330-200, A330-300, A340-200, A340-300, A340-500, A340-600, A380",
    "ATR": "ATR-42, ATR-72",
    "Antonov": "An-12",
    "British Aerospace": "BAE 146-200, BAE 146-300, BAE-125, Hawk T1",
    "Beechcraft": "Beechcraft 1900, Model B200",
    "Lockheed Corporation": "C-130, L-1011",
    "Douglas Aircraft Company": "C-47, DC-3, DC-6, DC-8",
    "Bombardier Aerospace": "CRJ-200, CRJ-700, CRJ-900, Global Express",
    "Cessna": "Cessna 172, Cessna 208, Cessna 525, Cessna 560",
    "Canadair": "Challenger 600",
    "McDonnell Douglas": "DC-10, DC-9-30, F/A-18, MD-11, MD-80, MD-87, MD-90",
    "de Havilland": "DH-82, DHC-1, DHC-6, DHC-8-100, DHC-8-300",
    "Robin": "DR-400",
    "Dornier": "Dornier 328",
    "Embraer": "E-170, E-190, E-195, EMB-120, ERJ 135, ERJ 145, Embraer Legacy 600",
    "Eurofighter": "Eurofighter Typhoon",
    "Lockheed Martin": "F-16A/B",
    "Dassault Aviation": "Falcon 2000, Falcon 900",
    "Fokker": "Fokker 100, Fokker 50, Fokker 70",
    "Gulfstream Aerospace": "Gulfstream IV, Gulfstream V",
    "Ilyushin": "Il-76",
    "Fairchild": "Metroliner",
    "Piper": "PA-28",
    "Cirrus Aircraft": "SR-20",
    "Saab": "Saab 2000, Saab 340",
    "Supermarine": "Spitfire",
    "Panavia": "Tornado",
    "Tupolev": "Tu-134, Tu-154",
    "Yakovlev": "Yak-42",
}


def test_all_variants_stay_apart_with_their_makers(tmp_path: Path) -> None:
    made = {name: maker for maker, names in MAKERS.items() for name in names.split(", ")}
    assert len(made) == 100
    classes = read(aircraft(tmp_path, 1, tuple(made), tuple(made.values()))).classes.of("all")
    for name, maker in made.items():
        for answer in (name, f"{maker} {name}", f"The variant is {name}", f"Make and model: {maker} {name}"):
            assert classes.match_answer(answer) == name
    assert classes.match("Lockheed C-130") == "C-130"
    assert classes.match_answer("Boeing 737") is classes.match_answer("a Boeing 707-320 of the sixties") is None
