"""The two stages of one image in verl's own worker and agent loop; vLLM, Ray and TransferQueue are replaced."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError

from divek_verl import prompts
from divek_verl.records import QuestionRecord
from divek_verl.reward import compute_score
from divek_verl.settings import Settings
from divek_verl.trainer import rollout
from divek_verl.trainer.mining import is_truncated
from divek_verl.trainer.rollout import TwoStageAgentLoopManager, TwoStageAgentLoopWorker

from .worker_fakes import (
    CLASSES,
    CUT,
    GROUP,
    TRAIN,
    VALIDATE,
    FakeClient,
    FakeQueue,
    FakeRecorder,
    answer,
    build,
    folder,
    prompt,
    queue,
    run,
)

# ------------------------------------------------------------------------------------------ stage 1: votes


def test_the_votes_become_the_options_and_the_group_answers_one_question(
    build: Any, prompt: dict, queue: FakeQueue, folder: Path
) -> None:
    worker = build(num_samples=7)
    votes = ["Chad", "Romania", "chad", "Yak", "Moldova", "CHAD"]
    worker.llm_client.answers = [*map(answer, votes), "no answer"]
    visit = run(worker, prompt)
    assert worker.recorder.mined == [visit]
    assert visit.votes == {"Chad": 3, "Romania": 1, "Moldova": 1}
    assert (visit.unknown, visit.unanswered) == ({"Yak": 1}, 1)
    assert visit.samples == 7
    assert sorted(visit.options) == ["Chad", "Moldova", "Romania"]
    assert visit.options["ABC".index(visit.answer)] == visit.truth == "Chad"
    assert (visit.injected, visit.skip, visit.failure) == (False, None, None)
    assert (visit.one_step, visit.consistency, visit.recall, visit.pass_at_k) == (3 / 7, 1.0, 1.0, 1.0)
    assert (visit.step, visit.split, visit.policy_version) == (4, "train", 9)
    assert (visit.image_id, visit.image) == ("chad-1", str(folder / "a.png"))
    # n rollouts of the one question, published by verl.
    assert queue.statuses == {"train/u1": ["running", "finished"]}
    assert sorted(queue.trajectories) == ["train/u1_0_0", "train/u1_1_0", "train/u1_2_0"]
    assert len({tuple(request["prompt_ids"]) for request in worker.llm_client.rollouts}) == 1
    assert worker._in_flight == {}


def test_the_rewritten_truth_reaches_the_reward(build: Any, prompt: dict) -> None:
    worker = build(
        answers=[answer("Romania"), answer("Chad")],
        choose=lambda question: answer("A" if "A. Chad" in question else "B"),
    )
    visit = run(worker, prompt)
    for graded in worker.reward_loop_worker_handles[0].graded:
        assert graded["ground_truth"] == visit.answer
        assert graded["extra_info"]["options"] == visit.options
        assert graded["extra_info"]["measures"]["one_step"] == 0.5
    assert visit.choices == [visit.answer] * GROUP
    assert visit.rewards == [2.0] * GROUP and visit.formats == [1.0] * GROUP
    assert visit.completions == [answer(visit.answer)] * GROUP


def test_mining_and_rollouts_see_one_picture_before_the_text(build: Any, prompt: dict) -> None:
    worker = build(answers=[answer("Romania")])
    run(worker, prompt)
    mined, asked = worker.llm_client.votes[0], worker.llm_client.rollouts[0]
    assert mined["image_data"][0].size == asked["image_data"][0].size
    shared = next(i for i, (a, b) in enumerate(zip(mined["prompt_ids"], asked["prompt_ids"], strict=False)) if a != b)
    assert shared > mined["prompt_ids"].index(worker.processor.image_token_id) + 10


def test_only_mining_has_sampling_parameters_of_ours(build: Any, prompt: dict) -> None:
    worker = build(
        temperature=0.7, top_p=0.9, top_k=50, repetition_penalty=1.2, max_new_tokens=12, answers=[answer("Romania")]
    )
    run(worker, prompt)
    assert worker.llm_client.votes[0]["params"] == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 50,
        "repetition_penalty": 1.2,
        "max_tokens": 12,
    }
    assert worker.llm_client.rollouts[0]["params"]["repetition_penalty"] == 1.0
    assert "max_tokens" not in worker.llm_client.rollouts[0]["params"]


def test_the_samples_of_an_image_go_to_the_replica_that_has_its_picture(build: Any, prompt: dict) -> None:
    worker = build()
    visit = run(worker, prompt, VALIDATE)
    votes = worker.llm_client.votes
    assert {request["request_id"] for request in votes} == {"u1-votes"}
    assert len({id(request["params"]) for request in votes}) == 4, "verl's server empties its dict"
    assert not any("max_tokens" in request["params"] for request in votes), "verl's own limit, unless one is given"
    assert visit.to_json()["cached_share"] == pytest.approx(30 / len(votes[0]["prompt_ids"]))


def test_a_deterministic_run_has_samples_that_differ(build: Any, prompt: dict) -> None:
    """verl gives every request without a seed the engine's own."""
    worker = build("actor_rollout_ref.rollout.full_determinism=true", "actor_rollout_ref.rollout.seed=100")
    run(worker, prompt)
    assert [request["params"]["seed"] for request in worker.llm_client.votes] == [100, 101, 102, 103]
    assert len({request["request_id"] for request in worker.llm_client.votes}) == 4


def test_cut_answers_are_counted(build: Any, prompt: dict) -> None:
    worker = build(answers=[CUT, answer("Chad"), CUT, answer("Romania")])
    visit = run(worker, prompt)
    assert (visit.truncated, visit.unanswered, visit.samples) == (2, 2, 4)


def test_an_answer_is_truncated_where_it_fills_the_limit_without_an_end() -> None:
    assert is_truncated([1, 2, 3], limit=3, end=9)
    assert not is_truncated([1, 2, 9], limit=3, end=9)
    assert not is_truncated([1, 2], limit=3, end=9)
    assert not is_truncated([], limit=3, end=9)


def test_a_failed_request_stays_in_the_denominator(build: Any, prompt: dict) -> None:
    worker = build(answers=[answer("Chad"), RuntimeError("engine is busy"), answer("Chad"), answer("Moldova")])
    visit = run(worker, prompt)
    assert (visit.one_step, visit.samples, visit.skip) == (0.5, 4, None)
    assert (visit.failed_samples, visit.unanswered) == (1, 1)


# ------------------------------------------------------------------------------------------ images without a question

CLOSED = {"train/u1": ["failure"]}


def test_an_easy_image_is_published_once_as_a_failure_and_recorded_once(
    build: Any, prompt: dict, queue: FakeQueue
) -> None:
    worker = build(answers=[answer("Chad")])
    run(worker, prompt)
    assert queue.statuses == CLOSED
    assert queue.trajectories == {} and worker.llm_client.rollouts == []
    (visit,) = worker.recorder.written
    assert worker.recorder.mined == [visit]
    assert (visit.skip, visit.reason, visit.one_step) == ("easy", "easy", 1.0)


@pytest.mark.parametrize(("revisit", "trajectory", "asked"), [(3, TRAIN, False), (1, TRAIN, True), (3, VALIDATE, True)])
def test_an_image_that_rests_costs_no_samples(
    build: Any, prompt: dict, queue: FakeQueue, revisit: int, trajectory: dict, asked: bool
) -> None:
    worker = build(revisit_easy=revisit, answers=[answer("Chad"), answer("Romania")])
    worker.recorder.resting.add("chad-1")
    record = run(worker, prompt, trajectory)
    assert (record.skip is None, bool(worker.llm_client.votes)) == (asked, asked)
    if not asked:
        assert (record.reason, record.votes_from, queue.statuses) == ("easy_lately", "none", {"train/u1": ["failure"]})


class LostRecorder(FakeRecorder):
    """The recorder's process has died."""

    @staticmethod
    def _keeps(records: list) -> Any:
        async def lost(record: object) -> None:
            raise RayActorError

        return lost


@pytest.mark.parametrize("trajectory", [TRAIN, VALIDATE])
def test_what_the_trainer_gets_does_not_depend_on_the_record(
    build: Any, prompt: dict, queue: FakeQueue, trajectory: dict
) -> None:
    worker = build(answers=[answer("Chad"), answer("Romania")])
    worker.recorder = LostRecorder()
    params = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}
    asyncio.run(worker._run_prompt(prompt, params, trajectory))
    part = "val" if trajectory["validate"] else "train"
    assert queue.statuses[f"{part}/u1"] == ["running", "finished"]
    assert len(queue.trajectories) == (1 if trajectory["validate"] else GROUP)


def test_verls_tool_agent_answers_the_question_too(build: Any, prompt: dict, queue: FakeQueue) -> None:
    worker = build("actor_rollout_ref.rollout.multi_turn.enable=true", answers=[answer("Chad"), answer("Romania")])
    record = run(worker, {**prompt, "agent_name": "tool_agent", "tools_kwargs": {}})
    assert (record.reason, len(record.rewards), record.votes) == (None, GROUP, {"Chad": 2, "Romania": 2})
    assert len(queue.trajectories) == GROUP


def test_only_one_file_here_imports_transferqueue() -> None:
    """verl may replace its queue: what depends on it stands in one place."""
    files = Path(rollout.__file__).parent.glob("*.py")
    assert [file.name for file in files if "import transfer_queue" in file.read_text()] == ["rollout.py"]


def test_an_easy_image_is_asked_where_that_is_wished(build: Any, prompt: dict, queue: FakeQueue) -> None:
    worker = build(skip_easy=False)
    run(worker, prompt)
    assert worker.recorder.written[0].reason is None
    assert len(queue.trajectories) == GROUP


def test_a_policy_that_is_sure_of_a_wrong_class_is_asked(build: Any, prompt: dict) -> None:
    worker = build(answers=[answer("Romania")])
    visit = run(worker, prompt)
    assert sorted(visit.options) == ["Chad", "Romania"]
    assert (visit.injected, visit.recall) == (True, 0.0)


def cannot_read(worker: Any, prompt: dict) -> None:
    Path(prompt["raw_prompt"][0]["content"][0]["image"]).write_text("no picture")


def cannot_sample(worker: Any, prompt: dict) -> None:
    worker.llm_client.answers = [ConnectionError("engine is gone")]


def takes_too_long(worker: Any, prompt: dict) -> None:
    worker.llm_client.answers = [60.0]
    settings = Settings(num_samples=4, mining_timeout=0.05, group_requests=False)
    worker._set_up(settings, worker.recorder, None)


def has_no_class_list(worker: Any, prompt: dict) -> None:
    prompt["image_root"] = prompt["image_root"] + "/nowhere"


def has_too_long_a_prompt(worker: Any, prompt: dict) -> None:
    prompt["raw_prompt"][0]["content"][1]["text"] += " really?" * 300


def has_too_long_a_question(worker: Any, prompt: dict) -> None:
    prompt["raw_prompt"][0]["content"][1]["text"] = "What is it?"
    worker.llm_client.answers = [answer(name) for name in CLASSES]
    worker.questions._max_prompt_tokens = 60


FAILURES = [
    (cannot_read, "unreadable_image", "UnidentifiedImageError"),
    (cannot_sample, "sampling_failed", "ConnectionError: engine is gone"),
    (takes_too_long, "mining_timeout", None),
    (has_no_class_list, "unexpected_error", "classes.json is missing"),
    (has_too_long_a_prompt, "overlong_prompt", "data.max_prompt_length=256"),
    (has_too_long_a_question, "overlong_question", "data.max_prompt_length=60"),
]


@pytest.mark.parametrize(("breaks", "reason", "detail"), FAILURES)
def test_an_image_that_cannot_be_asked_has_a_named_reason_and_is_replaced(
    build: Any, prompt: dict, queue: FakeQueue, breaks: Any, reason: str, detail: str | None
) -> None:
    worker = build()
    breaks(worker, prompt)
    visit = run(worker, prompt)
    assert worker.recorder.mined == [visit]
    assert (visit.failure, visit.skip) == (reason, None)
    assert detail in visit.detail if detail else visit.detail is None
    assert queue.statuses == CLOSED
    assert queue.trajectories == {} and worker.llm_client.rollouts == []


@pytest.mark.parametrize(("breaks", "reason", "detail"), FAILURES)
def test_in_validation_it_scores_nothing_and_does_not_vanish(
    build: Any, prompt: dict, queue: FakeQueue, breaks: Any, reason: str, detail: str | None
) -> None:
    worker = build("actor_rollout_ref.rollout.val_kwargs.n=2")
    breaks(worker, prompt)
    run(worker, prompt, VALIDATE)
    assert worker.recorder.written[0].failure == reason
    assert queue.statuses == {"val/u1": ["finished"]}
    assert sorted(queue.trajectories) == ["val/u1_0_0", "val/u1_1_0"]
    for trajectory in queue.trajectories.values():
        assert trajectory["rm_scores"].sum() == 0.0
        assert set(trajectory["extra_fields"]["reward_extra_info"].values()) == {0.0}


def test_what_was_not_foreseen_is_a_failure_too_and_never_a_prompt_that_waits_for_ever(
    build: Any, prompt: dict, queue: FakeQueue
) -> None:
    worker = build()

    async def broken(record: QuestionRecord) -> None:
        raise OSError("no space left on device")

    worker.recorder.record_votes = SimpleNamespace(remote=broken)
    run(worker, prompt)
    assert queue.statuses == CLOSED


# ------------------------------------------------------------------------------------------ validation


def test_validation_asks_the_easy_image_too_as_often_as_verl_says_and_never_adds_the_truth(
    build: Any, prompt: dict, queue: FakeQueue
) -> None:
    worker = build(
        "actor_rollout_ref.rollout.val_kwargs.n=2",
        choose=lambda question: answer("A" if "A. Chad" in question else "B"),
    )
    visit = run(worker, prompt, VALIDATE)
    assert (visit.split, visit.skip, visit.injected) == ("val", None, False)
    assert len(visit.options) == 2 and "Chad" in visit.options
    assert (visit.one_step, visit.recall, visit.rewards) == (1.0, 1.0, [2.0, 2.0])
    assert queue.statuses == {"val/u1": ["running", "finished"]}
    assert [graded["ground_truth"] for graded in worker.reward_loop_worker_handles[0].graded] == ["", ""]


def test_a_truth_that_was_never_answered_is_no_option_in_validation(build: Any, prompt: dict) -> None:
    worker = build(answers=[answer("Romania"), answer("Moldova")])
    visit = run(worker, prompt, VALIDATE)
    assert sorted(visit.options) == ["Moldova", "Romania"]
    assert (visit.answer, visit.injected, visit.recall, visit.pass_at_k) == (None, False, 0.0, 0.0)
    assert visit.rewards == [1.0], "the format is paid for, the answer is not"


def test_a_zero_has_the_keys_of_a_real_trajectory(build: Any, prompt: dict, queue: FakeQueue) -> None:
    """verl's validation reads these from all trajectories as one table."""
    worker = build()
    run(worker, dict(prompt), VALIDATE)
    cannot_sample(worker, prompt)
    run(worker, {**prompt, "uid": "u2"}, VALIDATE)
    real, zero = queue.trajectories["val/u1_0_0"], queue.trajectories["val/u2_0_0"]
    real_info, zero_info = (each["extra_fields"]["reward_extra_info"] for each in (real, zero))
    assert list(real_info) == list(zero_info)
    assert "reward" not in real_info
    # What verl selects for its metrics, and what a batch is made of.
    wanted = {"uid", "rm_scores", "num_turns", "reward_model", "data_source", "extra_fields", "prompts", "responses"}
    wanted |= {"input_ids", "position_ids", "response_mask", "loss_mask", "rollout_log_probs", "multi_modal_inputs"}
    assert wanted <= set(zero) and wanted <= set(real)
    assert zero["position_ids"].shape == (4, 2)
    assert zero["extra_info"]["failure"] == "sampling_failed"


# ------------------------------------------------------------------------------------------ stage 2: rollouts that fail


def test_a_failed_rollout_of_a_training_group_is_counted_and_left_to_verl(
    build: Any, prompt: dict, queue: FakeQueue
) -> None:
    worker = build(answers=[answer("Romania")])
    outcomes = iter([answer("A"), ValueError("too long"), answer("B")])
    worker.llm_client.choose = lambda question: next(outcomes)
    visit = run(worker, prompt)
    assert visit.rollout_failures == {"rollout_failed": 1}
    assert sorted(visit.choices) == ["A", "B"]
    assert len(queue.trajectories) == 2
    assert queue.statuses["train/u1"][-1] == "failure"


def test_a_failed_rollout_of_validation_scores_nothing_and_does_not_vanish(
    build: Any, prompt: dict, queue: FakeQueue
) -> None:
    worker = build(choose=lambda question: ValueError("engine hiccup"))
    visit = run(worker, prompt, VALIDATE)
    assert visit.rollout_failures == {"rollout_failed": 1}
    assert queue.statuses["val/u1"][-1] == "finished"
    (trajectory,) = queue.trajectories.values()
    scores = trajectory["extra_fields"]["reward_extra_info"]
    assert (scores["acc"], scores["score"]) == (0.0, 0.0)
    # What the votes said is still true.
    assert scores["one_step"] == 1.0


@pytest.mark.parametrize("trajectory", [TRAIN, VALIDATE])
def test_a_rollout_that_never_ends_is_given_up(build: Any, prompt: dict, trajectory: dict) -> None:
    worker = build(rollout_timeout=0.05, skip_easy=False, choose=lambda question: 60.0)
    visit = run(worker, prompt, trajectory)
    assert visit.rollout_failures == {"rollout_timeout": 1 if trajectory["validate"] else GROUP}


def test_a_choice_that_names_no_option_is_recorded_as_none(build: Any, prompt: dict) -> None:
    worker = build(answers=[answer("Romania")])
    outcomes = iter([answer("Z"), "no answer", answer("b")])
    worker.llm_client.choose = lambda question: next(outcomes)
    run(worker, prompt)
    choices = worker.recorder.written[0].choices
    assert sorted(choices, key=str) == ["B", None, None]


# ------------------------------------------------------------------------------------------ the length of a question


def test_the_length_of_a_question_is_counted_without_its_picture(build: Any, prompt: dict) -> None:
    """The picture's tokens are those of the open prompt; off by one would fail in vLLM, or leave out good images."""
    worker = build(skip_easy=False)
    run(worker, dict(prompt))
    asked_tokens = len(worker.llm_client.rollouts[0]["prompt_ids"])
    assert len(worker.llm_client.votes[0]["prompt_ids"]) != asked_tokens
    for limit, failure in ((asked_tokens, None), (asked_tokens - 1, "overlong_question")):
        worker.questions._max_prompt_tokens = limit
        record = run(worker, dict(prompt))
        assert record.failure == failure
    assert record.detail == f"ValueError: {asked_tokens} tokens, data.max_prompt_length={asked_tokens - 1}"


# ------------------------------------------------------------------------------------------ many images, other rows


@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_images_are_in_flight_than_allowed(build: Any, prompt: dict, limit: int, queue: FakeQueue) -> None:
    worker = build(max_images_in_flight=limit)
    worker.llm_client.answers, worker.llm_client.crowd = [answer("Romania")], limit

    async def all_at_once() -> None:
        copies = [{**prompt, "uid": f"u{index}"} for index in range(6)]
        await asyncio.gather(*(worker._run_prompt(copy, {"repetition_penalty": 1.0}, TRAIN) for copy in copies))

    asyncio.run(all_at_once())
    assert worker.llm_client.most_images_in_flight == limit
    assert len(worker.recorder.written) == 6
    assert all(statuses[-1] == "finished" for statuses in queue.statuses.values())


def test_a_prompt_does_not_wait_for_another_one(build: Any, prompt: dict) -> None:
    """The first image's answers take long; the second is rolled out meanwhile."""
    worker = build(answers=[answer("Romania")])

    async def both() -> set[asyncio.Task]:
        let_go = worker.llm_client.held["slow"] = asyncio.Event()
        params = {"repetition_penalty": 1.0}
        slow = asyncio.create_task(worker._run_prompt({**prompt, "uid": "slow"}, params, TRAIN), name="slow")
        quick = asyncio.create_task(worker._run_prompt({**prompt, "uid": "quick"}, params, TRAIN), name="quick")
        done, _ = await asyncio.wait([slow, quick], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        let_go.set()
        await asyncio.gather(slow, quick)
        return done

    assert {task.get_name() for task in asyncio.run(both())} == {"quick"}


def test_a_row_of_another_task_takes_verls_own_way(build: Any, prompt: dict, queue: FakeQueue) -> None:
    worker = build()
    prompt["data_source"] = "openai/gsm8k"
    prompt["reward_model"] = {"style": "rule", "ground_truth": "4"}
    run(worker, prompt)
    assert worker.llm_client.votes == []
    assert len(worker.llm_client.rollouts) == GROUP
    assert worker.recorder.mined == worker.recorder.written == []
    assert len(queue.trajectories) == GROUP
    assert queue.statuses == {"train/u1": ["running", "finished"]}
    info = queue.trajectories["train/u1_0_0"]["extra_fields"]["reward_extra_info"]
    # The keys of our own rows, so that one batch can hold both.
    assert list(info) == list(compute_score("divek/flags/base", "", "A", {"options": ["Chad", "Mali"]}))


def test_a_group_of_another_size_is_as_large_as_verl_says(build: Any, prompt: dict) -> None:
    worker = build(skip_easy=False)
    run(worker, {**prompt, "__rollout_n__": np.int64(2)})
    assert len(worker.recorder.written[0].choices) == 2


# ------------------------------------------------------------------------------------------ the manager


def test_the_manager_starts_workers_of_ours(build: Any) -> None:
    manager = TwoStageAgentLoopManager(config=build().config, llm_client=None)
    assert issubclass(manager.agent_loop_workers_class.__ray_metadata__.modified_class, TwoStageAgentLoopWorker)
