"""Pictures as everything here sees them: upright, first frame, RGB with 8 bits a channel, transparency on white.

Preparation checks a picture in this form and the rollout shows it in this form. Pillow's ``convert`` alone would
ignore the orientation that a camera wrote, and clip 16-bit pictures to white.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# Pictures of pixels only: other formats of Pillow's start programs (EPS) or draw by instructions (WMF).
_PIXEL_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA", "ICO")
Image.init()
FORMATS = tuple(name for name in _PIXEL_FORMATS if name in Image.OPEN)  # some depend on how Pillow was built

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # the orientations that swap width and height
_DATA_URL = "data:image/"
# Marks a picture of a DiVE-k row in a conversation, which the rollout turns upright; verl leaves its own as they are.
UPRIGHT = "upright"


def open_picture(source: str | Path | bytes) -> Image.Image:
    """The picture in a file, in encoded bytes or in a ``data:image/...;base64,`` URL, with no pixel decoded yet.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: as Pillow does.
    """
    if isinstance(source, str) and source.startswith(_DATA_URL):
        source = base64.b64decode(source.partition(",")[2], validate=True)
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as ``upright_rgb`` gives them, from the header alone.

    A PNG whose orientation stands behind its pixels counts as upright: looking for it would decode them all.
    """
    width, height = image.size
    if image.format == "PNG" and "exif" not in image.info:
        return width, height
    return (height, width) if image.getexif().get(_ORIENTATION_TAG) in _SIDEWAYS else (width, height)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode a picture: turned as its EXIF orientation says, RGB, transparent parts white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def to_data_url(content: bytes) -> str:
    """Encoded bytes as the string in which conversations carry a picture that is no file; damaged ones count as PNG."""
    try:
        with open_picture(content) as image:
            kind = Image.MIME.get(image.format or "", "image/png")
    # The readers of a damaged picture raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception:
        kind = "image/png"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture_entry(image: Mapping[str, Any], root: str | Path, *, min_pixels: int, max_pixels: int) -> dict[str, Any]:
    """A picture of a conversation, made from an entry of a row's ``images``: its path or data URL, and its bounds.

    Fields that parquet filled with null are left out; paths are relative to ``root``.
    """
    entry = {name: value for name, value in image.items() if value is not None}
    if "bytes" in entry:
        entry = {"image": to_data_url(entry["bytes"])}
    elif isinstance(entry.get("image"), str):
        entry["image"] = str(Path(root) / entry["image"])
    return {**entry, "min_pixels": min_pixels, "max_pixels": max_pixels, UPRIGHT: True}


def is_data_url(image: Any) -> bool:
    """Whether an entry of a conversation holds a picture itself instead of its path."""
    return isinstance(image, str) and image.startswith(_DATA_URL)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey levels of more than 8 bits brought to 8 by their nominal range; floats by the range that they use."""
    if image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        low, high = float(levels.min()), float(levels.max())
        return Image.fromarray(((levels - low) * (255 / (high - low or 1))).astype(np.uint8))
    return Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
