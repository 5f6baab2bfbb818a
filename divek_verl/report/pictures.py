"""Small copies of the run's pictures that the page carries with it."""

import base64
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from divek_verl.images import thumbnail

# Longest side in pixels and WebP quality, the best first.
SIZES = ((256, 70), (192, 62), (144, 55), (112, 50), (88, 45), (72, 40), (56, 34), (40, 30))
PICTURES_TRIED = 48


@dataclass(frozen=True)
class Thumbnails:
    """Base64 in the order of the paths, None for a missing one; ``left_out``: readable, but over the limit."""

    mime: str
    pixels: int
    encoded: list[str | None]
    left_out: int = 0


def thumbnails(paths: Sequence[str], limit: int) -> Thumbnails:
    """A thumbnail of each picture, as large as ``limit`` bytes of base64 for all of them allow."""
    # The best size that should fit, estimated from some pictures, so that few are encoded twice.
    tried = paths[:: max(1, len(paths) // PICTURES_TRIED)]
    first = 0
    while first < len(SIZES) - 1:
        size = _size([_base64(path, *SIZES[first]) for path in tried])
        if size * len(paths) <= 0.95 * limit * max(len(tried), 1):
            break
        first += 1
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for pixels, quality in SIZES[first:]:
            encoded = list(pool.map(lambda path: _base64(path, pixels, quality), paths))  # noqa: B023
            if _size(encoded) <= limit:
                return Thumbnails("image/webp", pixels, encoded)
    kept: list[str | None] = []
    used = 0
    for picture in encoded:
        used += len(picture or "")
        kept.append(picture if used <= limit else None)
    return Thumbnails("image/webp", pixels, kept, left_out=kept.count(None) - encoded.count(None))


def _base64(path: str, pixels: int, quality: int) -> str | None:
    data = thumbnail(path, pixels, quality)
    return None if data is None else base64.b64encode(data).decode("ascii")


def _size(encoded: Sequence[str | None]) -> int:
    return sum(len(picture or "") for picture in encoded)
