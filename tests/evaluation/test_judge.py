"""The judge: strict, cached, bounded, and never silently right or wrong. A scripted server shows every fault."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.evaluation.judge import JudgeSettings, OpenAIJudge, Pair, Verdict, VerdictCache, parse_verdict, prompt

GULL = Pair("Common Gull", "Mew Gull")
Handler = Callable[[BaseHTTPRequestHandler, int], None]


@contextmanager
def serving(handle: Handler) -> Iterator[tuple[JudgeSettings, list[dict[str, Any]]]]:
    """A server at which every request is answered by ``handle(handler, number)``; yields settings and requests."""
    requests: list[dict[str, Any]] = []

    class Scripted(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body)
            handle(self, len(requests))

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield JudgeSettings("judge", base_url=address, max_retries=2, timeout=5.0), requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def completion(text: Any, tokens: tuple[int, int] = (30, 5)) -> bytes:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}
    return json.dumps({**body, "usage": usage}).encode()


def reply_with(text: Any) -> Handler:
    return lambda handler, number: send(handler, 200, completion(text))


def judged(settings: JudgeSettings, *pairs: Pair) -> tuple[dict[Pair, Verdict], OpenAIJudge]:
    async def run() -> tuple[dict[Pair, Verdict], OpenAIJudge]:
        async with OpenAIJudge(settings) as judge:
            return await judge.judge(pairs or (GULL,)), judge

    return asyncio.run(run())


def verdict_of(handle: Handler, **changes: Any) -> tuple[Verdict, OpenAIJudge, list[dict[str, Any]]]:
    with serving(handle) as (settings, requests):
        verdicts, judge = judged(replace(settings, **changes))
    return verdicts[GULL], judge, requests


@pytest.mark.parametrize("same", [True, False])
def test_a_verdict_is_what_the_model_says_with_its_tokens(same: bool) -> None:
    verdict, _, requests = verdict_of(reply_with(json.dumps({"same": same})))
    assert verdict == Verdict(same, None, 30, 5)
    assert requests[0]["temperature"] == 0.0
    assert '"Common Gull"' in requests[0]["messages"][0]["content"]
    assert '"Mew Gull"' in requests[0]["messages"][0]["content"]


@pytest.mark.parametrize(
    "reply",
    [
        "yes",
        "",
        "true",
        '{"same": "true"}',
        '{"same": 1}',
        '{"same": null}',
        '{"same": true, "why": "both are gulls"}',
        '{"same": true, "same": false}',
        '[{"same": true}]',
        '[["same", true]]',
        'The answer is {"same": true}',
        '```json\n{"same": true}\n```',
        "[" * 100_000,
    ],
)
def test_anything_else_is_no_verdict(reply: str) -> None:
    assert parse_verdict(reply) is None


@given(st.text())
def test_no_text_makes_the_parser_fail(text: str) -> None:
    assert parse_verdict(text) in (None, True, False)


def test_white_space_around_the_object_is_allowed() -> None:
    assert parse_verdict(' {"same" : true}\n') is True


def test_a_reply_that_is_no_verdict_is_unjudged_and_its_tokens_count() -> None:
    verdict, judge, _ = verdict_of(reply_with("they are both gulls"))
    assert (verdict.same, verdict.reason, verdict.input_tokens) == (None, "unparsable_reply", 30)
    assert str(verdict) == "unjudged: unparsable_reply"
    assert judge.counted.unjudged == {"unparsable_reply": 1}


@given(st.text(max_size=60))
def test_a_name_stays_inside_its_quotes(name: str) -> None:
    line = next(line for line in prompt(Pair("Chad", name)).split("\n") if line.startswith("answer: "))
    assert json.loads(line.removeprefix("answer: ")) == name


# --------------------------------------------------------------------- faults of a server


def busy_once(status: int) -> Handler:
    def handle(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 1:
            send(handler, status, b'{"error": {"message": "busy"}}', Retry_After="0")
        else:
            send(handler, 200, completion('{"same": true}'))

    return handle


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    verdict, judge, requests = verdict_of(busy_once(status))
    assert (verdict.same, len(requests), judge.counted.retries) == (True, 2, 1)


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_stays_busy_is_given_up_by_name(status: int) -> None:
    verdict, judge, requests = verdict_of(lambda handler, number: send(handler, status, b"{}", Retry_After="0"))
    assert (verdict.same, verdict.reason) == (None, f"http_{status}")
    assert (len(requests), judge.counted.retries) == (3, 2)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_repeated(status: int) -> None:
    verdict, judge, requests = verdict_of(lambda handler, number: send(handler, status, b'{"error": "no"}'))
    assert (verdict.reason, len(requests), judge.counted.retries) == (f"http_{status}", 1, 0)


def test_a_server_that_does_not_answer_in_time() -> None:
    def handle(handler: BaseHTTPRequestHandler, number: int) -> None:
        time.sleep(0.6)

    verdict, judge, requests = verdict_of(handle, timeout=0.2, max_retries=1)
    assert (verdict.same, verdict.reason, judge.counted.retries) == (None, "timeout", 1)


def test_a_server_that_is_not_there() -> None:
    with serving(reply_with("")) as (settings, _):
        pass
    verdicts, _ = judged(replace(settings, max_retries=0))
    assert verdicts[GULL].reason == "no_connection"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"choices": []}',
        b'{"choices": null}',
        b'{"choices": "no"}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": "{\\"same\\": true}"}}], "usage": "none"}'.replace(b"true", b"maybe"),
        b"\xff\xfe\x00",
    ],
)
def test_a_malformed_response_is_unjudged(content: bytes) -> None:
    verdict, _, _ = verdict_of(lambda handler, number: send(handler, 200, content), max_retries=0)
    assert verdict.same is None
    assert verdict.reason in ("malformed_response", "unparsable_reply")


def test_content_that_is_no_text_is_unjudged() -> None:
    assert verdict_of(reply_with(None))[0].reason == "unparsable_reply"
    assert verdict_of(reply_with([{"type": "text", "text": '{"same": true}'}]))[0].same is None


def test_a_response_without_usage_is_a_verdict_of_no_tokens() -> None:
    body = json.dumps({"choices": [{"message": {"content": '{"same": true}'}}]}).encode()
    assert verdict_of(lambda handler, number: send(handler, 200, body))[0] == Verdict(True)


def test_an_overlong_name_is_not_sent() -> None:
    with serving(reply_with('{"same": true}')) as (settings, requests):
        pair = Pair("Chad", "x" * 201)
        verdicts, _ = judged(settings, pair)
    assert (verdicts[pair].reason, requests) == ("overlong_name", [])


# --------------------------------------------------------------------- cache, concurrency, cost


def test_no_more_requests_at_one_time_than_allowed() -> None:
    lock, at_work, most = threading.Lock(), [0], [0]

    def handle(handler: BaseHTTPRequestHandler, number: int) -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        time.sleep(0.02)
        with lock:
            at_work[0] -= 1
        send(handler, 200, completion('{"same": false}'))

    with serving(handle) as (settings, requests):
        judged(replace(settings, max_concurrency=3), *(Pair("Chad", str(number)) for number in range(12)))
    assert len(requests) == 12
    assert most[0] <= 3


def test_a_pair_is_asked_once_and_its_verdict_is_kept_on_disk(tmp_path: Path) -> None:
    cache = tmp_path / "verdicts.jsonl"
    with serving(reply_with('{"same": true}')) as (settings, requests):
        settings = replace(settings, cache=cache)
        first, _ = judged(settings, GULL, GULL)
        again, judge = judged(settings)
    assert first == again == {GULL: Verdict(True, None, 30, 5)}
    assert len(requests) == 1
    assert (judge.counted.from_cache, judge.counted.asked) == (1, 0)


def test_a_failure_is_not_cached(tmp_path: Path) -> None:
    cache = tmp_path / "verdicts.jsonl"
    replies = iter(["maybe", '{"same": true}'])
    with serving(lambda handler, number: send(handler, 200, completion(next(replies)))) as (settings, _):
        settings = replace(settings, cache=cache)
        assert judged(settings)[0][GULL].same is None
        assert judged(settings)[0][GULL].same is True


def test_another_model_and_another_wording_have_their_own_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "verdicts.jsonl"
    VerdictCache(path, "large").put(GULL, Verdict(True))
    assert VerdictCache(path, "large").get(GULL) == Verdict(True)
    assert VerdictCache(path, "small").get(GULL) is None
    assert VerdictCache(path, "large").get(Pair("Mew Gull", "Common Gull")) is None
    monkeypatch.setattr("divek_verl.evaluation.judge.PROMPT", "{truth} = {prediction}?")
    assert VerdictCache(path, "large").get(GULL) is None


def test_a_torn_cache_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    VerdictCache(path, "judge").put(GULL, Verdict(False))
    with path.open("ab") as file:
        file.write(b'{"truth": "Chad", "pred')
    other = Pair("Chad", "Tchad")
    VerdictCache(path, "judge").put(other, Verdict(True))
    cache = VerdictCache(path, "judge")
    assert (cache.get(GULL), cache.get(other), cache.torn) == (Verdict(False), Verdict(True), 1)


def test_a_cache_that_cannot_be_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be used"):
        VerdictCache(tmp_path / "file" / "verdicts.jsonl", "judge")


def test_the_cost_is_shown_where_prices_are_known() -> None:
    settings = JudgeSettings("judge", input_price=2.0, output_price=8.0)
    assert settings.cost(1_000_000, 500_000) == pytest.approx(6.0)
    assert JudgeSettings("judge", input_price=2.0).cost(1, 1) is None


@pytest.mark.parametrize("change", [{"model": ""}, {"max_concurrency": 0}, {"max_retries": -1}, {"timeout": 0.0}])
def test_settings_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="judge"):
        JudgeSettings(**{"model": "judge", **change})
