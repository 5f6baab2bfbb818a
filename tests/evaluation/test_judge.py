"""The judge: strict, cached, bounded, and never silently right or wrong. A scripted server shows every fault."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines.server import Answer, AtWork, Drip, Script, completion
from engines.server import serving as serving_script
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.evaluation.judge import JudgeSettings, OpenAIJudge, Pair, Verdict, VerdictCache, parse_verdict, prompt

GULL = Pair("Common Gull", "Mew Gull")
SAME, DIFFERENT = (200, completion(['{"same": true}']), 0.0), (200, completion(['{"same": false}']), 0.0)


@contextmanager
def serving(script: Script | AtWork) -> Iterator[JudgeSettings]:
    with serving_script(script) as address:
        yield JudgeSettings("judge", base_url=address, max_retries=2, timeout=5.0)


def judged(settings: JudgeSettings, *pairs: Pair) -> tuple[dict[Pair, Verdict], OpenAIJudge]:
    async def run() -> tuple[dict[Pair, Verdict], OpenAIJudge]:
        async with OpenAIJudge(settings) as judge:
            return await judge.judge(pairs or (GULL,)), judge

    return asyncio.run(run())


def verdict_of(*answers: Answer, **changes: Any) -> tuple[Verdict, OpenAIJudge, list[dict[str, Any]]]:
    """The verdict on ``GULL``, the judge and its requests; the server gives ``answers`` in turn."""
    script = Script(*answers)
    with serving(script) as settings:
        verdicts, judge = judged(replace(settings, **changes))
    return verdicts[GULL], judge, script.requests


@pytest.mark.parametrize("same", [True, False])
def test_a_verdict_is_what_the_model_says_with_its_tokens(same: bool) -> None:
    verdict, _, requests = verdict_of(SAME if same else DIFFERENT)
    assert verdict == Verdict(same, None, 11, 3)
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
    assert parse_verdict(' {"same" : true}\n') is True


def test_a_reply_that_is_no_verdict_is_unjudged_and_its_tokens_count() -> None:
    verdict, _, _ = verdict_of((200, completion(["they are both gulls"]), 0.0))
    assert (verdict.same, verdict.reason, verdict.input_tokens) == (None, "no_verdict", 11)
    assert str(verdict) == "unjudged: no_verdict"


@given(st.text(max_size=60))
def test_a_name_stays_inside_its_quotes(name: str) -> None:
    line = next(line for line in prompt(Pair("Chad", name)).split("\n") if line.startswith("answer: "))
    assert json.loads(line.removeprefix("answer: ")) == name


# --------------------------------------------------------------------- faults of a server


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    verdict, judge, requests = verdict_of((status, {"error": {"message": "busy"}}, 0.0), SAME)
    assert (verdict.same, len(requests), judge.counted.retries) == (True, 2, 1)


@pytest.mark.parametrize(("status", "reason"), [(408, "timeout"), (429, "rate_limited"), (500, "server_error")])
def test_a_server_that_stays_busy_is_given_up_by_name(status: int, reason: str) -> None:
    verdict, judge, requests = verdict_of((status, {}, 0.0))
    assert (verdict.same, verdict.reason) == (None, reason)
    assert (len(requests), judge.counted.retries) == (3, 2)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_repeated(status: int) -> None:
    verdict, judge, requests = verdict_of((status, {"error": "no"}, 0.0))
    assert (verdict.reason, len(requests), judge.counted.retries) == ("refused_request", 1, 0)
    assert str(status) in (judge.counted.error or "")


@pytest.mark.parametrize("answer", [(200, {}, 0.6), (200, Drip(), 0.0)])
def test_a_server_that_does_not_answer_in_time(answer: Answer) -> None:
    verdict, judge, _ = verdict_of(answer, timeout=0.2, max_retries=1)
    assert (verdict.same, verdict.reason, judge.counted.retries) == (None, "timeout", 1)


def test_a_server_that_is_not_there() -> None:
    with serving(Script(SAME)) as settings:
        pass
    verdicts, _ = judged(replace(settings, max_retries=0))
    assert verdicts[GULL].reason == "connection_failed"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "{",
        [],
        None,
        '"text"',
        {},
        {"choices": []},
        {"choices": None},
        {"choices": "no"},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": '{"same": maybe}'}}], "usage": "none"},
        {"choices": [{"message": {"content": [{"type": "text", "text": '{"same": true}'}]}}]},
        completion([None]),  # type: ignore[list-item]
        b"\xff\xfe\x00",
        b'{"choices":' * 100_000,
        *[
            {**completion(['{"same": true}']), "usage": {"prompt_tokens": count}}
            for count in ("11", 1e308, 10**400, -1)
        ],
    ],
)
def test_a_malformed_response_is_unjudged(content: Any) -> None:
    verdict, _, _ = verdict_of((200, content, 0.0), max_retries=0)
    assert verdict.same is None
    assert verdict.reason in ("malformed_reply", "no_verdict")


def test_a_response_without_usage_is_a_verdict_of_no_tokens() -> None:
    body = {"choices": [{"message": {"content": '{"same": true}'}}]}
    assert verdict_of((200, body, 0.0))[0] == Verdict(True)


def test_an_overlong_name_is_not_sent() -> None:
    script, pair = Script(SAME), Pair("Chad", "x" * 201)
    with serving(script) as settings:
        verdicts, _ = judged(settings, pair)
    assert (verdicts[pair].reason, script.requests) == ("overlong_name", [])


# --------------------------------------------------------------------- cache, concurrency, cost


def test_as_many_requests_at_one_time_as_allowed_and_no_more() -> None:
    server = AtWork(DIFFERENT)
    with serving(server) as settings:
        judged(replace(settings, max_concurrency=3), *(Pair("Chad", str(number)) for number in range(12)))
    assert (server.count, server.most) == (12, 3)


def test_a_pair_is_asked_once_and_its_verdict_is_kept_on_disk(tmp_path: Path) -> None:
    script = Script(SAME)
    with serving(script) as settings:
        settings = replace(settings, cache=tmp_path / "verdicts.jsonl")
        first, _ = judged(settings, GULL, GULL)
        again, judge = judged(settings)
    assert first == again == {GULL: Verdict(True, None, 11, 3)}
    assert len(script.requests) == 1
    assert (judge.counted.from_cache, judge.counted.asked) == (1, 0)


def test_a_failure_is_not_cached(tmp_path: Path) -> None:
    with serving(Script((200, completion(["maybe"]), 0.0), SAME)) as settings:
        settings = replace(settings, cache=tmp_path / "verdicts.jsonl")
        assert judged(settings)[0][GULL].same is None
        assert judged(settings)[0][GULL].same is True


def test_a_key_that_the_server_echoes_is_not_kept() -> None:
    _, judge, _ = verdict_of((400, {"error": {"message": "not sk-secret-1"}}, 0.0), api_key="sk-secret-1")
    assert "secret" not in (judge.counted.error or "secret")
    assert "secret" not in repr(judge.settings)


def test_another_server_has_its_own_verdicts(tmp_path: Path) -> None:
    script = Script(SAME, DIFFERENT)
    with serving(script) as settings:
        settings = replace(settings, cache=tmp_path / "verdicts.jsonl")
        other = replace(
            settings, base_url=(settings.base_url or "").replace("http://", "http://me:password@") + "/other"
        )
        assert judged(settings)[0][GULL].same is True
        assert judged(other)[0][GULL].same is False
        assert judged(other)[1].counted.from_cache == 1
    assert "password" not in (tmp_path / "verdicts.jsonl").read_text()
    assert len(script.requests) == 2


def test_another_model_and_another_wording_have_their_own_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "verdicts.jsonl"
    VerdictCache(path, "large").put(GULL, Verdict(True))
    assert VerdictCache(path, "large").get(GULL) == Verdict(True)
    assert VerdictCache(path, "small").get(GULL) is None
    assert VerdictCache(path, "large", "http://elsewhere/v1").get(GULL) is None
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
