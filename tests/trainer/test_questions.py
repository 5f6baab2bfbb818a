"""From a row and its votes to a question, without verl: sampling, store and token counts are plain functions."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from divek_verl.records import QuestionRecord
from divek_verl.settings import Settings
from divek_verl.trainer.questions import Prompt, QuestionMaker
from divek_verl.votes import MinedVotes, Votes

CLASSES = ("Chad", "Romania", "Andorra", "Moldova")
BASE = "divek/flags/base"
VOTES = Votes({"Romania": 3, "Chad": 2, "Moldova": 1})
OWN = f"{__name__}:Alphabetical"


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    (tmp_path / "classes.json").write_text(json.dumps({"base": list(CLASSES), "new": ["Monaco", "Indonesia"]}))
    picture, text = {"type": "image", "image": "a.png"}, {"type": "text", "text": "Which flag is this?"}
    return {
        "uid": "u1",
        "index": 7,
        "data_source": BASE,
        "raw_prompt": [{"role": "user", "content": [picture, text]}],
        "reward_model": {"style": "rule", "ground_truth": "CHAD."},
        "extra_info": {"image_id": "chad-1"},
        "image_root": str(tmp_path),
    }


class Asked:
    """A maker whose policy gives the same votes each time; it counts how often it is asked."""

    def __init__(self, votes: Votes = VOTES, store: Any = None, **divek: Any) -> None:
        self.votes, self.mined, self.kept = votes, 0, []
        self.maker = QuestionMaker(
            Settings(**divek),
            self.mine,
            count_tokens=lambda messages: len(messages[0]["content"][-1]["text"].split()),
            max_prompt_tokens=200,
            look_up=store,
            keep=self.keep,
        )

    async def mine(self, messages: Any, classes: Any, uid: str, record: QuestionRecord) -> MinedVotes:
        self.mined += 1
        return MinedVotes(*record.key, self.votes, step=record.step, open_tokens=100)

    async def keep(self, mined: MinedVotes) -> None:
        self.kept.append(mined)

    def rewrite(self, prompt: Prompt, split: str = "train", step: int = 4) -> tuple[Prompt | None, QuestionRecord]:
        record = QuestionRecord(step, split, BASE, "chad-1", "a.png", prompt["reward_model"]["ground_truth"])
        return asyncio.run(self.maker.rewrite(prompt, record)), record


def test_a_question_replaces_the_open_one_and_the_picture_stays(prompt: Prompt) -> None:
    rewritten, record = Asked(num_options=4).rewrite(prompt)
    assert rewritten is not None
    picture, text = rewritten["raw_prompt"][0]["content"]
    assert picture == prompt["raw_prompt"][0]["content"][0]
    assert all(f"{letter}. {name}" in text["text"] for letter, name in zip("ABC", record.options, strict=True))
    assert rewritten["reward_model"]["ground_truth"] == record.answer == "ABC"[record.options.index("Chad")]
    info = rewritten["extra_info"]
    assert info is not None
    assert (info["truth"], info["options"], info["num_options"], info["step"]) == ("Chad", record.options, 3, 4)
    assert info["measures"]["one_step"] == record.one_step == 2 / 6
    assert (record.truth, record.option_source, record.num_options) == ("Chad", "policy", 4)
    assert prompt["reward_model"]["ground_truth"] == "CHAD.", "verl's row stays as it was"


def test_training_reshuffles_at_each_visit_and_validation_keeps_one_order(prompt: Prompt) -> None:
    def order(split: str, step: int, **divek: Any) -> list[str]:
        return Asked(**divek).rewrite(prompt, split, step)[1].options

    assert order("train", 3) == order("train", 3)
    assert len({tuple(order("train", step)) for step in range(12)}) > 2
    assert len({tuple(order("train", step, reshuffle=False)) for step in range(12)}) == 1
    assert len({tuple(order("val", step)) for step in range(12)}) == 1
    assert len({tuple(order("val", 0, seed=seed)) for seed in range(12)}) > 2


def test_stored_votes_are_used_in_training_only(prompt: Prompt) -> None:
    async def look_up(source: str, image_id: str, version: int) -> tuple[MinedVotes, int]:
        assert (source, image_id, version) == (BASE, "chad-1", 3)
        return MinedVotes(source, image_id, VOTES, prompt_tokens=9, cached_tokens=9), 2

    asked = Asked(store=look_up, max_vote_age=2)
    _, record = asked.rewrite(prompt)
    assert (asked.mined, record.votes_from, record.vote_age, record.prompt_tokens) == (0, "store", 2, 0)
    _, record = asked.rewrite(prompt, "val")
    assert (asked.mined, record.votes_from, asked.kept) == (1, "policy", [])


def test_new_votes_are_kept_with_the_version_that_answered(prompt: Prompt) -> None:
    asked = Asked(max_vote_age=2)
    asked.rewrite(prompt, step=4)
    assert [(mined.step, mined.policy_version) for mined in asked.kept] == [(4, 3)]


class Alphabetical:
    """A user's own source: no votes are needed."""

    uses_votes = False

    def rank(self, votes: Votes, classes: Any, *, truth: str | None, num_options: int, seed: int | str) -> list[str]:
        return sorted(classes.names)[:num_options]


@pytest.mark.parametrize(
    ("votes", "divek", "split", "mined", "options"),
    [
        # A source that needs no votes samples none, unless easy images are to be left out.
        (VOTES, {"option_source": OWN, "skip_easy": False, "num_options": 3}, "train", 0, "Andorra Chad Moldova"),
        (
            VOTES,
            {"option_source": "random", "skip_easy": False, "num_options": 4},
            "train",
            0,
            " ".join(sorted(CLASSES)),
        ),
        (Votes({"Chad": 4}), {"option_source": "random"}, "train", 1, ""),
        # A mixed source tops the votes up.
        (Votes({"Romania": 4}), {"option_source": "mixed", "num_options": 4}, "train", 1, " ".join(sorted(CLASSES))),
        # Validation asks the policy's own options, whatever the source.
        (Votes({"Romania": 3, "Moldova": 1}), {"option_source": OWN, "skip_easy": False}, "val", 1, "Moldova Romania"),
    ],
)
def test_other_sources_of_options_sample_only_the_votes_that_they_need(
    prompt: Prompt, votes: Votes, divek: dict[str, Any], split: str, mined: int, options: str
) -> None:
    asked = Asked(votes, **divek)
    rewritten, record = asked.rewrite(prompt, split)
    assert (asked.mined, record.votes_from, record.samples) == (
        mined,
        "policy" if mined else "none",
        votes.total * mined,
    )
    assert sorted(record.options) == options.split()
    assert (rewritten is None, record.failure, record.skip) == (not options, None, None if options else "easy")
    assert record.option_source == (divek["option_source"] if split == "train" else "policy")
    if options and split == "train":
        assert record.options["ABCD".index(record.answer or "")] == "Chad"
