"""The folder of a set: all of it or none of it, and nobody else's."""

from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.prepare import new_folder

from .running import contents


def write(target: Path) -> None:
    with new_folder(target) as folder:
        (folder / "classes.json").write_text("{}")
        (folder / "images").mkdir()


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "birds") as folder:
        (folder / "train.parquet").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_earlier_set_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "birds")
    before = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "birds"):
        raise KeyboardInterrupt
    assert contents(tmp_path) == before


def test_an_earlier_set_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "birds")
    (tmp_path / "birds/images/stale.png").touch()
    (tmp_path / "birds/inspect.html").touch()
    write(tmp_path / "birds")
    assert [path.name for path in (tmp_path / "birds").rglob("*.*")] == ["classes.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_the_earlier_set_returns_when_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    write(tmp_path / "birds")
    before = contents(tmp_path)
    with pytest.raises(OSError), new_folder(tmp_path / "birds") as folder:
        folder.rmdir()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ("birds/thesis.tex", r"holds thesis\.tex, no part of a prepared set"),
        ("birds/images/a.png", r"holds images and no classes\.json"),  # an official folder may hold nothing else
        ("birds", "is a file"),
    ],
)
def test_what_is_no_prepared_set_is_not_replaced(tmp_path: Path, made: str, sentence: str) -> None:
    (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / made).write_text("years of work")
    with pytest.raises(SetupError, match=sentence), new_folder(tmp_path / "birds"):
        pass
    assert (tmp_path / made).read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot be written"), new_folder(tmp_path / "file" / "birds"):
        pass
