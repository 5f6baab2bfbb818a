"""CoOp's split files are followed to the letter."""

from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.prepare.locate import Official
from divek_verl.prepare.source import Item
from divek_verl.prepare.zhou import read_zhou
from divek_verl.prompts import Wording

from .layouts import zhou

SET = Official("Birds", Wording(), "https://example.org", ("birds",), ("split_zhou_*.json",))
ENTRIES = {
    "train": [("x/1.jpg", 0, "Black_footed Albatross."), ("x/2.jpg", 1, "ani")],
    "val": [("x/3.jpg", 1, "ani")],
    "test": [("x/4.jpg", 0, "Black_footed Albatross.")],
}


def test_its_parts_labels_and_names_are_taken(tmp_path: Path) -> None:
    zhou(tmp_path / "split_zhou_Birds.json", ENTRIES)
    source = read_zhou(SET, tmp_path, "birds", tmp_path / "images")
    assert source is not None
    assert source.classes.all == ("Black footed Albatross", "ani")
    assert source.parts == {
        "train": [Item("x/1.jpg", 0), Item("x/2.jpg", 1)],
        "val": [Item("x/3.jpg", 1)],
        "test": [Item("x/4.jpg", 0)],
    }
    assert (source.root, source.division) == (tmp_path / "images", "as in split_zhou_Birds.json")


def test_without_a_file_there_is_nothing_to_follow(tmp_path: Path) -> None:
    assert read_zhou(SET, tmp_path, "birds", tmp_path) is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is no JSON"),
        ("[]", "is no split file"),
        ('{"val": []}', "is no split file"),
        ('{"train": [["a.jpg", 0]]}', "is no split file"),
        ('{"train": [["a.jpg", "0", "ani"]]}', "is no split file"),
        ('{"train": [["a.jpg", 1, "ani"]]}', "no class for each label from 0 to 1"),
        ('{"train": [["a.jpg", 0, "ani"], ["b.jpg", 0, "auk"]]}', "calls label 0 both 'ani' and 'auk'"),
        ('{"train": [["../../etc/passwd", 0, "ani"]]}', "not inside the data set"),
        ('{"train": [["/etc/passwd", 0, "ani"]]}', "not inside the data set"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "split_zhou_Birds.json").write_text(content)
    with pytest.raises(SetupError, match=sentence):
        read_zhou(SET, tmp_path, "birds", tmp_path)


def test_two_files_are_one_too_many(tmp_path: Path) -> None:
    zhou(tmp_path / "split_zhou_A.json", ENTRIES)
    zhou(tmp_path / "split_zhou_B.json", ENTRIES)
    with pytest.raises(SetupError, match="leave the one to follow"):
        read_zhou(SET, tmp_path, "birds", tmp_path)
