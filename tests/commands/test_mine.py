"""``divek mine``: votes are counted as in training, a run goes on where it stopped, and nothing fails in silence."""

import asyncio
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines.conftest import NAMES, damaged_avif
from engines.server import Answer, completion, refusal, serving

from divek_verl import cli
from divek_verl.commands.mine import mine, votes_of
from divek_verl.engines import open_engine
from divek_verl.engines.base import Reply
from divek_verl.engines.options import Backend, EngineOptions, SamplingOptions
from divek_verl.engines.rows import Key, PreparedRow, PreparedRows
from divek_verl.labels import ClassNames
from divek_verl.votes import Votes, count_votes
from divek_verl.votes_file import Origin, VotesLog, read_votes_file

CLASSES = ClassNames(NAMES[:3])
ANSWERS = [f"<think>stripes</think><answer>{name}</answer>" for name in ("Chad", "chad.", "Peru", "Romania")]


class Counting:
    """Answers every request with ``ANSWERS``; ``fault`` may put another answer in the place of the n-th."""

    def __init__(self, fault: Callable[[int], Answer | None] = lambda number: None) -> None:
        self.fault = fault
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> Answer:
        with self._lock:
            self.count += 1
            number = self.count
        return self.fault(number) or (200, completion(ANSWERS), 0)


def divek_mine(url: str, data: Path, out: Path, *more: str) -> int:
    arguments = ["--data", str(data / "train.parquet"), "--out", str(out), "--model", "m", "--backend", "openai"]
    return cli.run(["mine", *arguments, "--base-url", url, "--samples", "4", "--retries", "0", *more])


def test_the_same_completions_give_the_same_counts_as_in_training() -> None:
    texts = (*ANSWERS, "no answer", "<answer></answer>")
    mined = votes_of(("divek/flags/base", "1"), Reply("k", texts, truncated=1), 6, CLASSES)
    assert mined.votes == count_votes(texts, CLASSES)
    assert mined.votes == Votes({"Chad": 2, "Romania": 1}, {"Peru": 1}, unanswered=2)
    assert (mined.truncated, mined.failed) == (1, 0)


def test_samples_that_did_not_come_are_unanswered() -> None:
    mined = votes_of(("divek/flags/base", "1"), Reply("k", tuple(ANSWERS[:2]), failure="timeout"), 5, CLASSES)
    assert (mined.votes.total, mined.votes.unanswered, mined.failed) == (5, 3, 3)


def test_all_rows_are_mined_in_their_order_and_the_file_says_how(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "votes.jsonl"
    (tmp_path / "votes.jsonl.failures.jsonl").write_text("of an earlier run\n")
    with serving(Counting()) as url:
        assert divek_mine(url, data, out, "--temperature", "0.7") == 0
    assert not (tmp_path / "votes.jsonl.failures.jsonl").exists()
    found = read_votes_file(out)
    assert [votes.image_id for votes in found.votes] == [f"train-{index}" for index in range(6)]
    assert all(votes.votes == count_votes(ANSWERS, CLASSES) for votes in found.votes)
    assert found.complete
    assert found.origin.model == "m" and set(found.origin.class_lists) == {"divek/flags/base"}
    assert {name: found.origin.sampling[name] for name in ("num_samples", "temperature", "max_pixels")} == {
        "num_samples": 4,
        "temperature": 0.7,
        "max_pixels": 401408,
    }


def test_a_finished_run_asks_nothing_again_and_refuses_other_settings(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Counting()
    with serving(server) as url:
        for _ in range(2):
            assert divek_mine(url, data, tmp_path / "votes.jsonl") == 0
        assert "6 were mined before" in capsys.readouterr().out
        assert divek_mine(url, data, tmp_path / "votes.jsonl", "--top-p", "0.5") == 2
    assert server.count == 6
    assert "holds votes of top_p 0.95 and not 0.5: give another --out" in capsys.readouterr().err


def test_a_longer_run_goes_on_with_a_shorter_one(data: Path, tmp_path: Path) -> None:
    server = Counting()
    with serving(server) as url:
        for limit in ("2", "5"):
            assert divek_mine(url, data, tmp_path / "votes.jsonl", "--limit", limit) == 0
    assert server.count == 5
    assert len(read_votes_file(tmp_path / "votes.jsonl").votes) == 5


def test_a_failed_image_is_named_counted_and_tried_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "votes.jsonl"
    server = Counting(lambda number: (500, refusal("broken"), 0) if number in (2, 4) else None)
    (data / "images" / "train-5.png").write_bytes(b"no picture")
    with serving(server) as url:
        assert divek_mine(url, data, out) == 0
        said = capsys.readouterr().out
        assert "no votes for 2 images: server_error" in said
        assert "no votes for 1 images: unreadable_image (train-5)" in said
        lines = [json.loads(line) for line in (tmp_path / "votes.jsonl.failures.jsonl").read_text().splitlines()]
        assert sorted(line["reason"] for line in lines) == ["server_error", "server_error", "unreadable_image"]
        assert len(read_votes_file(out).votes) == 3
        assert divek_mine(url, data, out) == 0
    assert len(read_votes_file(out).votes) == 5
    assert "mined 2 images" in capsys.readouterr().out


def test_more_samples_than_asked_for_are_dropped_and_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "votes.jsonl"
    with serving(Counting(lambda number: (200, completion(ANSWERS * 8 + ANSWERS[:2]), 0))) as url:
        assert divek_mine(url, data, out) == 0
    said = capsys.readouterr().out
    assert "24 samples of 6 images" in said and ", 0.0 % failed" in said
    assert "dropped 180 samples: more_than_asked" in said
    assert {(votes.votes.total, votes.failed) for votes in read_votes_file(out).votes} == {(4, 0)}


def test_mostly_unknown_names_end_with_a_warning(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narnia = ["<think>x</think><answer>Narnia</answer>"] * 3
    with serving(Counting(lambda number: (200, completion([*narnia, ANSWERS[0]]), 0))) as url:
        assert divek_mine(url, data, tmp_path / "votes.jsonl") == 0
    assert "warning: more than half of the samples name no class of the list" in capsys.readouterr().out


def test_pipes_and_whatever_a_reader_raises_are_unreadable(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(2):
        (data / "images" / f"train-{index}.png").unlink()
    os.mkfifo(data / "images" / "train-0.png")
    (data / "images" / "train-1.png").write_bytes(damaged_avif())
    with serving(Counting()) as url:
        assert divek_mine(url, data, tmp_path / "votes.jsonl") == 0
    assert "no votes for 2 images: unreadable_image" in capsys.readouterr().out


def test_a_run_in_which_all_fails_says_so(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Counting(lambda number: (500, refusal("broken"), 0))) as url:
        assert divek_mine(url, data, tmp_path / "votes.jsonl") == 2
    assert "No image could be mined (server_error)" in capsys.readouterr().err


def test_what_is_mined_before_a_fatal_error_stays(data: Path, tmp_path: Path) -> None:
    server = Counting(lambda number: (401, refusal("key expired"), 0) if number > 3 else None)
    out = tmp_path / "votes.jsonl"
    with serving(server) as url:
        assert divek_mine(url, data, out, "--max-images-in-flight", "1") == 2
    assert len(read_votes_file(out).votes) == 3


def test_no_more_images_are_drawn_than_are_in_flight(
    rows: PreparedRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = PreparedRows.__getitem__
    drawn: list[Key] = []
    in_flight: list[int] = []

    def counted(self: PreparedRows, key: Key) -> PreparedRow:
        drawn.append(key)
        in_flight.append(len(drawn) - len(log.done))
        return draw(self, key)

    async def run(url: str) -> None:
        async with open_engine(EngineOptions("m", Backend.OPENAI, base_url=url)) as engine:
            summary = await mine(rows, engine, log, SamplingOptions(samples=4), in_flight=2)
        assert (summary.mined, summary.before, summary.failures) == (6, 0, [])

    monkeypatch.setattr(PreparedRows, "__getitem__", counted)
    log = VotesLog(tmp_path / "votes.jsonl", Origin("m"))
    with serving(Counting()) as url:
        asyncio.run(run(url))
    assert drawn == rows.keys
    assert max(in_flight) == 2
