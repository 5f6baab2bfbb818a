"""Stage 1 alone: requests in groups, late answers, the policy version of votes, and votes that are used again."""

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from verl.workers.rollout.replica import TokenOutput

from divek_verl.compat import GROUP_FIELD
from divek_verl.labels import ClassNames
from divek_verl.records import QuestionRecord
from divek_verl.trainer.mining import split_group
from divek_verl.trainer.questions import MiningError
from divek_verl.votes import MinedVotes, Votes

from .worker_fakes import CLASSES, TRAIN, VALIDATE, answer, build, folder, prompt, queue, run

RECORD = QuestionRecord(4, "train", "divek/flags/base", "chad-1", "", "Chad")


def mine(worker: Any, prompt: dict) -> MinedVotes:
    mining = worker.miner.mine(prompt["raw_prompt"], ClassNames(CLASSES), prompt["uid"], RECORD)
    mined: MinedVotes = asyncio.run(mining)
    assert (mined.key, mined.step) == (RECORD.key, 4)
    return mined


def count(worker: Any, outputs: list[Any]) -> MinedVotes:
    mined: MinedVotes = worker.miner._count(outputs, SimpleNamespace(token_ids=[5] * 30), ClassNames(CLASSES), RECORD)
    return mined


# ---------------------------------------------------------------- one request for all answers of an image


def test_a_group_is_one_request_and_its_answers_are_counted_one_by_one(build: Any, prompt: dict) -> None:
    worker = build(group_requests=True, answers=[answer("Chad"), answer("Romania"), answer("Chad"), "no answer"])
    mined = mine(worker, prompt)
    assert [request["params"]["n"] for request in worker.llm_client.votes] == [4]
    assert mined.votes == Votes({"Chad": 2, "Romania": 1}, {}, 1)
    assert mined.prompt_tokens == 4 * mined.open_tokens


def test_validation_may_have_a_k_of_its_own(build: Any, prompt: dict) -> None:
    worker = build(val_num_samples=2)
    for split, count in (("train", 4), ("val", 2)):
        record = dataclasses.replace(RECORD, split=split)
        mined = asyncio.run(worker.miner.mine(prompt["raw_prompt"], ClassNames(CLASSES), "u", record))
        worker.miner._loop = None
        assert mined.votes.total == count


def test_the_same_answers_give_the_same_votes_either_way(build: Any, prompt: dict) -> None:
    found = []
    for grouped in (True, False):
        worker = build(group_requests=grouped, num_samples=6)
        worker.llm_client.answers = [*map(answer, ("Chad", "Yak", "Moldova")), "none", answer("Chad"), answer("chad")]
        found.append(mine(worker, prompt))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "override", ["trainer.v1.trainer_mode=colocate_async", "actor_rollout_ref.rollout.name=sglang"]
)
def test_single_requests_where_verl_cannot_serve_a_group(build: Any, prompt: dict, override: str) -> None:
    worker = build(override, group_requests=True)
    mine(worker, prompt)
    assert len(worker.llm_client.votes) == 4
    assert not any("n" in request["params"] for request in worker.llm_client.votes)


def test_a_deterministic_group_has_one_seed_that_the_engine_spreads(build: Any, prompt: dict) -> None:
    seeds = ("actor_rollout_ref.rollout.full_determinism=true", "actor_rollout_ref.rollout.seed=100")
    worker = build(*seeds, group_requests=True)
    mine(worker, prompt)
    assert [(request["params"]["seed"], request["request_id"]) for request in worker.llm_client.votes] == [
        (100, "u1-vote-0")
    ]


def test_an_aborted_completion_of_a_group_is_a_failed_sample(build: Any) -> None:
    output = TokenOutput(
        token_ids=[1], extra_fields={GROUP_FIELD: [([1], "completed"), ([], "aborted")], "num_cached_tokens": 16}
    )
    first, second = split_group(output)
    assert (first.token_ids, second.token_ids) == ([1], [])
    assert [each.extra_fields["num_cached_tokens"] for each in (first, second)] == [16, 16]
    mined = count(build(), [first, second])
    assert (mined.failed, mined.votes.unanswered, mined.votes.total) == (1, 2, 2)


def test_an_engine_that_answers_a_group_with_one_completion_is_told(build: Any) -> None:
    with pytest.raises(RuntimeError, match="divek.group_requests=false"):
        split_group(TokenOutput(token_ids=[1], extra_fields={}))


def test_validation_asks_for_one_greedy_answer_more(build: Any, prompt: dict) -> None:
    worker = build(group_requests=True)
    visit = run(worker, dict(prompt), VALIDATE)
    (asked,) = worker.llm_client.greedy
    assert asked["params"] == {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}
    assert asked["request_id"] == worker.llm_client.votes[0]["request_id"], "the same replica has its picture"
    assert (visit.greedy, visit.one_step_greedy, visit.one_step, visit.samples) == ("Moldova", 0.0, 1.0, 4)
    worker.llm_client.greedy_answer = answer("chad")
    assert run(worker, dict(prompt), VALIDATE).one_step_greedy == 1.0
    graded = worker.reward_loop_worker_handles[0].graded
    assert [each["extra_info"]["measures"]["one_step_greedy"] for each in graded] == [0.0, 1.0]
    worker.llm_client.greedy_answer = RuntimeError("gone")
    visit = run(worker, dict(prompt), VALIDATE)
    assert (visit.greedy, visit.greedy_failure, visit.one_step_greedy, visit.failure) == (
        None,
        "sampling_failed",
        0.0,
        None,
    )


def test_training_asks_for_no_greedy_answer(build: Any, prompt: dict) -> None:
    worker = build()
    run(worker, prompt)
    assert worker.llm_client.greedy == []


# ---------------------------------------------------------------- what comes too late


def test_the_answers_that_came_in_time_are_votes_and_the_others_failed_samples(build: Any, prompt: dict) -> None:
    worker = build(mining_timeout=1.0, answers=[answer("Chad"), 60.0, answer("Romania"), answer("Chad")])
    mined = mine(worker, prompt)
    assert (dict(mined.votes.counts), mined.votes.unanswered) == ({"Chad": 2, "Romania": 1}, 1)
    assert mined.failed == 1


def test_an_image_of_which_nothing_came_in_time_has_a_reason(build: Any, prompt: dict) -> None:
    worker = build(mining_timeout=0.05, answers=[60.0])
    with pytest.raises(MiningError) as error:
        mine(worker, prompt)
    assert error.value.reason == "mining_timeout"


def test_no_answer_at_all_is_no_question(build: Any) -> None:
    with pytest.raises(MiningError) as error:
        count(build(), [RuntimeError("gone"), RuntimeError("too")])
    assert (error.value.reason, error.value.detail) == ("sampling_failed", "RuntimeError: gone")


# ---------------------------------------------------------------- which policy


def test_votes_are_as_old_as_the_oldest_weights_that_answered(build: Any) -> None:
    outputs = [
        TokenOutput(token_ids=[1], extra_fields={"global_steps": 9, "min_global_steps": 9}),
        TokenOutput(token_ids=[1], extra_fields={"global_steps": 9, "min_global_steps": 8}),
        TokenOutput(token_ids=[1], extra_fields={"global_steps": 9}),
    ]
    assert count(build(), outputs).policy_version == 8


# ---------------------------------------------------------------- votes that are used again (see vote_store.py)


def run_at(worker: Any, prompt: dict, *steps: int) -> None:
    for step in steps:
        run(worker, dict(prompt), {**TRAIN, "step": step})


def test_votes_are_used_again_until_they_are_too_old(build: Any, prompt: dict) -> None:
    worker = build(answers=[answer("Romania"), answer("Chad")], max_vote_age=2)
    # The stand-in's engine says that version 9 answers, which is that of step 10.
    run_at(worker, prompt, 10, 11, 12, 13)
    visits = [(visit.votes_from, visit.vote_age) for visit in worker.recorder.written]
    assert visits == [("policy", 0), ("store", 1), ("store", 2), ("policy", 0)]
    assert len(worker.llm_client.votes) == 2 * 4
    assert len(worker.store.votes.votes()) == 1


def test_a_question_from_used_votes_that_is_too_long_is_named(build: Any, prompt: dict) -> None:
    worker = build(max_vote_age=None, answers=[answer("Romania"), answer("Chad")])
    run_at(worker, prompt, 10)
    worker.questions._max_prompt_tokens = 60
    run_at(worker, prompt, 11)
    assert worker.recorder.written[-1].failure == "overlong_question"
