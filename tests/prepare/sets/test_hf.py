"""Any image-classification set of the library datasets."""

import io
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pillow

from ..layouts import paint
from ..running import classes, counts, prepare, rows

NAMES = ["morel", "chanterelle", "fly_agaric", "death cap"]


def content(number: int, kind: str = "PNG") -> bytes:
    encoded = io.BytesIO()
    Pillow.new("RGB", (12, 9), (number % 256, number // 256, 77)).save(encoded, kind)
    return encoded.getvalue()


def mushrooms(count: int, start: int = 0, image: str = "image", label: str = "label") -> Dataset:
    features = Features({image: Image(), label: ClassLabel(names=NAMES)})
    entries = [{image: {"bytes": content(start + n), "path": None}, label: n % 4} for n in range(count)]
    return Dataset.from_list(entries, features=features)


def test_a_saved_set_keeps_the_order_of_its_labels_and_its_images_and_takes_its_path_as_other_sets_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mushrooms(40).save_to_disk(str(tmp_path / "fungi"))
    out = prepare("hf", tmp_path / "fungi", out=tmp_path / "out")
    assert classes(out)["all"] == ["morel", "chanterelle", "fly agaric", "death cap"]
    assert counts(out) == {"train": 16, "val_base": 4, "val_new": 4}
    first = rows(out, "train")[0]
    assert first["data_source"] == "divek/fungi/base"
    path = first["images"][0]["image"]
    assert (out / path).read_bytes() == content(int(Path(path).stem))
    assert path.endswith(".png")
    again = prepare("hf", "--data-root", tmp_path / "fungi", out=tmp_path / "again")
    assert rows(again, "train") == rows(out, "train")
    for arguments in ([], [tmp_path / "fungi", "--data-root", tmp_path / "fungi"]):
        prepare("hf", *arguments, out=tmp_path / "refused", status=2)
        assert "Give one set to prepare" in capsys.readouterr().err


def test_columns_and_splits_are_options(tmp_path: Path) -> None:
    splits = {"learn": mushrooms(20, 0, "photo", "kind"), "check": mushrooms(8, 500, "photo", "kind")}
    DatasetDict(splits).save_to_disk(str(tmp_path / "raw"))
    columns = ("--image-column", "photo", "--label-column", "kind", "--train-split", "learn", "--val-split", "check")
    out = prepare("hf", tmp_path / "raw", *columns, "--name", "fungi", out=tmp_path / "out")
    assert counts(out) == {"train": 10, "val_base": 4, "val_new": 4}


def test_a_parquet_file_will_do_and_embedded_images_leave_no_files(tmp_path: Path) -> None:
    mushrooms(40).to_parquet(str(tmp_path / "fungi.parquet"))
    out = prepare("hf", tmp_path / "fungi.parquet", "--embed-images", out=tmp_path / "out")
    names = {"train.parquet", "val_base.parquet", "val_new.parquet", "classes.json", "set.json"}
    assert {path.name for path in out.iterdir()} == names
    assert rows(out, "train")[0]["images"][0]["bytes"][:4] == b"\x89PNG"


def save(folder: Path, labels: list[str] | list[int], kind: str) -> Path:
    """40 mushrooms whose labels are plain values."""
    entries = [{"image": {"bytes": content(n), "path": None}, "label": labels[n % 4]} for n in range(40)]
    Dataset.from_list(entries, features=Features({"image": Image(), "label": Value(kind)})).save_to_disk(str(folder))
    return folder


def test_text_labels_are_sorted(tmp_path: Path) -> None:
    out = prepare("hf", save(tmp_path / "raw", NAMES, "string"), out=tmp_path / "out")
    assert classes(out)["all"] == ["chanterelle", "death cap", "fly agaric", "morel"]


def test_bare_numbers_need_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = save(tmp_path / "raw", [0, 1, 2, 3], "int64")
    prepare("hf", raw, out=tmp_path / "out", status=2)
    assert "give --class-names a file of them" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    out = prepare("hf", raw, "--class-names", tmp_path / "names.txt", out=tmp_path / "out")
    assert classes(out)["all"][0] == "morel"


def test_a_folder_of_images_is_read_by_datasets_too(tmp_path: Path) -> None:
    for label, name in enumerate(NAMES):
        for index in range(5):
            paint(tmp_path / "raw" / name / f"{index}.png", label * 5 + index)
    out = prepare("hf", tmp_path / "raw", out=tmp_path / "out")
    assert counts(out) == {"train": 8, "val_base": 2, "val_new": 2}


def test_a_missing_image_is_one_of_the_bad_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    entries = [{"image": {"bytes": content(n), "path": None} if n else None, "label": n % 4} for n in range(40)]
    Dataset.from_list(entries, features=features).save_to_disk(str(tmp_path / "raw"))
    arguments = ("--setting", "all", "--on-error", "skip")
    out = prepare("hf", tmp_path / "raw", *arguments, out=tmp_path / "out")
    assert sum(counts(out).values()) == 39
    assert "000000.bin is empty" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--image-column", "photo"], "has no column 'photo': give --image-column one of image, label"),
        (["--train-split", "learn"], "has no split 'learn': use one of train"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(
    tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mushrooms(8).save_to_disk(str(tmp_path / "raw"))
    prepare("hf", tmp_path / "raw", *arguments, out=tmp_path / "out", status=2)
    assert sentence in capsys.readouterr().err


def test_what_cannot_be_loaded_ends_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("hf", tmp_path / "gone.parquet", out=tmp_path / "out", status=2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: datasets cannot load {tmp_path / 'gone.parquet'}")
