"""What lies beside the parquet files: class lists of one set or of several, and where the pictures are."""

import json
from pathlib import Path
from typing import Any

import pytest

from divek_verl.class_lists import classes_of, image_root, load_classes, read_set_file, wording_of
from divek_verl.errors import SetupError
from divek_verl.prompts import Wording

BIRD = {"thing": "bird", "kind": "species"}
CUB = {"base": ["Ovenbird"], "new": ["Mallard"], "all": ["Ovenbird", "Mallard"], "wording": BIRD}
PLANES = {"base": ["Mallard"], "new": ["Yak-42"], "all": ["Mallard", "Yak-42"], "aliases": {"Yak-42": ["Clobber"]}}


def write(folder: Path, name: str, content: Any) -> str:
    (folder / name).write_text(json.dumps(content))
    return str(folder)


def test_a_set_of_one_needs_no_name(tmp_path: Path) -> None:
    folder = write(tmp_path, "classes.json", CUB)
    assert load_classes(folder, "base").names == ("Ovenbird",)
    assert classes_of(folder, "divek/cub/new").names == ("Mallard",)


def test_a_mixed_set_keeps_the_lists_of_its_data_sets_apart(tmp_path: Path) -> None:
    """Mallard is a bird of the new side in one set and an aircraft of the base side in the other."""
    folder = write(tmp_path, "classes.json", {"sets": {"cub": CUB, "aircraft": PLANES}})
    assert classes_of(folder, "divek/cub/base").names == ("Ovenbird",)
    assert classes_of(folder, "divek/aircraft/base").names == ("Mallard",)
    assert classes_of(folder, "divek/aircraft/new").match("clobber") == "Yak-42"


def test_an_alias_belongs_to_the_side_of_its_class(tmp_path: Path) -> None:
    folder = write(tmp_path, "classes.json", PLANES)
    assert load_classes(folder, "new").match("clobber") == "Yak-42"
    assert load_classes(folder, "base").match("clobber") is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is missing: prepare the data again"),
        ("{", "is no JSON object: prepare the data again"),
        ('{"all": ["a", "b"]}', "holds no list named 'base'"),
        ("[]", "is no JSON object"),
        ("[" * 100_000, "is no JSON object"),
    ],
)
def test_a_missing_class_list_is_refused(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    with pytest.raises(SetupError, match=sentence):
        load_classes(str(tmp_path), "base")


@pytest.mark.parametrize("dataset", [None, "pets"])
def test_a_mixed_set_must_be_told_which(tmp_path: Path, dataset: str | None) -> None:
    folder = write(tmp_path, "classes.json", {"sets": {"cub": CUB, "aircraft": PLANES}})
    with pytest.raises(SetupError, match="lists the classes of cub, aircraft"):
        load_classes(folder, "base", dataset)


def test_the_wording_is_that_of_the_data_set_and_generic_where_none_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    folder = write(tmp_path, "classes.json", CUB)
    mixed = write(tmp_path / "mixed", "classes.json", {"sets": {"cub": CUB, "aircraft": PLANES}})
    assert wording_of(folder, "divek/cub/new") == wording_of(mixed, "divek/cub/base") == Wording("bird", "species")
    assert wording_of(mixed, "divek/aircraft/base") == Wording("main object", "category")


@pytest.mark.parametrize("wording", ["bird", {"thing": ""}, {"noun": "bird"}, {"thing": 3}, None])
def test_a_damaged_wording_is_refused(tmp_path: Path, wording: object) -> None:
    folder = write(tmp_path, "classes.json", {**CUB, "wording": wording})
    with pytest.raises(SetupError, match="bird"):
        wording_of(folder, "divek/cub/base")


def test_pictures_lie_in_the_sets_own_folder_where_nothing_else_is_recorded(tmp_path: Path) -> None:
    assert image_root(str(tmp_path), "cub") == tmp_path
    write(tmp_path, "set.json", {"image_roots": {"cub": {"absolute": str(tmp_path)}}})
    assert read_set_file(tmp_path)["image_roots"]["cub"]["absolute"] == str(tmp_path)


def test_a_set_can_be_moved_alone_and_with_its_pictures(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "raw").mkdir(parents=True)
    (old / "set").mkdir()
    roots = {"image_roots": {"cub": {"absolute": str(old / "raw"), "relative": "../raw"}}}
    write(old / "set", "set.json", roots)
    alone = (old / "set").rename(tmp_path / "alone")
    assert image_root(str(alone), "cub") == old / "raw"
    alone.rename(old / "set")
    old.rename(new)
    assert image_root(str(new / "set"), "cub").resolve() == new / "raw"


def test_pictures_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    write(tmp_path, "set.json", {"image_roots": {"cub": {"absolute": "/gone", "relative": "../gone"}}})
    with pytest.raises(SetupError, match=r"pictures of cub are no longer in .*move them back.*set\.json"):
        image_root(str(tmp_path), "cub")


@pytest.mark.parametrize("content", ["{", "[]", '{"image_roots": []}', '{"image_roots": {"cub": 1}}'])
def test_a_damaged_set_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "set.json").write_text(content)
    with pytest.raises(SetupError, match="prepare the data again"):
        image_root(str(tmp_path), "cub")


def test_a_class_may_have_very_many_aliases(tmp_path: Path) -> None:
    """Work that grew with their square took 51 s for these."""
    aliases = [f"alias {number}" for number in range(30_000)]
    (tmp_path / "classes.json").write_text(json.dumps({"base": ["a", "b"], "aliases": {"a": aliases}}))
    classes = load_classes(str(tmp_path), "base")
    assert classes.aliases["a"] == tuple(aliases) and classes.match("alias 29999") == "a"
