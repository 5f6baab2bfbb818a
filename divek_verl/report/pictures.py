"""Small copies of the run's pictures, as data that the page carries with it."""

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from divek_verl.images import open_picture, upright_rgb

# Longest side in pixels and WebP quality, the best first.
SIZES = ((256, 70), (192, 62), (144, 55), (112, 50), (88, 45), (72, 40), (56, 34), (40, 30))
PICTURES_TRIED = 48
MOST_PIXELS = 64_000_000
# Of a picture that is not on this disk, cannot be read, or is too large to be decoded safely.
EXPECTED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails in base64, or None, in the order of the paths. ``left_out``: readable, but beyond the limit."""

    mime: str
    pixels: int
    encoded: list[str | None]
    left_out: int = 0


def thumbnail(path: str, pixels: int, quality: int, form: str = "WEBP") -> bytes | None:
    """A copy of at most ``pixels`` on its longer side, on white; None where the picture cannot be had."""
    try:
        return _encode(_load(path.removeprefix("file://"), pixels), pixels, quality, form)
    except EXPECTED:
        return None


def _load(path: str, pixels: int) -> Image.Image:
    if not Path(path).is_file():  # opening a pipe would wait for ever
        raise FileNotFoundError(path)
    with open_picture(path) as file:
        if file.width * file.height > MOST_PIXELS:
            raise ValueError(f"{path} has more than {MOST_PIXELS} pixels")
        # A JPEG can be decoded at a fraction of its size, which is most of the time saved.
        file.draft("RGB", (pixels, pixels))
        return upright_rgb(file)


def _encode(picture: Image.Image, pixels: int, quality: int, form: str) -> bytes:
    picture.thumbnail((pixels, pixels))
    encoded = io.BytesIO()
    picture.save(encoded, form, quality=quality)
    return encoded.getvalue()


def thumbnails(paths: Sequence[str], limit: int) -> Thumbnails:
    """A thumbnail of each picture, as large as ``limit`` bytes of base64 for all of them allow."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for pixels, quality in SIZES[_first_size(paths, limit) :]:
            encoded = list(pool.map(lambda path: _base64(thumbnail(path, pixels, quality)), paths))  # noqa: B023
            if _size(encoded) <= limit:
                return Thumbnails("image/webp", pixels, encoded)
    return _keep_what_fits(Thumbnails("image/webp", pixels, encoded), limit)


def _first_size(paths: Sequence[str], limit: int) -> int:
    """The place in ``SIZES`` of the best one that some of the pictures say will fit, so that few are made twice."""
    tried = paths[:: max(1, len(paths) // PICTURES_TRIED)]
    for place, (pixels, quality) in enumerate(SIZES):
        size = _size([_base64(thumbnail(path, pixels, quality)) for path in tried])
        if size * len(paths) <= 0.95 * limit * max(len(tried), 1):
            return place
    return len(SIZES) - 1


def _keep_what_fits(made: Thumbnails, limit: int) -> Thumbnails:
    kept: list[str | None] = []
    used = 0
    for picture in made.encoded:
        used += len(picture or "")
        kept.append(picture if used <= limit else None)
    left_out = sum(before is not None and after is None for before, after in zip(made.encoded, kept, strict=True))
    return Thumbnails(made.mime, made.pixels, kept, left_out)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


def _size(encoded: Sequence[str | None]) -> int:
    return sum(len(picture or "") for picture in encoded)
