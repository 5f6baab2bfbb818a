"""Evaluation, prediction and the judge with real vLLM on the CPU and a small untrained model.

What it answers is noise. What is shown is that every image counts, that seeds decide and batches do not, that a stopped
evaluation goes on, and that vLLM's own OpenAI-compatible server is understood.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines.server import vllm_server

from divek_verl import cli
from divek_verl.demo.model import build_model, build_processor, build_tokenizer, save
from divek_verl.engines import open_engine
from divek_verl.engines.base import Engine, Reply, Request, Sampling
from divek_verl.engines.options import EngineOptions
from divek_verl.engines.two_step import GREEDY, TwoStepSettings
from divek_verl.errors import SetupError
from divek_verl.evaluation.evaluating import Evaluation, evaluate
from divek_verl.evaluation.results import Results
from divek_verl.predict import AsyncTwoStepClassifier, Prediction
from divek_verl.prompts import multiple_choice, open_question
from divek_verl.question import QuestionRules

from .fabricated_set import CLASSES, WORDING, write_set

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

COUNTS = {"base": 8, "new": 7}
SETTINGS = TwoStepSettings(
    num_samples=5,
    rules=QuestionRules(num_options=3),
    open_sampling=Sampling(max_new_tokens=8, seed=0),
    choice_sampling=Sampling(0.0, 1.0, -1, 1.0, 8, 0),
)
FILES = ("questions.jsonl", "results.json", "results.html")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set with one broken picture, and a model that can read its questions."""
    folder = tmp_path_factory.mktemp("real")
    write_set(folder / "data", COUNTS)
    broken = folder / "data" / "images" / "base-3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    texts = [open_question(WORDING, CLASSES["all"]), multiple_choice(WORDING, "A. Chad"), "user assistant"]
    tokenizer = build_tokenizer(texts, CLASSES["all"])
    save(build_model(tokenizer, seed=0), build_processor(tokenizer), folder / "model")
    return folder


def data_of(home: Path) -> tuple[Path, ...]:
    return tuple(home / "data" / f"val_{side}.parquet" for side in COUNTS)


class Interrupted:
    """The engine, until it has been asked so often."""

    def __init__(self, engine: Engine, requests: int) -> None:
        self.model = engine.model
        self._engine = engine
        self._left = requests

    async def generate(self, request: Request, sampling: Sampling) -> Reply:
        self._left -= 1
        if self._left < 0:
            raise SetupError("interrupted")
        return await self._engine.generate(request, sampling)

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def done(home: Path) -> dict[str, Any]:
    """Three evaluations and a prediction with one engine: all at once, one by one, and interrupted."""
    single = replace(GREEDY, max_new_tokens=8)
    evaluation = Evaluation(str(home / "model"), data_of(home), SETTINGS, single, resamples=100)
    found: dict[str, Any] = {}

    async def run() -> None:
        async with open_engine(EngineOptions(str(home / "model"))) as engine:

            @asynccontextmanager
            async def whole() -> AsyncIterator[Engine]:
                yield engine

            @asynccontextmanager
            async def interrupted() -> AsyncIterator[Engine]:
                yield Interrupted(engine, 11)

            found["results"], _ = await evaluate(evaluation, whole, home / "at_once")
            await evaluate(replace(evaluation, in_flight=1), whole, home / "one_by_one")
            with pytest.raises(SetupError, match="interrupted"):
                await evaluate(replace(evaluation, in_flight=2), interrupted, home / "resumed")
            _, found["counts"] = await evaluate(evaluation, whole, home / "resumed")
            classifier = AsyncTwoStepClassifier(engine, CLASSES["base"], wording=WORDING, settings=SETTINGS)
            picture = home / "data" / "images" / "base-0.png"
            found["predictions"] = await classifier.classify_all([picture, picture.read_bytes(), home / "none.png"])

    asyncio.run(run())
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_every_image_counts_and_the_broken_one_is_named(done: dict[str, Any], home: Path) -> None:
    results: Results = done["results"]
    assert [group.images for group in results.groups] == [8, 7]
    assert [(each.image_id, each.reason) for each in results.failures] == [("base-003", "unreadable_image")]
    assert results.groups[0].failed == pytest.approx(1 / 8)
    assert all(group.output_tokens_per_image > 0 for group in results.groups)
    lines = [json.loads(line) for line in (home / "at_once" / "questions.jsonl").read_text().splitlines()]
    assert all(line["greedy_failure"] is None for line in lines)


def test_all_at_once_and_one_by_one_give_the_same_bytes(done: dict[str, Any], home: Path) -> None:
    assert contents(home / "at_once") == contents(home / "one_by_one")


def test_interrupted_and_resumed_gives_the_same_bytes(done: dict[str, Any], home: Path) -> None:
    assert 0 < done["counts"].kept < 15
    assert contents(home / "resumed") == contents(home / "at_once")


def test_a_persons_picture_is_answered_in_two_steps(done: dict[str, Any]) -> None:
    first, same, missing = done["predictions"]
    assert isinstance(first, Prediction)
    assert sum(first.votes.values()) + sum(first.unknown.values()) + first.unanswered == 5
    assert 2 <= len(first.options) <= 3 and first.completion is not None
    assert replace(same, source=first.source) == first
    assert missing.failure == "unreadable_image"


# --------------------------------------------------------------------- vLLM's own server


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    """The address of vLLM's OpenAI-compatible server, with the model as ``policy`` and as ``judge``."""
    with vllm_server(home / "model", "policy", "judge") as address:
        yield address


def test_a_served_policy_is_evaluated_and_a_served_judge_is_asked(server: str, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["eval", "--model", "policy", "--base-url", server, "--data", str(data_of(home)[1]), "--out", str(out)]
    command += ["--samples", "5", "--options", "3", "--max-new-tokens", "8", "--resamples", "50"]
    judged = ["--judge", "openai", "--judge-model", "judge", "--judge-max-tokens", "12"]
    assert cli.run([*command, *judged, "--judge-cache", str(tmp_path / "verdicts.jsonl")]) == 0
    results = json.loads((out / "results.json").read_text())
    (group,) = results["groups"]
    assert group["images"] == 7 and group["failed"] == 0.0 and results["failures"] == []
    assert group["input_tokens_per_image"] > 0
    judge = results["judge"]
    # An untrained judge says nothing that is a verdict: unjudged by name, and never right or wrong.
    assert judge["pairs"] == judge["same"] + judge["different"] + sum(judge["unjudged"].values())
    assert set(judge["unjudged"]) <= {"no_verdict", "overlong_name"}


def test_the_servers_judge_is_understood(server: str) -> None:
    """This pair is asked, whichever pairs the list left open above."""
    from divek_verl.evaluation.judge import JudgeSettings, OpenAIJudge, Pair

    async def ask() -> Any:
        settings = JudgeSettings("judge", server, max_reply_tokens=12, timeout=300.0)
        async with OpenAIJudge(settings) as judge:
            return await judge.same(Pair("Chad", "Tchad"))

    verdict = asyncio.run(ask())
    assert (verdict.same, verdict.reason) == (None, "no_verdict")
    assert verdict.input_tokens > 20 and verdict.output_tokens > 0
