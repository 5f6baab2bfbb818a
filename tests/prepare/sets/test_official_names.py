"""The full official class lists, read by the sets themselves: no two classes become one, and real answers are named.

The names lie in tests/data/class_lists.json as the official files spell them; it says which file each list is in.
"""

import json
from functools import cache
from pathlib import Path

import pytest

from divek_verl.labels import ClassNames, canonical
from divek_verl.prepare.sets import OFFICIAL_SETS
from divek_verl.prepare.source import Source

from .. import layouts

LISTS = json.loads((Path(__file__).parents[2] / "data" / "class_lists.json").read_text())
SIZES = {"cub": 200, "flowers": 102, "pets": 37, "cars": 196, "aircraft": 100}


@cache
def source_of(name: str, folder: Path) -> Source:
    reader = next(read for official, read in OFFICIAL_SETS if official.name == name)
    if name == "aircraft":
        variants, families, makers = zip(*LISTS[name], strict=True)
        layouts.aircraft(folder, 1, variants, family=families, manufacturer=makers)
    elif name == "flowers":
        layouts.flowers(folder, 1, names=LISTS[name])
    else:
        {"cub": layouts.cub, "pets": layouts.pets, "cars": layouts.cars}[name](folder, 1, 1, LISTS[name])
    return reader(folder, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("official")


def classes_of(name: str, folder: Path) -> ClassNames:
    return source_of(name, folder / name).classes.of("all")


def raw_names(name: str) -> list[str]:
    """As people read the official names: without CUB's number before the name."""
    listed = [row[0] if isinstance(row, list) else row for row in LISTS[name]]
    return [each.partition(".")[2] for each in listed] if name == "cub" else listed


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_no_two_classes_of_an_official_list_become_one(name: str, size: int, folder: Path) -> None:
    classes = classes_of(name, folder)
    assert len(classes) == len(set(LISTS[name] if name != "aircraft" else raw_names(name))) == size
    # Each spelling of a class: its official name, the name that is shown, and its aliases.
    owners: dict[str, str] = {}
    for raw, shown in zip(raw_names(name), classes.names, strict=True):
        for spelling in (raw, shown, *classes.aliases.get(shown, ())):
            assert classes.match(spelling) == classes.match_answer(spelling) == shown
            assert owners.setdefault(canonical(spelling), shown) == shown


@pytest.mark.parametrize("name", SIZES)
def test_base_and_new_classes_stay_apart(name: str, folder: Path) -> None:
    listed = source_of(name, folder / name).classes
    base, new = listed.of("base"), listed.of("new")
    assert [*base.names, *new.names] == list(listed.all)
    for side, other in ((base, new), (new, base)):
        assert not [spelling for aliases in side.aliases.values() for spelling in aliases if spelling in other]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
    "wrapped", ["Species name: {}", "the breed is {}", "Make and model: {}", "The variant is {}", "Answer: {}."]
)
def test_an_answer_may_say_what_it_names_but_a_name_may_not(name: str, wrapped: str, folder: Path) -> None:
    classes = classes_of(name, folder)
    for shown in classes:
        assert classes.match_answer(wrapped.format(shown)) == shown
        assert classes.match(wrapped.format(shown)) is None


@pytest.mark.parametrize(
    ("name", "answer", "truth"),
    [
        ("aircraft", "Boeing 707-320", "707-320"),
        ("aircraft", "Boeing 707", "707-320"),
        ("aircraft", "Airbus A300B4", "A300B4"),
        ("aircraft", "Airbus A300", "A300B4"),
        ("aircraft", "Canadair CRJ-900", "CRJ-900"),
        ("aircraft", "Douglas DC-3", "DC-3"),
        ("aircraft", "Lockheed C-130", "C-130"),
        ("aircraft", "McDonnell Douglas F/A-18", "F/A-18"),
        ("cars", "AM General Hummer SUV 2000", "2000 AM General Hummer SUV"),
        ("cars", "2012 Ram C-V Cargo Van Minivan", "2012 Ram C/V Cargo Van Minivan"),
        ("cub", "Chuck-will's-widow", "Chuck will Widow"),
        ("cub", "Forster's Tern", "Forsters Tern"),
        ("cub", "Black-footed Albatross", "Black footed Albatross"),
        ("flowers", "desert rose", "desert-rose"),
        ("flowers", "Coltʼs Foot", "colt's foot"),
        ("pets", "Egyptian Mau", "egyptian mau"),
        ("pets", "Saint Bernard", "saint bernard"),
    ],
)
def test_names_that_models_write(name: str, answer: str, truth: str, folder: Path) -> None:
    classes = classes_of(name, folder)
    assert classes.match(answer) == truth
    for wrapped in ("Species name: {}", "the breed is {}", "Make and model: {}"):
        assert classes.match_answer(wrapped.format(answer)) == truth


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        *[("aircraft", each) for each in ("Boeing 737", "Boeing 747", "Airbus A330", "Embraer E-Jet", "Fokker", "70")],
        *[("cars", each) for each in ("AM General Hummer SUV", "Audi S4 Sedan", "BMW M3")],
        *[("cub", each) for each in ("Albatross", "Tern", "a photo of a Cardinal")],
        *[("flowers", each) for each in ("desert", "a rose", "daisy")],
        *[("pets", each) for each in ("terrier", "bulldog")],
    ],
)
def test_a_part_of_a_name_names_no_class(name: str, answer: str, folder: Path) -> None:
    assert classes_of(name, folder).match_answer(answer) is None
