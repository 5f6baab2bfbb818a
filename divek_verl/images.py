"""The one place that reads pictures: upright, first frame, RGB with 8 bits a channel, transparency on white.

Preparation checks a picture in this form and the model is shown it in this form. Pillow's ``convert`` alone would
ignore the orientation that a camera wrote, and clip 16-bit pictures to white. Pictures may be anybody's, so their size
is bounded, only regular files are opened, and whatever a reader raises is one exception.
"""

import base64
import io
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PictureSource = str | Path | bytes | Image.Image

# Pictures of pixels only: Pillow's readers of other formats start programs (EPS) or draw by instructions (WMF).
_PIXEL_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA", "HEIF")
Image.init()
with suppress(ImportError):  # an optional extra
    from pillow_heif import register_heif_opener

    register_heif_opener()
FORMATS = tuple(name for name in _PIXEL_FORMATS if name in Image.OPEN)  # some depend on how Pillow was built

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # the orientations that swap width and height
_DATA_URL = "data:image/"
_MEGABYTE = 2**20
# Decoding takes up to twelve bytes for each pixel: threads decode pictures of more pixels than this one at a time.
_LARGE = 32_000_000
_LARGE_LOCK = threading.Lock()
_STRIP = 256  # rows that are brought to 8 bits at one time
# Marks a picture of a DiVE-k row in a conversation: it is turned upright, while verl leaves its own as they are.
UPRIGHT = "upright"


class UnreadableImage(Exception):
    """A picture that cannot be shown to the model. ``problem`` says why: "is no file", "is 4x4 pixels, ..."."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}")
        self.problem = problem


@dataclass(frozen=True)
class PictureLimits:
    """Which pictures are accepted.

    Attributes:
        max_bytes: size of the encoded picture.
        max_pixels: pixels of the decoded picture, checked before any is decoded (Pillow warns from this number on).
        min_side: pixels of the shorter side.
        max_ratio: longer side / shorter side; qwen-vl-utils and transformers refuse more than 200.
    """

    max_bytes: int = 256 * _MEGABYTE
    max_pixels: int = 89_478_485
    min_side: int = 8
    max_ratio: int = 200


# Of pictures that are only shown.
THUMBNAIL_LIMITS = PictureLimits(max_pixels=64_000_000, min_side=1, max_ratio=64_000_000)


@contextmanager
def open_picture(source: PictureSource, limits: PictureLimits = PictureLimits()) -> Iterator[Image.Image]:
    """A picture with no pixel decoded yet, from a file, encoded bytes, a ``data:image/...;base64,`` URL or Pillow.

    Raises:
        UnreadableImage: the picture is missing, damaged, in no known format or beyond the limits; whatever reading it
            inside the ``with`` block raises is turned into it, too.
    """
    name = "the picture"
    try:
        if isinstance(source, Image.Image):
            yield _within(source, limits, name)
            return
        if isinstance(source, str) and source.startswith(_DATA_URL):
            source = base64.b64decode(source.partition(",")[2], validate=True)
        if not isinstance(source, bytes):
            name = str(source)
        with _content(source, limits, name) as file, Image.open(file, formats=FORMATS) as image:
            yield _within(image, limits, name)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        with _content(cast(str | Path | bytes, source), limits, name) as file:
            start = file.read(12)
        if start[4:8] == b"ftyp" and start[8:] in _HEIC_BRANDS:
            raise UnreadableImage(name, "is a HEIC picture: install pillow-heif (divek_verl[heic])") from None
        raise UnreadableImage(name, "cannot be decoded (cannot identify its format)") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(name, f"has more than {2 * limits.max_pixels} pixels") from None
    # The readers of a damaged picture raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(name, f"cannot be decoded ({said})") from error


def load_picture(source: PictureSource, limits: PictureLimits = PictureLimits()) -> Image.Image:
    """The decoded picture, upright and RGB.

    Raises:
        UnreadableImage: as ``open_picture``.
    """
    with open_picture(source, limits) as image:
        return upright_rgb(image)


def read_picture_file(path: Path, limits: PictureLimits = PictureLimits()) -> bytes:
    """The encoded picture in a file.

    Raises:
        UnreadableImage: there is no regular file, or it is empty, too large or unreadable.
    """
    with _content(path, limits, str(path)) as file:
        return file.read()


def _content(source: str | Path | bytes, limits: PictureLimits, name: str) -> BinaryIO:
    try:
        if isinstance(source, bytes):
            _check_size(len(source), limits, name)
            return io.BytesIO(source)
        path = Path(source).expanduser()
        facts = path.stat()
        # Opening a pipe or a device could wait for ever.
        if not stat.S_ISREG(facts.st_mode):
            raise UnreadableImage(name, "is no file")
        _check_size(facts.st_size, limits, name)
        return path.open("rb")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home, or a loop of links
        raise UnreadableImage(name, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _check_size(size: int, limits: PictureLimits, name: str) -> None:
    if not size:
        raise UnreadableImage(name, "is empty")
    if size > limits.max_bytes:
        most = limits.max_bytes / _MEGABYTE
        raise UnreadableImage(name, f"has {size / _MEGABYTE:.1f} MB, the most is {most:.1f}")


def _within(image: Image.Image, limits: PictureLimits, name: str) -> Image.Image:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise UnreadableImage(name, f"is {width}x{height} pixels, the most is {limits.max_pixels}")
    if min(width, height) < limits.min_side:
        raise UnreadableImage(name, f"is {width}x{height} pixels, the least is {limits.min_side} a side")
    if max(width, height) > limits.max_ratio * min(width, height):
        raise UnreadableImage(name, f"is {width}x{height} pixels, one side over {limits.max_ratio} times the other")
    return image


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
    with _LARGE_LOCK if image.width * image.height > _LARGE else nullcontext():
        if image.getexif().get(_ORIENTATION_TAG, 1) != 1:  # else it would be copied
            image = ImageOps.exif_transpose(image)
        image.load()
        if image.mode.startswith(("I", "F")):
            image = _to_8_bits(image)
        if not image.has_transparency_data:
            return image.convert("RGB")
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        shown = Image.new("RGB", image.size, "white")
        shown.paste(image, mask=image)
        return shown


def thumbnail(
    source: str | Path | bytes,
    pixels: int,
    quality: int,
    image_format: str = "WEBP",
    limits: PictureLimits | None = None,
) -> bytes | None:
    """A copy with a longer side of at most ``pixels``, on white; None if the picture is missing or unreadable."""
    source = source.removeprefix("file://") if isinstance(source, str) else source
    try:
        with open_picture(source, limits or THUMBNAIL_LIMITS) as file:
            # Decode a JPEG at a fraction of its size, which saves most of the time.
            file.draft("RGB", (pixels, pixels))
            picture = upright_rgb(file)
        picture.thumbnail((pixels, pixels))
        encoded = io.BytesIO()
        picture.save(encoded, image_format, quality=quality)
        return encoded.getvalue()
    except (UnreadableImage, OSError, ValueError):  # the latter two: it cannot be encoded
        return None


def to_data_url(content: bytes) -> str:
    """Encoded bytes as the string in which conversations carry a picture that is no file; damaged ones count as PNG."""
    try:
        with open_picture(content) as image:
            kind = Image.MIME.get(image.format or "", "image/png")
    except UnreadableImage:
        kind = "image/png"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture_entry(
    image: Mapping[str, object], root: str | Path, *, min_pixels: int, max_pixels: int
) -> dict[str, object]:
    """A picture of a conversation, made from an entry of a row's ``images``: its path or data URL, and its bounds.

    Fields that parquet filled with null are left out; paths are relative to ``root``.
    """
    entry = {name: value for name, value in image.items() if value is not None}
    if isinstance(content := entry.get("bytes"), bytes):
        entry = {"image": to_data_url(content)}
    elif isinstance(path := entry.get("image"), str):
        entry["image"] = str(Path(root) / path)
    return {**entry, "min_pixels": min_pixels, "max_pixels": max_pixels, UPRIGHT: True}


def is_data_url(image: object) -> bool:
    """Whether an entry of a conversation holds a picture itself instead of its path."""
    return isinstance(image, str) and image.startswith(_DATA_URL)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey levels of more than 8 bits brought to 8 by their nominal range; floats by the range that they use."""
    low, high = cast(tuple[float, float], image.getextrema())
    levels = np.empty((image.height, image.width), np.uint8)
    for top in range(0, image.height, _STRIP):
        strip = np.asarray(image.crop((0, top, image.width, min(top + _STRIP, image.height))), dtype=np.float64)
        scaled = (strip - low) * (255 / (high - low or 1)) if image.mode == "F" else strip // 257
        levels[top : top + _STRIP] = scaled.clip(0, 255)
    return Image.fromarray(levels)
