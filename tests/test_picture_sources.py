"""A person's own pictures: what is accepted, and how everything else is refused by name. The servers are real."""

import asyncio
import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from divek_verl.picture_sources import PictureLimits, UnreadablePicture, _is_public, load_picture

HERE = PictureLimits(allow_urls=True, allow_private_hosts=True, timeout=5.0)


def encoded(kind: str = "PNG", size: tuple[int, int] = (32, 24), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 120 if mode in ("L", "P") else None).save(buffer, kind, **options)
    return buffer.getvalue()


def load(source: Any, limits: PictureLimits = PictureLimits()) -> Image.Image:
    return asyncio.run(load_picture(source, limits))


def refused(source: Any, limits: PictureLimits = PictureLimits()) -> str:
    with pytest.raises(UnreadablePicture) as error:
        load(source, limits)
    return error.value.reason


# --------------------------------------------------------------------- files, bytes, images


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_the_usual_formats_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encoded(kind))
    for source in (path, str(path), encoded(kind), Image.open(path)):
        image = load(source)
        assert (image.mode, image.size) == ("RGB", (32, 24))


def test_pictures_are_turned_as_the_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load(encoded("JPEG", exif=exif)).size == (24, 32)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.png") == "no_file"
    assert refused(tmp_path) == "no_file"


def test_a_device_that_never_ends_is_no_file() -> None:
    assert refused("/dev/zero") == "no_file"


def test_a_pipe_that_nobody_writes_to_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "no_file"


@pytest.mark.parametrize("content", [b"", b"text", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_of_a_known_format(content: bytes) -> None:
    assert refused(content) == "no_picture"


def test_a_picture_that_was_cut_short() -> None:
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(noise, "PNG")
    assert refused(noise.getvalue()[:800]) == "damaged_picture"


def test_size_limits_hold_before_anything_is_decoded() -> None:
    limits = PictureLimits(max_bytes=10_000, max_size=1000)
    assert refused(encoded(size=(100, 100)), limits) == "too_many_pixels"
    assert refused(bytes(10_001), limits) == "too_many_bytes"
    assert refused(encoded(size=(100, 4))) == "too_few_pixels"


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = encoded("PNG", size=(12_000, 12_000), mode="L")
    assert len(bomb) < 1_000_000
    started = time.monotonic()
    assert refused(bomb) == "too_many_pixels"
    assert refused(bytes(bomb[:200])) in ("too_many_pixels", "no_picture", "damaged_picture")
    assert time.monotonic() - started < 60


def test_a_file_is_read_no_further_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(50_000_000_000)  # sparse: takes no space, and would not fit into memory
    assert refused(path) == "too_many_bytes"


# --------------------------------------------------------------------- addresses

Handle = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(handle: Handle) -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and the paths that it was asked for."""
    paths: list[str] = []

    class Scripted(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            with suppress(ConnectionError):  # the client has had enough
                handle(self)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", paths
    finally:
        server.shutdown()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, content: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def test_a_picture_at_an_address_is_read() -> None:
    with serving(lambda handler: send(handler, encoded())) as (address, paths):
        assert load(f"{address}/flag.png?size=1#top", HERE).size == (32, 24)
    assert paths == ["/flag.png?size=1"]


def test_addresses_are_off_unless_allowed() -> None:
    with serving(lambda handler: send(handler, encoded())) as (address, paths):
        assert refused(f"{address}/flag.png") == "urls_not_allowed"
    assert paths == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.org/a.png", "data://x", "gopher://x/1", "HTTPX://x"]
)
def test_only_http_and_https_are_fetched(url: str) -> None:
    assert refused(url, HERE) == "url_not_allowed"


def test_an_address_takes_no_password_and_needs_a_host() -> None:
    assert refused("http://user:secret@127.0.0.1/a.png", HERE) == "url_not_allowed"
    assert refused("http:///a.png", HERE) == "url_not_allowed"
    assert refused("http://127.0.0.1:99999/a.png", HERE) == "url_not_allowed"


PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "2002:7f00:1::1",
]


@pytest.mark.parametrize("number", PRIVATE)
def test_numbers_inside_a_network_are_not_public(number: str) -> None:
    assert not _is_public(number)


@pytest.mark.parametrize("number", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_numbers_of_the_open_network_are(number: str) -> None:
    assert _is_public(number)


# Other spellings of 127.0.0.1, as far as this machine's resolver takes them.
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]"])
def test_a_service_of_this_machine_is_not_asked(host: str) -> None:
    with serving(lambda handler: send(handler, encoded())) as (address, paths):
        port = address.rpartition(":")[2]
        url = f"http://{host}:{port}/flag.png"
        assert refused(url, PictureLimits(allow_urls=True)) in ("host_not_allowed", "fetch_failed")
    assert paths == []


def resolver(*answers: str) -> Any:
    """A name server that gives one answer after the other."""
    left = list(answers)

    async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        number = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in number.split()]

    return getaddrinfo


@pytest.mark.parametrize("answer", ["127.0.0.1", "8.8.8.8 127.0.0.1", "10.0.0.1"])
def test_a_name_that_leads_inside_is_not_asked(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolver(answer))
    assert refused("http://pictures.example/flag.png", PictureLimits(allow_urls=True)) == "host_not_allowed"


def test_the_connection_goes_to_the_number_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that changes its answer between check and connection gains nothing."""
    hosts: list[str | None] = []

    def handle(handler: BaseHTTPRequestHandler) -> None:
        hosts.append(handler.headers["Host"])
        send(handler, encoded())

    with serving(handle) as (address, _):
        port = address.rpartition(":")[2]
        # The second answer would be asked for only by a connection that looked the name up again.
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolver("127.0.0.1", "192.0.2.1"))
        assert load(f"http://pictures.example:{port}/flag.png", HERE).size == (32, 24)
    assert hosts == [f"pictures.example:{port}"]


def redirect(target: Callable[[BaseHTTPRequestHandler], str]) -> Handle:
    def handle(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/flag.png":
            send(handler, encoded())
        else:
            send(handler, b"", 302, Location=target(handler))

    return handle


def test_a_redirect_is_followed() -> None:
    with serving(redirect(lambda handler: "/flag.png")) as (address, paths):
        assert load(f"{address}/old", HERE).size == (32, 24)
    assert paths == ["/old", "/flag.png"]


def test_a_redirect_inside_is_refused_as_an_address_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host counts as public here; what it points to is judged anew."""
    public = {"127.0.0.1"}
    monkeypatch.setattr("divek_verl.picture_sources._is_public", lambda number: number in public)
    with serving(redirect(lambda handler: "http://169.254.169.254/latest/meta-data")) as (address, paths):
        assert refused(f"{address}/old", PictureLimits(allow_urls=True)) == "host_not_allowed"
    assert paths == ["/old"]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.png"])
def test_a_redirect_to_another_scheme_is_refused(target: str) -> None:
    with serving(redirect(lambda handler: target)) as (address, _):
        assert refused(f"{address}/old", HERE) == "url_not_allowed"


@pytest.mark.parametrize("status", [302, 304])
def test_a_redirect_that_leads_nowhere_is_a_server_without_a_picture(status: int) -> None:
    with serving(lambda handler: send(handler, b"", status)) as (address, _):
        assert refused(f"{address}/old", HERE) == "fetch_failed"


@pytest.mark.parametrize("target", ["http://[::1", "http://[oops]/"])
def test_what_is_no_address_is_refused_by_name_here_and_in_a_redirect(target: str) -> None:
    assert refused(target, HERE) == "url_not_allowed"
    with serving(redirect(lambda handler: target)) as (address, _):
        assert refused(f"{address}/old", HERE) == "fetch_failed"


def test_redirects_without_end_are_given_up() -> None:
    with serving(redirect(lambda handler: f"{handler.path}x")) as (address, paths):
        assert refused(f"{address}/old", HERE) == "too_many_redirects"
    assert len(paths) == HERE.max_redirects + 1


def test_a_download_stops_at_the_limit() -> None:
    sent = [0]

    def handle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:  # for ever, without saying how much it will be
            sent[0] += handler.wfile.write(bytes(100_000))

    limits = PictureLimits(allow_urls=True, allow_private_hosts=True, max_bytes=1_000_000)
    with serving(handle) as (address, _):
        assert refused(f"{address}/flag.png", limits) == "too_many_bytes"
    assert sent[0] < 50_000_000


def test_a_compressed_answer_is_not_unpacked() -> None:
    import gzip

    with serving(lambda handler: send(handler, gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")) as (url, _):
        assert refused(f"{url}/flag.png", HERE) == "no_picture"


@pytest.mark.parametrize("status", [204, 404, 500])
def test_a_server_that_has_no_picture(status: int) -> None:
    with serving(lambda handler: send(handler, b"", status)) as (address, _):
        assert refused(f"{address}/flag.png", HERE) == "fetch_failed"


def test_a_page_is_no_picture() -> None:
    with serving(lambda handler: send(handler, b"<!doctype html>", Content_Type="image/png")) as (address, _):
        assert refused(f"{address}/flag.png", HERE) == "no_picture"


def test_a_server_that_takes_for_ever() -> None:
    with serving(lambda handler: time.sleep(3)) as (address, _):
        limits = PictureLimits(allow_urls=True, allow_private_hosts=True, timeout=0.3)
        assert refused(f"{address}/flag.png", limits) in ("timeout", "fetch_failed")


def test_a_server_that_is_not_there() -> None:
    with serving(lambda handler: None) as (address, _):
        pass
    assert refused(f"{address}/flag.png", HERE) == "fetch_failed"


def test_no_credential_or_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    def handle(handler: BaseHTTPRequestHandler) -> None:
        seen.append(dict(handler.headers))
        send(handler, encoded())

    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with serving(handle) as (address, _):
        load(f"{address}/flag.png", HERE)
    assert not {"Authorization", "Cookie"} & set(seen[0])
