import json
from typing import Any

import pytest

from divek_verl.errors import SetupError
from divek_verl.measures import VOTE_MEASURES
from divek_verl.question import Question
from divek_verl.records import FailureReason, QuestionRecord, sentence_of, without_repeated
from divek_verl.votes import MinedVotes, Votes

# The contract of questions.jsonl: report, evaluation and benchmarks read these.
_CONTRACT = """
schema step policy_version split data_source image_id image truth votes unknown unanswered vote_age
option_source num_options options answer injected skip failure choices completions rewards
one_step consistency recall pass_at_k mining_seconds rollout_seconds cached_share
"""
FIELDS = set(_CONTRACT.split())


def record(**changes: Any) -> QuestionRecord:
    place = {"step": 3, "split": "train", "data_source": "divek/flags/base", "image_id": "chad-1"}
    return QuestionRecord(**{**place, "image": "images/chad-1.png", "truth": "Chad", **changes})


def asked(**changes: Any) -> QuestionRecord:
    question = {"votes": {"Chad": 3, "Romania": 1}, "options": ["Chad", "Romania"], "answer": "A"}
    return record(**{**question, **changes})


# ------------------------------------------------------------------------------------------ one line of questions.jsonl


def test_a_line_has_every_field_of_the_contract() -> None:
    assert set(record().to_json()) >= FIELDS


def test_a_line_is_plain_json_that_reads_back() -> None:
    line = asked(
        policy_version=7,
        unknown={"São Tomé": 1},
        choices=["A", None],
        completions=["<answer>A</answer>", "…"],
        rewards=[2.0, 0.0],
        rollout_failures={"rollout_timeout": 1},
    ).to_json()
    assert json.loads(json.dumps(line)) == line
    assert line["votes"] == {"Chad": 3, "Romania": 1}
    assert list(line["votes"]) == ["Chad", "Romania"]


@pytest.mark.parametrize(("cached", "tokens", "share"), [(150, 600, 0.25), (0, 600, 0.0), (0, 0, None)])
def test_the_cached_share_is_of_the_prompt_tokens_of_the_samples(cached: int, tokens: int, share: float | None) -> None:
    assert record(cached_tokens=cached, prompt_tokens=tokens).to_json()["cached_share"] == share


def test_the_samples_of_a_visit_are_all_completions() -> None:
    assert asked(unknown={"Yak": 2}, unanswered=4).samples == 10


@pytest.mark.parametrize(("changes", "reason"), [({}, None), ({"skip": "easy"}, "easy"), ({"failure": "x"}, "x")])
def test_the_reason_is_why_there_is_no_question(changes: dict, reason: str | None) -> None:
    assert record(**changes).reason == reason


def test_votes_and_question_are_copied() -> None:
    mined = MinedVotes("divek/flags/base", "chad-1", Votes({"Chad": 2}, {"Yak": 1}, 3), 4, 9, 1, 2, 7, 60, 30)
    found = record()
    found.set_votes(mined)
    found.set_question(Question(("Mali", "Chad"), 1, True))
    assert (found.counted, found.samples, found.no_answer) == (mined.votes, 6, 1)
    assert (found.policy_version, found.truncated, found.failed_samples) == (9, 1, 2)
    assert (found.prompt_tokens, found.cached_tokens) == (60, 30)
    assert (found.options, found.answer, found.injected) == (["Mali", "Chad"], "B", True)
    found.set_question(Question(("Mali", "Guinea"), None, False))
    assert found.answer is None


@pytest.mark.parametrize(
    ("changes", "accuracy"),
    [
        ({}, 0.0),
        ({"choices": ["A", "B", None, "A"]}, 0.5),
        ({"choices": ["A"], "rollout_failures": {"rollout_timeout": 3}}, 0.25),
        ({"choices": [None, None], "answer": None}, 0.0),
    ],
)
def test_the_accuracy_counts_failed_rollouts(changes: dict, accuracy: float) -> None:
    assert asked(**changes).accuracy == accuracy


# ------------------------------------------------------------------------------------------ lines that are read


def test_a_line_reads_back_as_the_same_record() -> None:
    written = asked(choices=["A", None], num_options="auto", option_source="policy", rollout_failures={"x": 1})
    assert QuestionRecord.from_json(json.loads(json.dumps(written.to_json()))) == written


def test_a_line_of_the_release_before_is_read() -> None:
    line = asked().to_json()
    for name in ("schema", "option_source", "num_options", "prompt_tokens", "cached_tokens"):
        del line[name]
    found = QuestionRecord.from_json({**line, "waves": 2, "cached_share": 0.5, "votes_from": "nowhere"})
    assert found == asked(votes_from="none")


def test_a_greedy_completion_that_was_not_asked_for_is_not_a_wrong_one() -> None:
    line = asked(split="val").to_json()
    assert line["one_step_greedy"] == 0.0  # asked for, as in every validation
    del line["one_step_greedy"]
    older = QuestionRecord.from_json(line)
    assert older.one_step_greedy is None and asked().one_step_greedy is None  # training asks for none
    older.set_measures(dict.fromkeys(VOTE_MEASURES, 1.0))
    assert (older.one_step_greedy, older.one_step) == (None, 1.0)
    assert QuestionRecord.from_json(older.to_json()) == older


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema": 99}, "schema 99"),
        ({"schema": "2"}, "schema '2'"),
        ({"truth": None}, "truth"),
        ({"votes": {"Chad": "many"}}, "votes.Chad"),
        ({"votes": {"Chad": -1}}, "-1"),
    ],
)
def test_another_line_is_refused_with_a_sentence(changes: dict, sentence: str) -> None:
    with pytest.raises(SetupError, match=sentence):
        QuestionRecord.from_json({**asked().to_json(), **changes})


# ------------------------------------------------------------------------------------------ reasons


def test_every_reason_has_one_sentence_and_is_plain_text() -> None:
    for reason in FailureReason:
        assert reason.sentence.endswith(".") and reason.sentence[0].isupper()
        assert json.dumps(reason) == f'"{reason}"' == f'"{reason.value}"'
        assert sentence_of(reason.value) == reason.sentence
    assert sentence_of("ValueError") == ""


# ------------------------------------------------------------------------------------------ resumed runs


def test_steps_that_a_resume_did_again_count_once() -> None:
    """Killed inside step 3, resumed from the checkpoint of step 1, killed again, resumed from that of step 3."""
    first = [asked(step=step) for step in (1, 2, 3)]
    second = [asked(step=step, attempt=1) for step in (2, 3, 4)]
    third = [asked(step=step, attempt=2) for step in (4, 5)]
    measured = [asked(step=0, split="val"), asked(step=3, split="val", attempt=1)]
    kept = without_repeated([*first, *measured, *second, *third])
    assert kept == [first[0], *measured, *second[:2], *third]
    assert without_repeated(first) == first
