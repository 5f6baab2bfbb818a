"""One form of every picture: upright, first frame, RGB, 8 bits, transparency on white."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divek_verl.images import is_data_url, open_picture, to_data_url, upright_rgb, upright_size


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
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), content, url):
        with open_picture(source) as image:
            assert image.size == (24, 16)


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
