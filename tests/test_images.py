"""One form of every picture: upright, first frame, RGB, 8 bits, transparency on white; everything else is refused."""

import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines.conftest import damaged_avif
from PIL import Image

from divek_verl.images import (
    PictureLimits,
    UnreadableImage,
    is_data_url,
    load_picture,
    open_picture,
    picture_entry,
    read_picture_file,
    to_data_url,
    upright_rgb,
    upright_size,
)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def red_left() -> Image.Image:
    """24x16, its left half red, its right half blue."""
    image = Image.new("RGB", (24, 16), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 12, 16))
    return image


@pytest.mark.parametrize(
    ("orientation", "size", "where_red_is"),
    [(1, (24, 16), (3, 8)), (3, (24, 16), (20, 8)), (6, (16, 24), (8, 3)), (8, (16, 24), (8, 20))],
)
def test_a_picture_is_turned_as_the_camera_says(
    orientation: int, size: tuple[int, int], where_red_is: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with open_picture(encoded(red_left(), exif=exif)) as image:
        assert upright_size(image) == size
        upright = upright_rgb(image)
    assert upright.size == size
    assert upright.getpixel(where_red_is) == (255, 0, 0)


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (257 * 100, 100), (65535, 255)])
def test_16_bit_grey_keeps_its_levels(level: int, expected: int) -> None:
    image = Image.fromarray(np.full((9, 12), level, dtype=np.uint16))
    with open_picture(encoded(image)) as read:
        assert upright_rgb(read).getpixel((0, 0)) == (expected,) * 3


def test_floats_use_the_range_that_they_have() -> None:
    image = Image.fromarray(np.array([[0.5, 2.5]], dtype=np.float32))
    assert [upright_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


def test_transparent_parts_are_white() -> None:
    assert upright_rgb(Image.new("RGBA", (9, 9), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (9, 9), 0)
    palette.info["transparency"] = 0
    assert upright_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_is_converted() -> None:
    with open_picture(encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG")) as image:
        red, green, blue = np.asarray(upright_rgb(image))[0, 0]
    assert red > 200 and green < 60 and blue < 60


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with open_picture(content) as image:
        assert upright_rgb(image).getpixel((0, 0)) == (255, 0, 0)


def test_a_picture_opens_from_a_path_bytes_and_a_data_url(tmp_path: Path) -> None:
    content = encoded(red_left())
    (tmp_path / "a.png").write_bytes(content)
    url = to_data_url(content)
    assert url.startswith("data:image/png;base64,")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), content, url, Image.open(io.BytesIO(content))):
        with open_picture(source) as image:
            assert image.size == (24, 16)
        assert load_picture(source).tobytes() == red_left().tobytes()
    assert read_picture_file(tmp_path / "a.png") == content


def test_a_data_url_is_told_from_a_path() -> None:
    assert is_data_url(to_data_url(encoded(red_left(), "JPEG")))
    assert not is_data_url("data/image.png")
    assert not is_data_url(red_left())


def test_the_size_of_a_png_is_in_its_header(tmp_path: Path) -> None:
    """Torn behind it, the picture still has a size: whoever shows it says that it cannot be read."""
    path = tmp_path / "torn.png"
    Image.effect_noise((112, 84), 80).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with open_picture(path) as image:
        assert upright_size(image) == (112, 84)


def test_an_entry_of_a_row_is_a_path_or_a_data_url_with_bounds() -> None:
    bounds = {"min_pixels": 1, "max_pixels": 9}
    by_path = picture_entry({"image": "a.png", "bytes": None}, "/root", **bounds)
    assert by_path == {"image": "/root/a.png", **bounds, "upright": True}
    content = encoded(red_left(), "JPEG")
    embedded = picture_entry({"image": None, "bytes": content, "path": None}, "/root", **bounds)
    assert embedded == {"image": to_data_url(content), **bounds, "upright": True}
    assert to_data_url(content).startswith("data:image/jpeg;") and to_data_url(b"?").startswith("data:image/png;")


# ------------------------------------------------------------------------- what is refused


def problem(source: Any, **limits: int) -> str:
    with pytest.raises(UnreadableImage) as error:
        load_picture(source, PictureLimits(**limits))
    assert str(error.value).endswith(error.value.problem) and "\n" not in str(error.value)
    return error.value.problem


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "HEIF"])
def test_pictures_of_the_usual_formats_are_read(kind: str) -> None:
    assert load_picture(encoded(red_left(), kind)).size == (24, 16)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "", "/dev/zero"):
        assert problem(tmp_path / name) == "is no file"
    for name in ("none.png", "loop", "\0", "https://example.org/flag.png"):
        assert problem(f"{tmp_path}/{name}").startswith("cannot be read")


@pytest.mark.parametrize(
    "content", [b"text", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n", "data:image/png;base64,?"]
)
def test_what_is_no_picture_of_a_known_format(content: bytes | str) -> None:
    assert problem(content).startswith("cannot be decoded")


def test_formats_that_start_programs_are_not_read() -> None:
    assert "cannot identify" in problem(encoded(Image.new("L", (9, 9)), "EPS"))


@pytest.mark.parametrize("length", [20, 300, 800])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP"])
def test_a_picture_that_was_cut_short(kind: str, length: int) -> None:
    assert problem(encoded(Image.effect_noise((64, 64), 60).convert("RGB"), kind)[:length]).startswith("cannot be")


def test_a_reader_that_raises_anything_else() -> None:
    assert problem(damaged_avif()).startswith("cannot be decoded")


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "F"])
def test_the_memory_of_decoding_is_bounded(mode: str, run_python: Any, tmp_path: Path) -> None:
    """A small file can hold many pixels. 9 million of them took up to 24 bytes each."""
    side = 3000
    kind, path = ("TIFF", tmp_path / "a.tif") if mode == "F" else ("PNG", tmp_path / "a.png")
    options = {"compression": "tiff_deflate"} if mode == "F" else {}
    Image.new(mode, (side, side)).save(path, kind, **options)
    code = (
        "import sys; from divek_verl.images import load_picture; load_picture(sys.argv[1]);"
        # Not getrusage: its maximum is that of the parent process at first.
        "peak = lambda: 1024 * int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]);"
        f"before = peak(); load_picture(sys.argv[2]); print((peak() - before) / {side**2})"
    )
    Image.new("RGB", (9, 9)).save(tmp_path / "small.png")
    done = run_python("-c", code, str(tmp_path / "small.png"), str(path), PYTHONPATH=str(Path(__file__).parents[1]))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 13


def test_limits_hold_before_anything_is_decoded(tmp_path: Path) -> None:
    assert problem(encoded(Image.new("RGB", (100, 100))), max_pixels=1000) == "is 100x100 pixels, the most is 1000"
    assert problem(encoded(Image.new("RGB", (100, 4)))) == "is 100x4 pixels, the least is 8 a side"
    assert problem(Image.new("RGB", (4, 100))) == "is 4x100 pixels, the least is 8 a side"
    assert problem(encoded(Image.new("RGB", (3000, 8)))) == "is 3000x8 pixels, one side over 200 times the other"
    assert problem(bytes(2 * 2**20), max_bytes=2**20) == "has 2.0 MB, the most is 1.0"
    assert problem(b"") == "is empty"
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(50_000_000_000)  # sparse: takes no space, and would not fit into memory
    assert "the most is 256.0" in problem(tmp_path / "large.bin")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_600, 14_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    """Pillow only warns between one and two times its limit."""
    bomb = encoded(Image.new("1", (side, side)))
    assert len(bomb) < 1_000_000
    started = time.monotonic()
    assert " pixels" in problem(bomb)
    assert time.monotonic() - started < 1
