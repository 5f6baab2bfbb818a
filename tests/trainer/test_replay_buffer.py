"""The trainer's side, with verl's own replay buffer; TransferQueue and Ray are replaced at the boundary."""

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

    monkeypatch.setattr(sampler, "time", SimpleNamespace(monotonic=monotonic))
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
    assert metrics == {"divek/images_mined": 4.0, "divek/refills": 0.0}


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
    assert metrics["divek/refills"] == 2


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
        take(build(lambda count: (refilled.append(count), endless(count)), max_refills_per_step=given))
    assert sum(refilled) == cap


def test_each_step_has_its_own_cap(build: Any, queue: FakeQueue) -> None:
    fresh = iter("cdefgh")
    buffer = build(lambda count: queue.prompt(next(fresh), "finished", rollouts=1), max_refills_per_step=1)
    for skipped in ("a", "b"):
        queue.prompt(skipped, "failure")
        _, metrics = take(buffer, size=1)
        assert metrics["divek/refills"] == 1.0


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
