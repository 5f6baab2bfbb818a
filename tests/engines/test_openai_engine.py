"""The engine behind a server: n samples, what is sent, and every fault as a named failure (real local HTTP server)."""

import asyncio
import base64
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from divek_verl.engines import client, open_engine, openai_engine
from divek_verl.engines.base import Reply, Request, Sampling
from divek_verl.engines.options import Backend, EngineOptions
from divek_verl.errors import SetupError

from .server import AtWork, Drip, Script, completion, refusal, serving

SAMPLING = Sampling(max_new_tokens=8, repetition_penalty=1.0, seed=3)


def options(url: str, **changed: Any) -> EngineOptions:
    return EngineOptions(**{"model": "m", "backend": Backend.OPENAI, "base_url": url, "retries": 2, **changed})


def question(picture: Path | None = None, count: int = 3) -> Request:
    image = {"type": "image", "image": str(picture), "min_pixels": 3136, "max_pixels": 401408}
    parts = ([] if picture is None else [image]) + [{"type": "text", "text": "Which flag?"}]
    return Request("flags/1", [{"role": "user", "content": parts}], count)


def ask(script: Callable, request: Request, sampling: Sampling = SAMPLING, **changed: Any) -> Reply:
    async def once(url: str) -> Reply:
        async with open_engine(options(url, **changed)) as engine:
            return await engine.generate(request, sampling)

    with serving(script) as url:
        return asyncio.run(once(url))


def with_usage(**usage: Any) -> dict[str, Any]:
    return {**completion(["a", "b", "c"]), "usage": usage}


# What is no number of tokens.
COUNTS = ("11", 1e308, 10**400, -1, True, [])


def test_one_request_brings_all_samples() -> None:
    script = Script((200, completion(["a", "b", "c"], cached=7), 0))
    reply = ask(script, question())
    assert reply == Reply("flags/1", ("a", "b", "c"), prompt_tokens=11, cached_tokens=7, output_tokens=9)
    assert [request["n"] for request in script.requests] == [3]


def test_the_picture_travels_unchanged_before_the_text(tmp_path: Path) -> None:
    path = tmp_path / "flag.png"
    Image.effect_noise((112, 84), 80).convert("RGB").save(path)
    script = Script((200, completion(["a"]), 0))
    ask(script, question(path, count=1))
    picture, text = script.requests[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "Which flag?"}
    data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as sent, Image.open(path) as original:
        assert list(sent.get_flattened_data()) == list(original.get_flattened_data())


def test_a_picture_is_sent_within_its_pixel_bounds(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (2000, 1000)).save(path)
    script = Script((200, completion(["a"]), 0))
    ask(script, question(path, count=1))
    url = script.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) as sent:
        assert sent.width * sent.height <= 401408


def test_sampling_options_beyond_openais_are_sent_only_where_they_change_anything() -> None:
    script = Script((200, completion(["a"]), 0))
    ask(script, question(count=1))
    ask(script, question(count=1), Sampling(top_k=5, repetition_penalty=1.1, max_new_tokens=8))
    plain, extended = script.requests
    assert not {"top_k", "repetition_penalty", "n"} & set(plain)
    assert (extended["top_k"], extended["repetition_penalty"]) == (5, 1.1)
    assert "seed" in plain and "seed" not in extended


@pytest.mark.parametrize("first", [(200, completion(["a"]), 0), (400, refusal("n must be 1", "n"), 0)])
def test_a_server_that_gives_one_sample_a_request_is_asked_again(first: Any) -> None:
    script = Script(first, (200, completion(["b"]), 0))
    reply = ask(script, question())
    assert len(reply.texts) == 3 and reply.failure is None
    assert reply.output_tokens == 9
    seeds = [request["seed"] for request in script.requests if "n" not in request]
    assert len(set(seeds)) == len(seeds)  # else each would be the same answer


def test_a_server_that_gives_one_is_asked_for_one_from_then_on() -> None:
    script = Script((200, completion(["a"]), 0))

    async def twice(url: str) -> list[Reply]:
        async with open_engine(options(url)) as engine:
            return [await engine.generate(question(), SAMPLING) for _ in range(2)]

    with serving(script) as url:
        replies = asyncio.run(twice(url))
    assert [len(reply.texts) for reply in replies] == [3, 3]
    assert sum("n" in request for request in script.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_fault_is_asked_again(status: int) -> None:
    script = Script((status, refusal("later"), 0), (200, completion(["a", "b", "c"]), 0))
    assert ask(script, question()).texts == ("a", "b", "c")
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((429, refusal("slow down"), 0), "rate_limited"),
        ((500, refusal("broken"), 0), "server_error"),
        ((200, "<html>gateway</html>", 0), "malformed_reply"),
        ((200, {"choices": []}, 0), "malformed_reply"),
        ((200, {"choices": [{"index": 0}]}, 0), "malformed_reply"),
        ((400, refusal("This model's maximum context length is 4096 tokens."), 0), "overlong_prompt"),
        ((400, refusal("no pictures of people"), 0), "refused_request"),
        ((200, b'{"choices":' * 100_000, 0), "malformed_reply"),
        *[((200, with_usage(prompt_tokens=count), 0), "malformed_reply") for count in COUNTS],
        ((200, with_usage(completion_tokens=1e308), 0), "malformed_reply"),
    ],
)
def test_a_lasting_fault_is_a_named_failure(answer: Any, reason: str) -> None:
    reply = ask(Script(answer), question(), retries=1)
    assert (reply.texts, reply.failure) == ((), reason)
    assert reply.detail


@pytest.mark.parametrize("answer", [(200, completion(["a"]), 3), (200, Drip(), 0)])
def test_a_server_that_hangs_or_drips_is_a_timeout(answer: Any) -> None:
    reply = ask(Script(answer), question(), timeout=0.3, retries=0)
    assert reply.failure == "timeout"


def test_more_choices_than_asked_for_are_cut_and_counted() -> None:
    script = Script((200, completion(["a", "b", "c", "d", "e"], finish="length"), 0))
    reply = ask(script, question())
    assert (reply.texts, reply.truncated, reply.surplus, reply.failure) == (("a", "b", "c"), 3, 2, None)
    # Samples that are asked for one by one are cut one by one.
    script = Script((200, completion(["a"]), 0), (200, completion(["b", "c"]), 0))
    reply = ask(script, question())
    assert (reply.texts, reply.surplus) == (("a", "b", "b"), 2)


def test_lone_surrogates_are_cleaned_where_they_come_in() -> None:
    assert ask(Script((200, completion(["a\ud800b"]), 0)), question(count=1)).texts == ("a\ufffdb",)
    reply = ask(Script((400, refusal("a\udfffb"), 0)), question())
    assert "a\ufffdb" in (reply.detail or "")


def test_what_a_server_says_is_one_line_that_no_terminal_obeys() -> None:
    assert client.said("a\nb\x1b[31mc") == "a b [31mc"


def test_the_text_of_a_server_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = ask(Script((200, completion(["x" * 100_000]), 0)), question(count=1)).texts
    assert len(text) == 32 * SAMPLING.max_new_tokens
    assert len(ask(Script((400, refusal("x" * 100_000), 0)), question()).detail or "") == client.MAX_DETAIL
    monkeypatch.setattr(client, "MAX_REPLY_BYTES", 1000)
    reply = ask(Script((200, completion(["x" * 2000]), 0)), question(count=1), retries=0)
    assert reply.failure == "malformed_reply" and "JSON" in (reply.detail or "")


@pytest.mark.parametrize("answer", [(400, refusal("no key is like sk-secret-1"), 0), (200, b'{"sk-secret-1', 0)])
def test_a_key_that_a_server_echoes_is_cut_out(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")
    reply = ask(Script(answer), question(), retries=0)
    assert reply.failure in ("refused_request", "malformed_reply")
    assert "secret" not in (reply.detail or "secret")


def test_a_password_in_the_address_is_used_and_never_shown() -> None:
    with serving(Script((401, refusal("wrong password pass%40word, pass@word"), 0))) as url:
        address = url.replace("http://", "http://me:pass%40word@") + "?key=hidden"
        assert "pass" not in repr(options(address))

        async def once() -> None:
            async with open_engine(options(address)) as engine:
                await engine.generate(question(), SAMPLING)

        with pytest.raises(SetupError, match=f"{url} refuses the key") as stopped:
            asyncio.run(once())
    assert client.address(address) == url
    assert not {"pass", "word", "hidden"} & set(str(stopped.value).replace("/", " ").split())
    assert client.said("Basic pass@word pass%40word", "none", address) == "Basic *** ***"


def test_a_key_that_no_header_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u00e9")
    with pytest.raises(SetupError, match="The key for http://.* is not plain ASCII"):
        ask(Script((200, completion(["a"]), 0)), question())


@pytest.mark.parametrize("models", ["<html>", b"[" * 100_000, b"\xff", {"data": None}, []])
def test_a_list_of_models_that_cannot_be_read_means_nothing(models: Any) -> None:
    async def once(url: str) -> Reply:
        async with open_engine(options(url)) as engine:
            return await engine.generate(question(), SAMPLING)

    with serving(Script((200, completion(["a", "b", "c"]), 0)), models) as url:
        assert asyncio.run(once(url)).texts == ("a", "b", "c")


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port/v1", "localhost:8000", "ftp://host/v1", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    async def start() -> None:
        async with open_engine(options(url)):
            pass

    with pytest.raises(SetupError, match="is no address of a server"):
        asyncio.run(start())


def test_what_came_before_a_fault_is_kept() -> None:
    script = Script((200, completion(["a"]), 0), (200, completion(["b"]), 0), (500, refusal("broken"), 0))
    reply = ask(script, question(), retries=0)
    assert sorted(reply.texts) == ["a", "b"]
    assert reply.failure == "server_error"


def test_a_completion_without_content_is_the_empty_text() -> None:
    cut = completion([""], finish="length")
    cut["choices"][0]["message"]["content"] = None
    reply = ask(Script((200, cut, 0)), question(count=1))
    assert (reply.texts, reply.truncated, reply.failure) == (("",), 1, None)


def test_an_unreadable_picture_is_a_failure_and_no_request(tmp_path: Path) -> None:
    script = Script((200, completion(["a"]), 0))
    reply = ask(script, question(tmp_path / "missing.png"))
    assert reply.failure == "unreadable_image" and not script.requests


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((401, refusal("bad key"), 0), "refuses the key in $OPENAI_API_KEY"),
        ((404, refusal("no such model"), 0), "knows no model 'm'"),
        ((400, refusal("Unrecognized request argument: top_k"), 0), "--top-k -1 --repetition-penalty 1"),
    ],
)
def test_what_every_request_would_suffer_from_stops_with_a_sentence(answer: Any, sentence: str) -> None:
    with pytest.raises(SetupError) as stopped:
        ask(Script(answer), question())
    assert sentence in str(stopped.value)


def test_no_server_stops_with_a_sentence() -> None:
    with serving(Script((200, completion(["a"]), 0))) as url:
        pass

    async def start() -> None:
        async with open_engine(options(url, retries=0)):
            pass

    with pytest.raises(SetupError, match="Nothing answers at"):
        asyncio.run(start())


def test_the_start_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_engine, "START_TIMEOUT_S", 0.3)

    async def start(url: str) -> None:
        async with open_engine(options(url, timeout=60.0)):
            pass

    started = time.monotonic()
    with (
        serving(Script((200, {}, 0)), Drip()) as url,
        pytest.raises(SetupError, match="it does not answer in time"),
    ):
        asyncio.run(start(url))
    assert time.monotonic() - started < 20  # the body takes 50 s


def test_no_more_images_are_in_flight_than_allowed() -> None:
    async def many(url: str) -> None:
        async with open_engine(options(url, max_images_in_flight=2)) as engine:
            await asyncio.gather(*(engine.generate(question(count=1), SAMPLING) for _ in range(8)))

    server = AtWork((200, completion(["a"]), 0))
    with serving(server) as url:
        asyncio.run(many(url))
    assert server.most == 2
