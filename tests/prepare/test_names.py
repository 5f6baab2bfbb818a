"""Names as people write them, and what else stands for a class."""

import pytest

from divek_verl.prepare import Classes
from divek_verl.prepare.names import tidy, with_aliases, year_first


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Black_footed_Albatross", "Black footed Albatross"),
        ("Black footed Albatross.", "Black footed Albatross"),
        ("hard-leaved pocket orchid", "hard-leaved pocket orchid"),
        ("F-16A/B", "F-16A/B"),
    ],
)
def test_underscores_and_full_stops_go(raw: str, name: str) -> None:
    assert tidy(raw) == name


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Acura RL Sedan 2012", "2012 Acura RL Sedan"),
        ("2012 Acura RL Sedan", "2012 Acura RL Sedan"),
        ("Ram C/V Cargo Van Minivan 2012", "2012 Ram C/V Cargo Van Minivan"),
        ("Peugeot 208", "Peugeot 208"),
    ],
)
def test_the_year_comes_first(raw: str, name: str) -> None:
    assert year_first(raw) == name


def test_whichever_name_of_a_group_is_a_class_has_the_others() -> None:
    group = ("cape flower", "guernsey lily")
    for name, other in (group, group[::-1]):
        assert with_aliases(Classes((name, "rose")), group).of("all").match(other) == name


def test_two_classes_of_one_group_stay_two() -> None:
    classes = with_aliases(Classes(("watercress", "nasturtium", "rose")), ("watercress", "nasturtium", "cress"))
    assert classes.aliases == {}


def test_a_spelling_that_two_classes_claim_is_nobodys() -> None:
    classes = with_aliases(Classes(("tanager", "oriole")), ("tanager", "firebird"), ("oriole", "firebird", "hangbird"))
    assert classes.aliases == {"oriole": ["hangbird"]}


def test_aliases_that_are_there_stay() -> None:
    classes = with_aliases(Classes(("rose",), {"rose": ["rosa"]}), ("rose", "Rosa", "rose bush"))
    assert classes.of("all").match("ROSA") == classes.of("all").match("rose bush") == "rose"
