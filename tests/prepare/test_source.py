"""Class names: the base-to-novel rule, names as people write them, and other spellings of a class."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.prepare.source import Classes, tidy

BIRDS = ("Brandt's Cormorant", "Sooty Albatross", "Mew Gull", "Ovenbird", "Black-footed Albatross")


def test_base_is_the_first_half_in_label_order_rounded_up() -> None:
    classes = Classes(BIRDS)
    assert classes.base == BIRDS[:3]
    assert classes.new == BIRDS[3:]


@given(st.lists(st.text(min_size=1), min_size=1, unique=True))
def test_base_and_new_are_all_classes_once_and_in_order(names: list[str]) -> None:
    classes = Classes(tuple(names))
    assert classes.base + classes.new == classes.all
    assert len(classes.base) - len(classes.new) in (0, 1)


def test_each_side_knows_the_aliases_of_its_own_classes() -> None:
    classes = Classes(BIRDS, aliases={"Mew Gull": ["Common Gull"], "Ovenbird": ["Teacherbird"]})
    assert classes.of("base").match("common gull") == "Mew Gull"
    assert classes.of("base").match("Teacherbird") is None
    assert classes.of("all").match("Teacherbird") == "Ovenbird"
    assert classes.to_json()["aliases"] == {"Mew Gull": ["Common Gull"], "Ovenbird": ["Teacherbird"]}


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


def test_whichever_name_of_a_group_is_a_class_has_the_others() -> None:
    group = ("cape flower", "guernsey lily")
    for name, other in (group, group[::-1]):
        assert Classes((name, "rose")).with_aliases(group).of("all").match(other) == name


def test_two_classes_of_one_group_stay_two_and_a_spelling_that_both_claim_is_nobodys() -> None:
    classes = Classes(("watercress", "nasturtium", "rose")).with_aliases(("watercress", "nasturtium", "cress"))
    assert classes.aliases == {}
    classes = Classes(("tanager", "oriole")).with_aliases(("tanager", "firebird"), ("oriole", "firebird", "hangbird"))
    assert classes.aliases == {"oriole": ["hangbird"]}


def test_aliases_that_are_there_stay() -> None:
    classes = Classes(("rose",), {"rose": ["rosa"]}).with_aliases(("rose", "Rosa", "rose bush"))
    assert classes.of("all").match("ROSA") == classes.of("all").match("rose bush") == "rose"
