"""The small copies of the pictures."""

import base64
import io
import os
import random
from pathlib import Path

import pytest
from PIL import Image

from divek_verl import images
from divek_verl.images import PictureLimits, thumbnail
from divek_verl.report.pictures import SIZES, thumbnails


def noise(path: Path, seed: int) -> str:
    """A picture that compresses badly, another for each seed."""
    Image.frombytes("RGB", (128, 96), random.Random(seed).randbytes(128 * 96 * 3)).save(path, quality=90)
    return str(path)


def opened(encoded: str | bytes | None) -> Image.Image:
    assert encoded is not None
    return Image.open(io.BytesIO(base64.b64decode(encoded) if isinstance(encoded, str) else encoded))


def test_a_thumbnail_keeps_the_shape_and_transparency_becomes_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2000, 1000), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    small = opened(thumbnail(str(tmp_path / "clear.png"), 100, 80, "JPEG"))
    assert small.size == (100, 50) and small.getpixel((50, 25)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["", ".", "torn.png", "text.png", "pipe", "drawing.eps"])
def test_what_is_no_picture_gives_none_and_starts_no_program(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given: pytest.fail("Ghostscript was started"))
    Image.new("RGB", (32, 32)).save(tmp_path / "drawing.eps")
    noise(tmp_path / "whole.png", 0)
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:500])
    (tmp_path / "text.png").write_text("<svg onload=alert(1)>")
    os.mkfifo(tmp_path / "pipe")
    assert thumbnail(str(tmp_path / name) if name else "", 64, 50) is None


def test_a_picture_looks_as_the_model_saw_it(tmp_path: Path) -> None:
    """Pillow's own conversion clips 16 bits to white."""
    Image.new("I;16", (32, 32), 20_000).save(tmp_path / "deep.png")
    grey = opened(thumbnail(str(tmp_path / "deep.png"), 16, 90)).convert("RGB").getpixel((8, 8))
    assert grey == pytest.approx((20_000 // 257,) * 3, abs=3)


def test_a_picture_too_large_to_decode_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "THUMBNAIL_LIMITS", PictureLimits(max_pixels=100))
    assert thumbnail(noise(tmp_path / "large.jpg", 0), 64, 50) is None


def test_few_pictures_are_large_and_many_small(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{number}.jpg", number) for number in range(20)]
    roomy, tight = thumbnails(paths[:1], 10**6), thumbnails(paths, 30_000)
    assert roomy.pixels == SIZES[0][0] > tight.pixels
    assert opened(roomy.encoded[0]).format == opened(tight.encoded[0]).format == "WEBP"
    assert sum(len(picture or "") for picture in tight.encoded) <= 30_000
    assert tight.left_out == 0 and None not in tight.encoded
    assert thumbnails([], 1000).encoded == []


def test_beyond_the_limit_pictures_are_left_out_and_counted(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{number}.jpg", number) for number in range(20)]
    paths[0] = str(tmp_path / "not there")
    made = thumbnails(paths, 3_000)
    assert sum(len(picture or "") for picture in made.encoded) <= 3_000
    kept = sum(picture is not None for picture in made.encoded)
    assert 0 < kept < 19 and made.left_out == 19 - kept
