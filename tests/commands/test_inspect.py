"""``divek inspect``: the summary and the page."""

import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare.layouts import cub, paint
from prepare.running import images, prepare

from divek_verl import cli
from divek_verl.commands.inspect import spread, summarise, write_sheet


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    return prepare("cub", "--data-root", cub(tmp_path / "CUB_200_2011"), out=tmp_path / "out")


def test_the_summary_counts(birds: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    capsys.readouterr()
    assert cli.run(["inspect", str(birds)]) == 0
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if "train" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["train", "24", "3", "8 / 8 / 8", "12 / 12 / 12", "9 / 9 / 9", "0"]
    assert f"contact sheet: {birds / 'inspect.html'}" in shown


def test_sizes_are_of_the_upright_picture_and_unreadable_ones_are_named(birds: Path, tmp_path: Path) -> None:
    from PIL import Image

    first, second, third, fourth = images(birds, "train")[:4]
    root = tmp_path / "CUB_200_2011/images"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(root / first, "JPEG", exif=exif)
    (root / second).unlink()
    (root / third).write_text("no picture")
    (root / fourth).unlink()
    os.mkfifo(root / fourth)
    summary = summarise(birds, "train")
    assert (max(summary.widths), max(summary.heights)) == (20, 40)
    assert summary.unreadable == [second, third, fourth]
    assert summary.classes.total() == 24


def test_a_row_without_a_picture_is_one_sentence(birds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pq.read_table(birds / "train.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([*rows[:2], {**rows[2], "images": None}]), birds / "train.parquet")
    assert cli.run(["inspect", str(birds)]) == 2
    assert "Row 2 of" in (said := capsys.readouterr().err) and "has 0 pictures" in said


def test_prompts_are_counted_as_training_counts_them(
    tmp_path: Path, processor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The processor's own count of a whole prompt, text and picture."""
    from qwen_vl_utils import process_vision_info

    out = prepare("cub", "--data-root", cub(tmp_path / "raw"), out=tmp_path / "out")
    paint(tmp_path / "raw/images" / images(out, "train")[0], 1, (300, 200))
    processor.save_pretrained(tmp_path / "model")
    from divek_verl.prepare.rows import rows_of

    row = next(rows_of(out, "train"))
    text = row["prompt"][0]["content"].removeprefix("<image>")
    picture = {
        "type": "image",
        "image": str(tmp_path / "raw/images" / row["images"][0]["image"]),
        "min_pixels": 3136,
        "max_pixels": 401408,
    }
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]
    whole = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    loaded, _ = process_vision_info(messages, image_patch_size=14)
    tokens = len(processor(text=[whole], images=loaded)["input_ids"][0])
    limit = tokens - 1
    capsys.readouterr()
    assert (
        cli.run(["inspect", str(out), "--tokenizer", str(tmp_path / "model"), "--max-prompt-length", str(limit)]) == 0
    )
    found = re.search(rf"train: prompt tokens (\d+) / \S+ / (\d+); over {limit}: 1 rows, 4.2%", capsys.readouterr().out)
    assert found is not None and int(found[2]) == tokens


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_a_tokenizer_or_without_rows_is_refused(
    birds: Path, made: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = birds if made else birds / "gone"
    assert cli.run(["inspect", str(birds), "--tokenizer", str(folder)]) == 2
    assert "holds no tokenizer" in capsys.readouterr().err
    assert cli.run(["inspect", str(birds.parent)]) == 2
    assert "holds no parquet file of a prepared set" in capsys.readouterr().err


def test_a_spread_is_least_middle_most() -> None:
    assert spread([3, 1, 2]) == "1 / 2 / 3"
    assert spread([1, 2]) == "1 / 1.5 / 2"
    assert spread([]) == "-"


# The page


def test_the_page_shows_some_pictures_of_each_class_and_loads_nothing(birds: Path) -> None:
    page = write_sheet(birds, ["train", "val_new"], birds / "inspect.html", per_class=2).read_text()
    assert page.count("<img") == 2 * 3 + 2 * 2
    assert page.count('src="data:image/jpeg;base64,') == page.count("src=")
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not re.search(r"https?://", page)
    assert page.index("Black footed Albatross") < page.index("Laysan Albatross") < page.index("Crested Auklet")


def test_names_are_inert(tmp_path: Path) -> None:
    hostile = '<script>alert("x")</script>'.replace("/", "\u2215")
    for label, name in enumerate((hostile, "oak", "pine", "yew")):
        for index in range(5):
            paint(tmp_path / "raw" / name / f"{index}.png", label * 5 + index)
    out = prepare("image_folder", "--data-root", tmp_path / "raw", out=tmp_path / "out")
    page = write_sheet(out, ["train"], out / "inspect.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_an_unreadable_picture_is_said_to_be(birds: Path, tmp_path: Path) -> None:
    (tmp_path / "CUB_200_2011/images" / images(birds, "train")[0]).unlink()
    page = write_sheet(birds, ["train"], birds / "inspect.html").read_text()
    assert page.count(">unreadable</span>") == 1


def test_embedded_pictures_are_shown_too(tmp_path: Path) -> None:
    root = cub(tmp_path / "CUB_200_2011")
    out = prepare("cub", "--data-root", root, "--embed-images", out=tmp_path / "out")
    assert write_sheet(out, ["val_new"], out / "inspect.html").read_text().count("<img") == 4
    assert summarise(out, "val_new").widths == [12] * 4


def test_the_page_has_a_bound(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from divek_verl.commands import inspect as sheet

    monkeypatch.setattr(sheet, "MAX_PICTURES", 5)
    assert write_sheet(birds, ["train", "val_base"], birds / "inspect.html").read_text().count("<img") == 5


def test_a_prepared_set_with_a_page_can_be_replaced(birds: Path, tmp_path: Path) -> None:
    write_sheet(birds, ["train"], birds / "inspect.html")
    prepare("cub", "--data-root", tmp_path / "CUB_200_2011", out=birds)
    assert not (birds / "inspect.html").exists()
