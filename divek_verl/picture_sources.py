"""A person's own pictures: files, bytes, Pillow images and, where allowed, http addresses. All of it is untrusted.

An address is fetched only from public machines: its host is resolved once, every address found is checked, and the
connection goes to the one that was checked, at every redirect anew. So neither a redirect nor a changing name server
leads to a service inside the network.
"""

import asyncio
import io
import ipaddress
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from PIL import Image

from divek_verl.images import upright_rgb

Content = TypeVar("Content", bytes, bytearray)
PictureSource = str | Path | bytes | Image.Image

# Formats whose readers Pillow has itself; others hand files to outside programs or read further files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM")
SCHEMES = ("http", "https")
MIN_SIDE = 8


class UnreadablePicture(Exception):
    """A picture that cannot be shown to the model. ``reason`` is one of a few names, the message says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class PictureLimits:
    """What is accepted.

    Attributes:
        max_bytes: of an encoded picture, on disk or fetched.
        max_size: pixels of a decoded picture, checked before any is decoded (Pillow's own limit by default).
        allow_urls: whether strings that start with http:// or https:// are fetched.
        allow_private_hosts: whether they may be on this machine or its network.
        timeout: seconds for one address, redirects included.
        max_redirects: of one address.
    """

    max_bytes: int = 20_000_000
    max_size: int = 89_478_485
    allow_urls: bool = False
    allow_private_hosts: bool = False
    timeout: float = 20.0
    max_redirects: int = 3


def is_url(source: object) -> bool:
    """Whether a source is an address of any scheme, and not a path."""
    return isinstance(source, str) and "://" in source


async def load_picture(source: PictureSource, limits: PictureLimits = PictureLimits()) -> Image.Image:
    """The picture upright and in RGB.

    Raises:
        UnreadablePicture: it is missing, too large, no picture, or at an address that is not allowed.
    """
    if isinstance(source, str) and is_url(source):
        return await asyncio.to_thread(decode, await fetch(source, limits), limits)
    if isinstance(source, Image.Image):
        return await asyncio.to_thread(_upright, source, limits)
    if isinstance(source, bytes):
        return await asyncio.to_thread(decode, source, limits)
    return await asyncio.to_thread(lambda: decode(_read(Path(source), limits), limits))


def _read(path: Path, limits: PictureLimits) -> bytes:
    path = path.expanduser()
    try:
        # A device or a pipe has no size, and may never end.
        if not path.is_file():
            raise UnreadablePicture("no_file", f"{path} is no file")
        with path.open("rb") as file:
            return _within(file.read(limits.max_bytes + 1), limits, str(path))
    except OSError as error:
        raise UnreadablePicture("unreadable_file", f"{path}: {error.strerror or error}") from error


def _within(content: Content, limits: PictureLimits, what: str) -> Content:
    if len(content) > limits.max_bytes:
        raise UnreadablePicture("too_many_bytes", f"{what} has more than {limits.max_bytes} bytes")
    return content


def decode(content: bytes, limits: PictureLimits = PictureLimits()) -> Image.Image:
    """The picture in encoded bytes, upright and in RGB.

    Raises:
        UnreadablePicture: they hold no picture of a known format, or one that is too large or too small.
    """
    _within(content, limits, "the picture")
    try:
        with warnings.catch_warnings():
            # Our own limit decides; Pillow's warning at the same number would only be noise.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    # A damaged file raises whatever its reader happens to meet: OSError, SyntaxError, ValueError, struct.error.
    except Exception as error:
        raise UnreadablePicture("no_picture", f"no picture of a known format ({type(error).__name__})") from error
    return _upright(image, limits)


def _upright(image: Image.Image, limits: PictureLimits) -> Image.Image:
    width, height = image.size
    if width * height > limits.max_size:
        raise UnreadablePicture("too_many_pixels", f"{width}x{height} pixels, at most {limits.max_size} are read")
    if min(width, height) < MIN_SIDE:
        raise UnreadablePicture("too_few_pixels", f"{width}x{height} pixels, a side has at least {MIN_SIDE}")
    try:
        return upright_rgb(image)
    except Exception as error:
        raise UnreadablePicture("damaged_picture", f"{type(error).__name__}: {error}") from error


async def fetch(url: str, limits: PictureLimits) -> bytes:
    """The content at an address.

    Raises:
        UnreadablePicture: addresses, or this one, are not allowed; it is too large; the server fails.
    """
    if not limits.allow_urls:
        raise UnreadablePicture("urls_not_allowed", f"{url}: allow addresses with --allow-urls (allow_urls=True)")
    try:
        return await asyncio.wait_for(_follow(url, limits), limits.timeout)
    except asyncio.TimeoutError:
        raise UnreadablePicture("timeout", f"{url}: not there after {limits.timeout:g} s") from None


async def _follow(url: str, limits: PictureLimits) -> bytes:
    import httpx

    # No proxy and no credentials of the environment: the connection goes to the address that was checked.
    async with httpx.AsyncClient(trust_env=False, timeout=limits.timeout, follow_redirects=False) as client:
        for _ in range(limits.max_redirects + 1):
            try:
                content, location = await _get(client, url, limits)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise UnreadablePicture("fetch_failed", f"{url}: {type(error).__name__}: {error}") from error
            if location is None:
                return content
            url = _joined(url, location)
    raise UnreadablePicture("too_many_redirects", f"{url}: more than {limits.max_redirects} redirects")


def _joined(url: str, location: str) -> str:
    """Where a redirect leads; what a server writes there may be anything."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise UnreadablePicture("fetch_failed", f"{url}: redirected to no address ({error})") from None


async def _get(client: Any, url: str, limits: PictureLimits) -> tuple[bytes, str | None]:
    """The content, or where to look instead."""
    target, headers, extensions = await _pinned(url, limits)
    async with client.stream("GET", target, headers=headers, extensions=extensions) as response:
        if response.has_redirect_location:
            return b"", response.headers["location"]
        if response.status_code != 200:
            raise UnreadablePicture("fetch_failed", f"{url}: status {response.status_code}")
        content = bytearray()
        # Raw: a small compressed answer must not unpack into a large one.
        async for block in response.aiter_raw():
            content += block
            _within(content, limits, url)
        return bytes(content), None


async def _pinned(url: str, limits: PictureLimits) -> tuple[str, dict[str, str], dict[str, Any]]:
    """The address with the host's checked number in it, and what the server needs to know of its name."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        raise UnreadablePicture("url_not_allowed", f"{url}: only http and https addresses are fetched") from None
    if not host or parts.username is not None or parts.password is not None:
        raise UnreadablePicture("url_not_allowed", f"{url}: an address needs a host and takes no password")
    number = await _checked_number(host, port, limits)
    bracketed = f"[{number}]" if ":" in number else number
    target = parts._replace(netloc=f"{bracketed}:{port}", fragment="").geturl()
    name = host.encode("idna").decode("ascii") if not _is_number(host) else host
    headers = {"Host": parts.netloc.rpartition("@")[2], "Accept": "image/*", "Accept-Encoding": "identity"}
    return target, headers, {"sni_hostname": name}


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _checked_number(host: str, port: int, limits: PictureLimits) -> str:
    """The first IP address of ``host``; refused where any of its addresses is not public."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnreadablePicture("fetch_failed", f"{host} has no address ({error})") from None
    numbers = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not limits.allow_private_hosts and not all(_is_public(number) for number in numbers):
        raise UnreadablePicture("host_not_allowed", f"{host} is on this machine or in a private network")
    return numbers[0]


def _is_public(number: str) -> bool:
    address = ipaddress.ip_address(number)
    # An IPv4 address in IPv6's clothes is judged by what it is.
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return address.is_global and not address.is_multicast and (mapped is None or mapped.is_global)
