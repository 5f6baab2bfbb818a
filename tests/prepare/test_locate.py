"""Finding an official folder, and saying what is missing and where it comes from."""

from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.prepare.locate import Official, checked_path
from divek_verl.prompts import Wording

SET = Official(
    "Planes", Wording(), "https://example.org/planes", ("planes-2013", "data"), ("variants.txt", "split_*.json")
)


@pytest.mark.parametrize("nested", ["", "planes-2013", "data", "planes-2013/data", "planes-2013/planes-2013"])
def test_the_root_is_the_folder_or_holds_it(tmp_path: Path, nested: str) -> None:
    (tmp_path / nested).mkdir(parents=True, exist_ok=True)
    (tmp_path / nested / "variants.txt").touch()
    assert SET.find(tmp_path) == tmp_path / nested


def test_any_of_the_markers_will_do(tmp_path: Path) -> None:
    (tmp_path / "split_1.json").touch()
    assert SET.find(tmp_path) == tmp_path


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
