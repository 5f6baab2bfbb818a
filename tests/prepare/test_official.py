"""Reading an official folder: what is missing is named with its download page, CoOp's split is followed exactly."""

from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.prepare.official import Official, checked_path, read_coop_split
from divek_verl.prepare.source import Item
from divek_verl.prompts import Wording

from .layouts import zhou

SET = Official(
    name="planes",
    title="Planes",
    topic="Aircraft",
    wording=Wording(),
    url="https://example.org/planes",
    folders=("planes-2013", "data"),
    markers=("variants.txt", "split_*.json"),
)
ENTRIES = {
    "train": [("x/1.jpg", 0, "Black_footed Albatross."), ("x/2.jpg", 1, "ani")],
    "val": [("x/3.jpg", 1, "ani")],
    "test": [("x/4.jpg", 0, "Black_footed Albatross.")],
}


@pytest.mark.parametrize("marker", ["variants.txt", "split_1.json"])
@pytest.mark.parametrize("nested", ["", "planes-2013", "data", "planes-2013/data", "planes-2013/planes-2013"])
def test_the_root_is_the_folder_or_holds_it_and_any_marker_will_do(tmp_path: Path, nested: str, marker: str) -> None:
    (tmp_path / nested).mkdir(parents=True, exist_ok=True)
    (tmp_path / nested / marker).touch()
    assert SET.find(tmp_path) == tmp_path / nested


@pytest.mark.parametrize("made", ["", "planes-2013"])
def test_what_is_missing_is_named_with_where_it_comes_from(tmp_path: Path, made: str) -> None:
    (tmp_path / made).mkdir(exist_ok=True)
    with pytest.raises(SetupError) as error:
        SET.find(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / made / 'variants.txt'} is missing: download Planes from https://example.org/planes and "
        "give --data-root the folder that holds planes-2013, or planes-2013 itself."
    )


def test_lines_come_without_comments_and_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("#header\nF-16A/B\n\n Embraer Legacy 600 \r\n")
    assert list(SET.lines(tmp_path / "a.txt")) == [
        (f"{tmp_path / 'a.txt'}:2", "F-16A/B"),
        (f"{tmp_path / 'a.txt'}:4", "Embraer Legacy 600"),
    ]


def test_damaged_files_are_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00 not text, JSON or MATLAB")
    for read, kind in ((SET.text, "text"), (SET.json, "text"), (SET.mat, "a MATLAB file")):
        with pytest.raises(SetupError, match=f"cannot be read as {kind}"):
            read(tmp_path / "a")


@pytest.mark.parametrize("path", ["../a.jpg", "a/../../b.jpg", "/etc/passwd", ""])
def test_a_listed_path_stays_inside(path: str) -> None:
    with pytest.raises(SetupError, match="not inside the data set"):
        checked_path("list:1", path)
    assert checked_path("list:1", "a/b.jpg") == "a/b.jpg"


# The split of CoOp


def test_its_parts_labels_and_names_are_taken(tmp_path: Path) -> None:
    assert read_coop_split(SET, tmp_path, tmp_path / "images") is None
    zhou(tmp_path / "split_zhou_Birds.json", ENTRIES)
    source = read_coop_split(SET, tmp_path, tmp_path / "images")
    assert source is not None
    assert source.classes.all == ("Black footed Albatross", "ani")
    assert source.parts == {
        "train": [Item("x/1.jpg", 0), Item("x/2.jpg", 1)],
        "val": [Item("x/3.jpg", 1)],
        "test": [Item("x/4.jpg", 0)],
    }
    assert (source.root, source.division) == (tmp_path / "images", "as in split_zhou_Birds.json")


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
        read_coop_split(SET, tmp_path, tmp_path)


def test_two_files_are_one_too_many(tmp_path: Path) -> None:
    zhou(tmp_path / "split_zhou_A.json", ENTRIES)
    zhou(tmp_path / "split_zhou_B.json", ENTRIES)
    with pytest.raises(SetupError, match="keep the one to follow"):
        read_coop_split(SET, tmp_path, tmp_path)
