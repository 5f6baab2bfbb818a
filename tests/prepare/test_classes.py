"""The base-to-novel rule."""

from hypothesis import given
from hypothesis import strategies as st

from divek_verl.prepare import Classes

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
