"""Prepared sets: rows in verl's schema, checked before they are written, never half-written."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from divek_verl import prepare
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.prepare import (
    Classes,
    Example,
    Split,
    build_row,
    check_row,
    new_folder,
    run_script,
    write_set,
)

BIRDS = ("Brandt's Cormorant", "Sooty Albatross", "Mew Gull", "Ovenbird", "Black-footed Albatross")


def picture(folder: Path, name: str, shade: int, size: tuple[int, int] = (12, 9), mode: str = "RGB") -> str:
    """Writes an image of one shade and returns its path as a row holds it."""
    path = folder / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).convert(mode).save(path)
    return f"images/{name}"


def bird_splits(folder: Path) -> list[Split]:
    """One image of each class, training and validation."""
    classes = Classes(BIRDS)
    plan = (
        ("train", "base", classes.base),
        ("val_base", "base", classes.base),
        ("val_new", "new", classes.new),
    )
    splits = []
    for number, (split, side, names) in enumerate(plan):
        examples = [
            Example(picture(folder, f"{split}-{index}.png", 50 * number + index), name, f"{split}-{index}")
            for index, name in enumerate(names)
        ]
        splits.append(Split(split, side, examples))
    return splits


def one_row(folder: Path, image: str, truth: str = BIRDS[0]) -> prepare.Row:
    return build_row("cub", Split("train", "base", [Example(image, truth, "0")]), ClassNames(BIRDS), 0)


# The base-to-new split


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


# Rows


def test_a_row_has_verls_columns() -> None:
    row = one_row(Path(), "images/a.png")
    assert list(row) == prepare.SCHEMA.names
    assert row["data_source"] == "divek/cub/base"
    assert row["images"] == [{"image": "images/a.png"}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": BIRDS[0]}
    assert row["extra_info"] == {"index": 0, "split": "train", "image_id": "0", "dataset": "cub"}


def test_the_prompt_shows_the_picture_before_the_class_list() -> None:
    (message,) = one_row(Path(), "a.png")["prompt"]
    assert message["role"] == "user"
    assert message["content"].startswith("<image>")
    assert all(name in message["content"] for name in BIRDS)


# The self-check of a row


def test_a_good_row_passes(tmp_path: Path) -> None:
    check_row(one_row(tmp_path, picture(tmp_path, "a.png", 0)), ClassNames(BIRDS), tmp_path)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_any_image_that_converts_to_rgb_passes(tmp_path: Path, mode: str) -> None:
    image = picture(tmp_path, "a.tiff", 90, mode=mode)
    check_row(one_row(tmp_path, image), ClassNames(BIRDS), tmp_path)


@pytest.mark.parametrize("truth", ["Roc", "mew gull"])
def test_the_truth_must_be_a_display_name_of_the_class_list(tmp_path: Path, truth: str) -> None:
    with pytest.raises(SetupError, match=truth):
        check_row(one_row(tmp_path, picture(tmp_path, "a.png", 0), truth), ClassNames(BIRDS), tmp_path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"gone\.png cannot be read"):
        check_row(one_row(tmp_path, "images/gone.png"), ClassNames(BIRDS), tmp_path)


def test_a_cut_off_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / picture(tmp_path, "a.jpg", 0, size=(64, 64))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SetupError, match=r"a\.jpg cannot be read"):
        check_row(one_row(tmp_path, "images/a.jpg"), ClassNames(BIRDS), tmp_path)


@pytest.mark.parametrize(("size", "fits"), [((8, 8), True), ((7, 100), False), ((100, 7), False)])
def test_both_sides_of_an_image_are_at_least_8_pixels(tmp_path: Path, size: tuple[int, int], fits: bool) -> None:
    row = one_row(tmp_path, picture(tmp_path, "a.png", 0, size=size))
    if fits:
        check_row(row, ClassNames(BIRDS), tmp_path)
    else:
        with pytest.raises(SetupError, match=f"{size[0]}x{size[1]}"):
            check_row(row, ClassNames(BIRDS), tmp_path)


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_row_that_the_reward_cannot_grade_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: float
) -> None:
    monkeypatch.setattr(prepare, "compute_score", lambda *_: {"acc": constant})
    with pytest.raises(SetupError, match="graded wrongly"):
        check_row(one_row(tmp_path, picture(tmp_path, "a.png", 0)), ClassNames(BIRDS), tmp_path)


# Writing a set


def write_birds(target: Path) -> None:
    with new_folder(target) as folder:
        write_set(folder, "cub", Classes(BIRDS), bird_splits(folder))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_set_is_three_parquet_files_and_its_classes(tmp_path: Path) -> None:
    write_birds(tmp_path / "birds")
    assert {path.name for path in (tmp_path / "birds").iterdir()} == {
        "train.parquet",
        "val_base.parquet",
        "val_new.parquet",
        "classes.json",
        "images",
    }
    classes = json.loads((tmp_path / "birds" / "classes.json").read_text())
    assert classes == {"base": list(BIRDS[:3]), "new": list(BIRDS[3:]), "all": list(BIRDS)}


def test_every_file_asks_about_its_own_side(tmp_path: Path) -> None:
    write_birds(tmp_path / "birds")
    sides = {"train": ("base", "train"), "val_base": ("base", "val"), "val_new": ("new", "val")}
    for name, (side, stage) in sides.items():
        rows = pq.read_table(tmp_path / "birds" / f"{name}.parquet").to_pylist()
        assert {row["data_source"] for row in rows} == {f"divek/cub/{side}"}
        assert {row["extra_info"]["split"] for row in rows} == {stage}
        assert [row["extra_info"]["index"] for row in rows] == list(range(len(rows)))


def test_image_paths_are_relative_so_that_the_set_can_be_moved(tmp_path: Path) -> None:
    write_birds(tmp_path / "birds")
    moved = (tmp_path / "birds").rename(tmp_path / "moved")
    for row in pq.read_table(moved / "train.parquet").to_pylist():
        check_row(row, ClassNames(BIRDS[:3]), moved)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    write_birds(tmp_path / "one")
    write_birds(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_image_of_training_may_not_be_in_validation(tmp_path: Path) -> None:
    splits = bird_splits(tmp_path)
    (tmp_path / "images/val_base-1.png").write_bytes((tmp_path / "images/train-0.png").read_bytes())
    with pytest.raises(SetupError, match=r"val_base-1\.png is in train too"):
        write_set(tmp_path, "cub", Classes(BIRDS), splits)


def test_a_held_out_class_may_not_be_in_training(tmp_path: Path) -> None:
    _, val_base, val_new = bird_splits(tmp_path)
    with pytest.raises(SetupError, match="no class of divek/cub/base"):
        write_set(tmp_path, "cub", Classes(BIRDS), [Split("train", "base", val_new.examples), val_base])


def test_duplicates_within_a_split_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = picture(tmp_path, "a.png", 0)
    examples = [Example(image, BIRDS[0], "0"), Example(image, BIRDS[0], "1"), Example(image, BIRDS[0], "2")]
    prepare.report(tmp_path, [Split("train", "base", examples)])
    line = next(line for line in capsys.readouterr().out.splitlines() if "train" in line and "3" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["train", "3", "1", "2", "0"]


# The folder of a set


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "birds") as folder:
        (folder / "train.parquet").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_earlier_set_as_it_was(tmp_path: Path) -> None:
    write_birds(tmp_path / "birds")
    before = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "birds"):
        raise KeyboardInterrupt
    assert contents(tmp_path) == before


def test_an_earlier_set_is_replaced_whole(tmp_path: Path) -> None:
    write_birds(tmp_path / "birds")
    (tmp_path / "birds/images/stale.png").touch()
    write_birds(tmp_path / "birds")
    assert not (tmp_path / "birds/images/stale.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_the_earlier_set_returns_when_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    write_birds(tmp_path / "birds")
    before = contents(tmp_path)
    with pytest.raises(OSError), new_folder(tmp_path / "birds") as folder:
        folder.rmdir()
    assert contents(tmp_path) == before


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SetupError, match=r"thesis\.tex"), new_folder(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "birds").touch()
    with pytest.raises(SetupError, match="is a file"), new_folder(tmp_path / "birds"):
        pass


def test_a_script_ends_with_the_sentence_of_a_setup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        raise SetupError("Do this instead.")

    monkeypatch.setattr("sys.argv", ["script.py"])
    with pytest.raises(SystemExit, match=r"^error: Do this instead\.$"):
        run_script(main)
