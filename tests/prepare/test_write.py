"""Writing a set: every row checked, nothing held out in training, duplicates told, bytes the same each time."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from divek_verl.class_lists import image_root
from divek_verl.errors import SetupError
from divek_verl.prepare import Classes, Example, Split, new_folder, write, write_set

from .layouts import paint
from .running import contents, rows

BIRDS = ("Brandt's Cormorant", "Sooty Albatross", "Mew Gull", "Ovenbird", "Black-footed Albatross")


def birds(folder: Path, per_class: int = 1) -> list[Split]:
    """Pictures of each class in a folder, for training and validation."""
    classes = Classes(BIRDS)
    plan = (("train", "base", classes.base), ("val_base", "base", classes.base), ("val_new", "new", classes.new))
    splits = []
    number = 0
    for split, side, names in plan:
        examples = []
        for name in names * per_class:
            number += 1
            image = f"images/{split}-{number}.png"
            paint(folder / image, number)
            examples.append(Example(image, name, image))
        splits.append(Split(split, side, examples))
    return splits


def write_birds(target: Path) -> Path:
    with new_folder(target) as folder:
        write_set(folder, "cub", Classes(BIRDS), birds(folder))
    return target


def test_a_set_is_its_parquet_files_its_classes_and_how_it_was_made(tmp_path: Path) -> None:
    out = write_birds(tmp_path / "birds")
    names = {"train.parquet", "val_base.parquet", "val_new.parquet", "classes.json", "set.json", "images"}
    assert {path.name for path in out.iterdir()} == names
    classes = json.loads((out / "classes.json").read_text())
    lists = {"base": list(BIRDS[:3]), "new": list(BIRDS[3:]), "all": list(BIRDS)}
    assert classes == {**lists, "aliases": {}, "wording": {"thing": "main object", "kind": "category"}}
    made = json.loads((out / "set.json").read_text())
    assert made["dataset"] == "cub"
    assert made["files"]["train"] == {"rows": 3, "classes": 3, "duplicates": 0}
    assert set(made["versions"]) == {"divek_verl", "pillow", "pyarrow"}
    sides = {"train": ("base", "train"), "val_base": ("base", "val"), "val_new": ("new", "val")}
    for name, (side, stage) in sides.items():
        written = rows(out, name)
        assert {row["data_source"] for row in written} == {f"divek/cub/{side}"}
        assert {row["extra_info"]["split"] for row in written} == {stage}
        assert [row["extra_info"]["index"] for row in written] == list(range(len(written)))


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    assert contents(write_birds(tmp_path / "one")) == contents(write_birds(tmp_path / "two"))


def test_rows_are_streamed_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "ROWS_PER_GROUP", 4)
    with new_folder(tmp_path / "birds") as folder:
        write_set(folder, "cub", Classes(BIRDS), birds(folder, per_class=3))
    metadata = pq.read_metadata(tmp_path / "birds/train.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [4, 4, 1]


def test_pictures_elsewhere_are_found_from_where_the_set_ends_up(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "deep/er/birds"
    with new_folder(out) as folder:
        write_set(folder, "cub", Classes(BIRDS), birds(raw), root=raw, place=out)
    assert image_root(str(out), "cub") == raw
    recorded = json.loads((out / "set.json").read_text())["image_roots"]["cub"]
    assert (out / recorded["relative"]).resolve() == raw
    assert rows(out, "train")[0]["images"] == [{"image": "images/train-1.png"}]


# What may not be in training


@pytest.mark.parametrize("name", ["val_base", "val_new"])
def test_an_image_of_training_may_not_be_in_validation(tmp_path: Path, name: str) -> None:
    splits = birds(tmp_path)
    twin = next(split for split in splits if split.name == name).examples[0].image
    (tmp_path / twin).write_bytes((tmp_path / splits[0].examples[0].image).read_bytes())
    with pytest.raises(SetupError, match=rf"train-1\.png has the same content as {twin}, which is held out: fix"):
        write_set(tmp_path, "cub", Classes(BIRDS), splits)


def test_where_bad_images_are_skipped_training_gives_way(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The validation file is the measure; it stays whole."""
    splits = birds(tmp_path)
    (tmp_path / splits[1].examples[0].image).write_bytes((tmp_path / splits[0].examples[0].image).read_bytes())
    write_set(tmp_path, "cub", Classes(BIRDS), splits, skip_bad=True)
    assert len(rows(tmp_path, "train")) == 2
    assert len(rows(tmp_path, "val_base")) == 3
    assert json.loads((tmp_path / "set.json").read_text())["files"]["train"]["left_out"] == {"held out": 1}
    shown = capsys.readouterr().out
    assert "left out 1 images in all" in shown
    assert "train holds none of the 5 images of validation files and held-out classes" in shown


def test_neither_an_unused_image_of_a_held_out_class_nor_a_held_out_path_or_class_may_be_in_training(
    tmp_path: Path,
) -> None:
    train, val_base, val_new = birds(tmp_path)
    (tmp_path / "unused.png").write_bytes((tmp_path / train.examples[0].image).read_bytes())
    with pytest.raises(SetupError, match=r"has the same content as unused\.png"):
        write_set(tmp_path, "cub", Classes(BIRDS), [train, val_base, val_new], held_out=["unused.png"])
    both = Split("val_base", "base", [*val_base.examples, train.examples[0]])
    with pytest.raises(SetupError, match=r"train-1\.png is held out too"):
        write_set(tmp_path, "cub", Classes(BIRDS), [train, both, val_new])
    paint(tmp_path / "images/extra.png", 99)
    extra = Split("train", "base", [Example("images/extra.png", BIRDS[4], "extra")])
    with pytest.raises(SetupError, match="no class of divek/cub/base"):
        write_set(tmp_path, "cub", Classes(BIRDS), [extra, val_base, val_new])
    with pytest.raises(SetupError, match="one and the same"):
        write_set(tmp_path, "cub", Classes(("Mew Gull", "Ovenbird", "Mallard", "mew-gull")), [train, val_base, val_new])


def test_duplicates_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train, *others = birds(tmp_path)
    first, second, third = (example.image for example in train.examples)
    (tmp_path / second).write_bytes((tmp_path / first).read_bytes())
    (tmp_path / third).write_bytes((tmp_path / first).read_bytes())
    write_set(tmp_path, "cub", Classes(BIRDS), [train, *others])
    shown = capsys.readouterr().out
    assert f"duplicate: {second} ({BIRDS[1]}) has the content of {first} ({BIRDS[0]})" in shown
    assert "2 duplicates, 2 of them under another class" in shown
    assert json.loads((tmp_path / "set.json").read_text())["files"]["train"]["duplicates"] == 2


# Bad images


def test_a_bad_image_stops_with_its_path_and_reason_or_each_is_a_line_and_they_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, splits = tmp_path, birds(tmp_path)
    (folder / splits[0].examples[0].image).write_bytes(b"")
    (folder / splits[0].examples[2].image).unlink()
    with pytest.raises(SetupError) as error:
        write_set(folder, "cub", Classes(BIRDS), splits)
    first, second, third = str(error.value).splitlines()
    assert (first, second) == ("2 images cannot be used:", f"{folder}/images/train-1.png is empty")
    assert third.startswith(f"{folder}/images/train-3.png cannot be read (No such") and "--on-error skip" in third
    write_set(folder, "cub", Classes(BIRDS), splits, skip_bad=True)
    shown = capsys.readouterr().out.splitlines()
    assert f"left out: {folder}/images/train-1.png is empty" in shown
    assert any(line.startswith(f"left out: {folder}/images/train-3.png cannot be read (No such file") for line in shown)
    assert "left out 2 images in all, each is named above" in shown
    assert [row["extra_info"]["index"] for row in rows(folder, "train")] == [0]
    assert json.loads((folder / "set.json").read_text())["files"]["train"]["left_out"] == {"bad image": 2}


def test_a_name_that_is_not_utf8_is_refused_in_words_that_can_be_printed(tmp_path: Path) -> None:
    splits = birds(tmp_path)
    name = "images/\udce9.png"  # a lone Latin-1 e with acute accent
    paint(tmp_path / name, 50)
    train = Split("train", "base", [Example(name, BIRDS[0], name)])
    with pytest.raises(SetupError, match=r"\\xe9\.png has a name that is not UTF-8"):
        write_set(tmp_path, "cub", Classes(BIRDS), [train, *splits[1:]])


def test_a_path_is_one_line_whatever_is_in_it() -> None:
    assert write.printable(Path("a\nb\x1b[31m.png")) == r"a\nb\x1b[31m.png"


def test_a_file_without_a_usable_image_is_refused(tmp_path: Path) -> None:
    splits = birds(tmp_path)
    for example in splits[2].examples:
        (tmp_path / example.image).write_bytes(b"")
    with pytest.raises(SetupError, match="No image of val_new of cub can be used"):
        write_set(tmp_path, "cub", Classes(BIRDS), splits, skip_bad=True)
    with pytest.raises(SetupError, match="val_new of cub would hold no image"):
        write_set(tmp_path, "cub", Classes(BIRDS), [*splits[:2], Split("val_new", "new", [])])


def test_easy_images_leave_training_only(tmp_path: Path) -> None:
    def is_easy(source: str, example: Example) -> bool:
        return source == "divek/cub/base" and example.truth == BIRDS[1]

    write_set(tmp_path, "cub", Classes(BIRDS), birds(tmp_path), is_easy=is_easy)
    assert [row["reward_model"]["ground_truth"] for row in rows(tmp_path, "train")] == [BIRDS[0], BIRDS[2]]
    assert len(rows(tmp_path, "val_base")) == 3
    assert json.loads((tmp_path / "set.json").read_text())["files"]["train"]["left_out"] == {"easy": 1}
