"""The client of an OpenAI-compatible server, which is not trusted: time, length and content of its replies are bounded.

httpx's own time-out is for each read, so a server that sends a byte at a time would never exceed it.
"""

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from divek_verl.errors import SetupError
from divek_verl.files import without_surrogates

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# The client demands a key, local servers need none.
NO_KEY = "none"
# The rest of a longer reply is not read, so that it is no valid JSON.
MAX_REPLY_BYTES = 16 * 2**20
# The first words of an error name its cause.
MAX_DETAIL = 300
MAX_TOKENS = 10**9
# Shorter keys are placeholders; cutting them out would spoil ordinary words.
SHORTEST_KEY = 6
_NO_ADDRESS = "{} is no address of a server: write it as http://HOST:PORT/v1."


def open_client(base_url: str | None, key: str, timeout: float, retries: int) -> "AsyncOpenAI":
    """A client whose every try ends after ``timeout`` seconds; it reads at most ``MAX_REPLY_BYTES``.

    Raises:
        SetupError: the address is no URL, or the key cannot be sent.
    """
    import httpx2
    import openai

    if base_url:
        check_address(base_url)
    if not (key.isascii() and key.isprintable()):
        raise SetupError(f"The key for {address(base_url or '')} is not plain ASCII: set the right one.")

    class BoundedClient(openai.DefaultAsyncHttpxClient):
        async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            try:
                return await asyncio.wait_for(self._whole(request, {**options, "stream": True}), timeout)
            except asyncio.TimeoutError:
                raise httpx2.ReadTimeout(f"no whole reply after {timeout:g} s", request=request) from None

        async def _whole(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
            response = await super().send(request, **options)
            content = bytearray()
            # A part of gzip grows a thousandfold at most, one of Brotli or zstd without bounds: those stay as they are.
            safe = response.headers.get("content-encoding", "gzip").lower() in ("identity", "gzip", "deflate")
            try:
                async for part in response.aiter_bytes() if safe else response.aiter_raw():
                    content += part[: MAX_REPLY_BYTES - len(content)]
                    if len(content) == MAX_REPLY_BYTES:
                        break
            finally:
                await response.aclose()
            # The content is decoded already.
            decoded = ("content-encoding", "content-length", "transfer-encoding")
            headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in decoded]
            return httpx2.Response(response.status_code, headers=headers, content=bytes(content), request=request)

    try:
        parts = urlsplit(base_url or "")
        # As credentials instead of in the address, which messages and logs show.
        login = (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None
        http = BoundedClient(timeout=timeout, auth=login)
        shown = base_url and parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return openai.AsyncOpenAI(base_url=shown, api_key=key, timeout=timeout, max_retries=retries, http_client=http)
    except (httpx2.InvalidURL, ValueError):
        raise SetupError(_NO_ADDRESS.format(address(base_url or ""))) from None


def check_address(base_url: str) -> None:
    """Raises SetupError for an address that no server can have."""
    try:
        parts = urlsplit(base_url)
        possible = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        possible = False
    if not possible:
        raise SetupError(_NO_ADDRESS.format(address(base_url)))


def address(base_url: str) -> str:
    """The address of a server as it may be written: without a user, a password or a query."""
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return "The base URL"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def said(text: object, key: str = "", base_url: str | None = None) -> str:
    """What a server or the client says, short and on one line, without the key and the address's password."""
    words = str(text)
    password = urlsplit(base_url or "").password or ""
    for secret in (key, password, unquote(password)):
        if len(secret) >= SHORTEST_KEY:
            words = words.replace(secret, "***")
    words = without_surrogates(words[:MAX_DETAIL])
    # Control characters would reach a terminal.
    return "".join(char if char.isprintable() else " " for char in words)


def token_count(value: object) -> int:
    """A number of tokens, 0 where the server gives none; ValueError for what cannot be one."""
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TOKENS:
        raise ValueError(f"{str(value)[:40]!r} is no number of tokens")
    return value
