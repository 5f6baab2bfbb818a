"""The trainer's side, with verl's own replay buffer; TransferQueue and Ray are replaced at the boundary."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from ray.exceptions import ActorDiedError, ActorUnavailableError
from verl.trainer.ppo.v1 import replay_buffer

from divek_verl.trainer import replay_buffer as sampler
from divek_verl.trainer.replay_buffer import DivekReplayBuffer, NoProgress

BATCH = 2


class FakeQueue:
    """TransferQueue as far as the buffer uses it: partition -> key -> tag."""

    def __init__(self) -> None:
        self.partitions: dict[str, dict[str, dict]] = {"train": {}, "val": {}}
        self.rewards: dict[str, torch.Tensor] = {}

    def kv_list(self) -> dict[str, dict[str, dict]]:
        return self.partitions

    def kv_clear(self, partition_id: str, keys: list[str]) -> None:
        for key in keys:
            del self.partitions[partition_id][key]

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, list]:
        assert select_fields == ["rm_scores"]
        return {"rm_scores": [self.rewards[key] for key in keys]}

    def rewarded(self, uid: str, *rewards: float) -> None:
        """A finished group whose rollouts got these rewards."""
        self.prompt(uid, "finished", rollouts=len(rewards))
        self.rewards |= {f"{uid}_{index}_0": torch.tensor([0.0, each]) for index, each in enumerate(rewards)}

    def prompt(self, uid: str, status: str, rollouts: int = 0, partition: str = "train") -> None:
        """A group in this state, with its trajectories."""
        self.partitions[partition][uid] = {"is_prompt": True, "status": status, "global_steps": 1}
        for session in range(rollouts):
            self.partitions[partition][f"{uid}_{session}_0"] = {"status": "success"}


class FakeRecorder:
    """Its methods are called as an actor's; what ``ray.get`` gives for their results is the results."""

    def __init__(self) -> None:
        self.metrics = {"divek/images_mined": 4.0}
        self.reasons: dict[str, tuple[int, str]] = {}
        self.handles: list[Any] = []
        self.drained = 0
        self.drain = SimpleNamespace(remote=self._drain)
        self.refill_reasons = SimpleNamespace(remote=lambda: self.reasons)
        self.workers = SimpleNamespace(remote=lambda: self.handles)

    def _drain(self) -> dict[str, float]:
        self.drained += 1
        return self.metrics


class FakeRay:
    """References are what they refer to; an exception is what the call raised, None what has no answer yet."""

    @staticmethod
    def get(reference: Any, timeout: float | None = None) -> Any:
        if isinstance(reference, BaseException):
            raise reference
        return reference

    @staticmethod
    def wait(references: list, num_returns: int, timeout: float) -> tuple[list, list]:
        assert num_returns == len(references) > 0
        return [r for r in references if r is not None], [r for r in references if r is None]


def worker(answer: Any) -> Any:
    return SimpleNamespace(ping=SimpleNamespace(remote=lambda: answer))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    fake = FakeQueue()
    monkeypatch.setattr(replay_buffer, "tq", fake)
    return fake


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> FakeRecorder:
    fake = FakeRecorder()
    monkeypatch.setattr(sampler, "shared_recorder", lambda run_dir: fake)
    monkeypatch.setattr(sampler, "ray", FakeRay)
    return fake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that stands still but for ``passes`` seconds between two looks at it."""
    fake = SimpleNamespace(now=1000.0, passes=0.0)

    def monotonic() -> float:
        fake.now += fake.passes
        return fake.now

    monkeypatch.setattr(sampler, "time", SimpleNamespace(monotonic=monotonic, perf_counter=lambda: fake.now))
    return fake


@pytest.fixture
def build(queue: FakeQueue, recorder: FakeRecorder, clock: SimpleNamespace) -> Callable[..., DivekReplayBuffer]:
    """A buffer as verl's trainer builds it (trainer_base.py: _build_replay_buffer, with a custom sampler)."""

    def build_buffer(
        refill: Callable[[int], Any] = lambda count: count, filtered: dict[str, Any] | None = None, **divek: Any
    ) -> DivekReplayBuffer:
        kwargs = {"divek": {"poll_interval": 0.001, **divek}, "train_batch_size": BATCH, **(filtered or {})}
        return DivekReplayBuffer(
            trainer_mode="sync",
            trainer_config=OmegaConf.create({}),
            max_off_policy_threshold=8,
            max_off_policy_strategy="drop",
            sampler_kwargs=OmegaConf.create(kwargs),
            refill_fn=refill,
        )

    return build_buffer


def take(buffer: DivekReplayBuffer, partition: str = "train", size: int = BATCH) -> tuple[Any, dict]:
    return buffer.sample(global_steps=1, partition_id=partition, batch_size=size)


# ------------------------------------------------------------------------------------------ batches and metrics


def test_a_batch_comes_with_the_metrics_of_its_step(build: Any, queue: FakeQueue, recorder: FakeRecorder) -> None:
    queue.prompt("a", "finished", rollouts=2)
    queue.prompt("b", "finished", rollouts=2)
    batch, metrics = take(build())
    assert sorted(batch.keys) == ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
    assert metrics == {
        "divek/images_mined": 4.0,
        "divek/refills": 0.0,
        "divek/mining_rounds": 1.0,
        "divek/groups_left_over": 0.0,
    }


def test_validation_leaves_the_training_metrics_alone(build: Any, queue: FakeQueue, recorder: FakeRecorder) -> None:
    queue.prompt("v", "finished", rollouts=1, partition="val")
    batch, metrics = take(build(), "val", 1)
    assert batch.keys == ["v_0_0"]
    assert metrics == {}
    assert recorder.drained == 0


def test_verl_is_told_what_it_does_not_hand_a_sampler_of_ours(build: Any) -> None:
    buffer = build(poll_interval=0.5)
    assert buffer.sync_refill_failed_groups is True
    assert buffer.poll_interval == 0.5
    assert buffer.filter_groups_metric is None


# ------------------------------------------------------------------------------------------ algorithm.filter_groups


def test_groups_without_variance_are_replaced_where_verl_is_to_filter_them(build: Any, queue: FakeQueue) -> None:
    queue.rewarded("same", 1.0, 1.0, 1.0)
    queue.rewarded("mixed", 1.0, 2.0, 1.0)
    asked: list[int] = []

    def refill(count: int) -> None:
        asked.append(count)
        for index in range(count):
            queue.rewarded(f"new{len(asked)}{index}", 2.0, 0.0)

    buffer = build(refill, filtered={"filter_groups_metric": "reward", "max_inflight_gen_batches": 1})
    batch, metrics = take(buffer)
    groups = {key.partition("_")[0] for key in batch.keys}
    assert len(groups) == BATCH and groups < {"mixed", "new10", "new11"}, "verl takes any two of the three"
    assert asked == [2], "verl asks for two groups in the place of one"
    assert metrics["training/filter_groups/evicted_samples"] == 1
    assert (metrics["divek/refills"], metrics["divek/mining_rounds"]) == (2, 2)


def test_without_the_filter_they_are_trained_on(build: Any, queue: FakeQueue) -> None:
    queue.rewarded("same", 1.0, 1.0)
    queue.rewarded("mixed", 1.0, 2.0)
    batch, _ = take(build())
    assert {key.partition("_")[0] for key in batch.keys} == {"same", "mixed"}


# ------------------------------------------------------------------------------------------ skipped images


def test_a_skipped_image_is_replaced_and_counted(build: Any, queue: FakeQueue) -> None:
    fresh = iter(["c", "d"])

    def refill(count: int) -> None:
        for _ in range(count):
            queue.prompt(next(fresh), "finished", rollouts=1)

    queue.prompt("a", "finished", rollouts=1)
    queue.prompt("b", "failure")
    batch, metrics = take(build(refill))
    assert sorted(batch.keys) == ["a_0_0", "c_0_0"]
    assert metrics["divek/refills"] == 1.0
    assert metrics["training/rollout_failure/evicted_samples"] == 1


def test_a_group_of_which_only_some_rollouts_failed_is_trained_on(build: Any, queue: FakeQueue) -> None:
    queue.prompt("a", "failure", rollouts=3)
    queue.prompt("b", "finished", rollouts=4)
    batch, metrics = take(build())
    assert len(batch.keys) == 7
    assert metrics["divek/refills"] == 0.0


def always_skipped(queue: FakeQueue) -> Callable[[int], None]:
    names = iter(range(1000))

    def refill(count: int) -> None:
        for _ in range(count):
            queue.prompt(f"new{next(names)}", "failure")

    return refill


@pytest.mark.parametrize(
    ("reasons", "sentences"),
    [
        (
            {"easy": (30, "chad-1"), "unreadable_image": (2, "OSError: cut off")},
            [
                "30 x easy (e.g. chad-1), 2 x unreadable_image (e.g. OSError: cut off)",
                "raise divek.max_refills_per_step",
            ],
        ),
        ({"easy": (6, "chad-1")}, ["every image is easy for this policy", "set divek.skip_easy=false"]),
    ],
)
def test_endless_skipping_ends_with_the_reasons(
    build: Any, queue: FakeQueue, recorder: FakeRecorder, reasons: dict[str, tuple[int, str]], sentences: list[str]
) -> None:
    recorder.reasons = reasons
    queue.prompt("a", "failure")
    with pytest.raises(NoProgress) as error:
        take(build(always_skipped(queue), max_refills_per_step=5))
    assert str(error.value).startswith("More than 5 images of one step were replaced")
    assert all(sentence in str(error.value) for sentence in sentences)


@pytest.mark.parametrize(("given", "cap"), [(None, 10 * BATCH), (3, 3)])
def test_the_cap_is_ten_batches_unless_it_is_given(build: Any, queue: FakeQueue, given: int | None, cap: int) -> None:
    refilled: list[int] = []
    endless = always_skipped(queue)
    queue.prompt("a", "failure")
    with pytest.raises(NoProgress, match=f"More than {cap} images .*groups without variance"):
        take(build(lambda count: (refilled.append(count), endless(count)), max_refills_per_step=given, ask_ahead=False))
    assert sum(refilled) == cap


def test_each_step_has_its_own_cap(build: Any, queue: FakeQueue) -> None:
    fresh = iter("cdefgh")
    buffer = build(
        lambda count: queue.prompt(next(fresh), "finished", rollouts=1), max_refills_per_step=1, ask_ahead=False
    )
    for skipped in ("a", "b"):
        queue.prompt(skipped, "failure")
        _, metrics = take(buffer, size=1)
        assert metrics["divek/refills"] == 1.0


# ------------------------------------------------------------------------------------------ asking ahead


class Rollouts:
    """Images of which some are skipped, mined in rounds: ``pass_round`` ends the mining of all that were asked."""

    def __init__(self, queue: FakeQueue, skipped_share: float, seed: int) -> None:
        self.queue, self.skipped_share, self.rng = queue, skipped_share, random.Random(seed)
        self.asked = self.rounds = 0

    def ask(self, count: int) -> None:
        for _ in range(count):
            self.queue.prompt(f"image{self.asked}", "pending")
            self.asked += 1

    def pass_round(self, seconds: float) -> None:
        train = self.queue.partitions["train"]
        pending = [uid for uid, tag in train.items() if tag["status"] == "pending"]
        self.rounds += bool(pending)
        for uid in pending:
            if self.rng.random() < self.skipped_share:
                train[uid]["status"] = "failure"
            else:
                self.queue.prompt(uid, "finished", rollouts=1)


@pytest.mark.parametrize("skipped_share", [0.3, 0.5])
@pytest.mark.parametrize("size", [6, 512])
def test_a_step_takes_hardly_more_than_one_round_of_mining(
    build: Any,
    queue: FakeQueue,
    recorder: FakeRecorder,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    skipped_share: float,
) -> None:
    rounds: dict[bool, float] = {}
    left_over: dict[bool, list[float]] = {True: [], False: []}
    for ask_ahead in (True, False):
        queue.partitions["train"].clear()
        rollouts = Rollouts(queue, skipped_share, seed=7)
        monkeypatch.setattr(replay_buffer.time, "sleep", rollouts.pass_round)
        buffer = build(rollouts.ask, ask_ahead=ask_ahead, max_refills_per_step=10 * size)
        trained: set[str] = set()
        for step in range(40):
            if step == 5:  # the share of skipped images is known by now
                rollouts.rounds = 0
            rollouts.ask(size)
            before = rollouts.rounds
            batch, metrics = take(buffer, size=size)
            assert metrics["divek/mining_rounds"] == rollouts.rounds - before
            assert len(batch.keys) == size and not trained.intersection(batch.keys)
            trained.update(batch.keys)
            left_over[ask_ahead].append(metrics["divek/groups_left_over"])
            for key in batch.keys:
                del queue.partitions["train"][key]
        rounds[ask_ahead] = rollouts.rounds / 35
        # No image vanishes: each was trained on, skipped, or waits for the next step.
        waiting = sum(tag.get("is_prompt", False) for tag in queue.partitions["train"].values())
        skipped = rollouts.asked - len(trained) - waiting
        assert 0.8 * skipped_share < skipped / rollouts.asked < 1.2 * skipped_share
    assert rounds[True] <= 1.3 < rounds[False]
    assert sum(left_over[True]) / 40 <= 2.5 + 0.05 * size and not any(left_over[False])


def test_nothing_is_asked_ahead_where_nothing_is_skipped(
    build: Any, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = Rollouts(queue, skipped_share=0.0, seed=0)
    monkeypatch.setattr(replay_buffer.time, "sleep", rollouts.pass_round)
    buffer = build(rollouts.ask)
    for _ in range(3):
        rollouts.ask(BATCH)
        assert take(buffer)[1]["divek/refills"] == 0.0


def test_no_batch_is_taken_while_an_image_asked_ahead_is_under_way(
    build: Any, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine sleeps during the update, and would lose its requests."""
    queue.prompt("a", "finished", rollouts=1)
    queue.prompt("b", "finished", rollouts=1)
    queue.prompt("late", "running")
    monkeypatch.setattr(replay_buffer.time, "sleep", lambda seconds: queue.prompt("late", "finished", rollouts=1))
    batch, metrics = take(build())
    assert len(batch.keys) == BATCH and metrics["divek/groups_left_over"] == 1.0


# ------------------------------------------------------------------------------------------ nothing moves


def test_a_run_in_which_nothing_moves_stops(build: Any, queue: FakeQueue, clock: SimpleNamespace) -> None:
    queue.prompt("a", "running", rollouts=1)
    queue.prompt("b", "finished", rollouts=3)
    buffer = build(stall_timeout=30)
    clock.passes = 7.0
    with pytest.raises(NoProgress, match=r"No prompt has moved for 30 s .*trajectories: \(0, 1, 1, 0, 4\)"):
        take(buffer)


def test_a_run_in_which_something_moves_goes_on(
    build: Any, queue: FakeQueue, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rollout every 28 s, under a limit of 30 s."""
    queue.prompt("a", "running")
    buffer = build(stall_timeout=30)
    clock.passes = 7.0
    looks = iter(range(1000))

    def advance(seconds: float) -> None:
        look = next(looks)
        if look % 4 == 0:
            queue.partitions["train"][f"a_{look}_0"] = {"status": "success"}
        if look == 40:
            queue.prompt("a", "finished")

    monkeypatch.setattr(replay_buffer.time, "sleep", advance)
    batch, _ = take(buffer, size=1)
    assert len(batch.keys) == 11


def test_the_time_between_two_steps_is_no_stall(
    build: Any, queue: FakeQueue, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step begins in the very state in which the last one was last seen."""
    buffer = build(stall_timeout=30)
    queue.prompt("a", "running")
    buffer._sync_metadata_from_transfer_queue()
    buffer._watch("train")
    clock.now += 1000.0  # the actor is updated, a checkpoint is saved
    monkeypatch.setattr(replay_buffer.time, "sleep", lambda seconds: queue.prompt("a", "finished", rollouts=1))
    assert take(buffer, size=1)[0].keys == ["a_0_0"]


# ------------------------------------------------------------------------------------------ workers that die


def test_a_dead_worker_is_noticed(build: Any, queue: FakeQueue, recorder: FakeRecorder, clock: SimpleNamespace) -> None:
    recorder.handles = [worker(True), worker(ActorDiedError())]
    queue.prompt("a", "running")
    buffer = build()
    clock.passes = 4.0
    with pytest.raises(NoProgress, match="An agent-loop worker died, so its prompts would never finish"):
        take(buffer)
    # Long before the watchdog would have noticed.
    assert clock.now - 1000.0 < 60.0


def test_a_busy_worker_is_not_a_dead_one_and_before_they_start_none_is_pinged(
    build: Any, recorder: FakeRecorder
) -> None:
    buffer = build()
    buffer._ping_workers()
    recorder.handles = [worker(None), worker(ActorUnavailableError("reconnecting", None)), worker(True)]
    buffer._ping_workers()


def test_workers_are_not_pinged_at_every_look(
    build: Any, queue: FakeQueue, recorder: FakeRecorder, clock: SimpleNamespace
) -> None:
    pings: list[bool] = []
    recorder.handles = [SimpleNamespace(ping=SimpleNamespace(remote=lambda: pings.append(True) or True))]
    buffer = build()
    clock.passes = 1.0
    for _ in range(35):
        buffer._watch("train")
    assert len(pings) == 3


def test_a_long_poll_is_followed_by_a_longer_pause(
    build: Any, queue: FakeQueue, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, pauses, listed = iter([0.0, 0.5, 0.0]), [], queue.kv_list

    def slow_list() -> dict:
        clock.now += next(seconds, 0.0)
        return listed()

    def pause(length: float) -> None:
        pauses.append(length)
        if len(pauses) == 3:
            queue.prompt("a", "finished", rollouts=1)

    monkeypatch.setattr(queue, "kv_list", slow_list)
    monkeypatch.setattr(replay_buffer.time, "sleep", pause)
    take(build(ask_ahead=False, poll_interval=0.2), size=1)
    assert pauses == pytest.approx([0.2, 4.5, 0.2])
