"""A small prepared set on disk, and the questions about it."""

import io
from pathlib import Path

import pytest
from PIL import Image

from divek_verl.engines.rows import PreparedRows, read_rows
from divek_verl.prepare import Classes, Example, Split, write_set

NAMES = ("Chad", "Romania", "Moldova", "Mali", "Guinea", "Senegal")
CLASSES = Classes(NAMES, aliases={"Romania": ("Rumania",)})


def paint(folder: Path, split: str, side: str, count: int) -> Split:
    """``count`` plain pictures, each of another colour."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = CLASSES.of(side).names
    examples = []
    for index in range(count):
        path = Path("images", f"{split}-{index}.png")
        Image.new("RGB", (112, 84), (10 * index % 256, 40, 200)).save(folder / path)
        examples.append(Example(image=path.as_posix(), truth=names[index % len(names)], image_id=path.stem))
    return Split(split, side, examples)


def damaged_avif() -> bytes:
    """A picture with a sound header, whose reader raises a RuntimeError."""
    content = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(content, "AVIF")
    return content.getvalue()[:-8] + bytes(8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with ``train.parquet`` of six rows."""
    folder = tmp_path / "data"
    write_set(folder, "flags", CLASSES, [paint(folder, "train", "base", 6)])
    return folder


@pytest.fixture
def rows(data: Path) -> PreparedRows:
    return read_rows([data / "train.parquet"], min_pixels=3136, max_pixels=401408)
