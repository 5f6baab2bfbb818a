"""The trainer's side of the two stages: verl's replay buffer with our metrics, a cap on refills and a watchdog."""

import time
from collections import Counter, deque
from collections.abc import Callable

import ray
from omegaconf import DictConfig
from ray.exceptions import ActorUnavailableError, RayActorError
from scipy.stats import nbinom
from verl.trainer.ppo.v1.replay_buffer import KVBatchMeta, ReplayBuffer, ReplayBufferAsync

from divek_verl.settings import read_settings
from divek_verl.trainer.recorder import shared_recorder
from divek_verl.trainer.vote_store import start_store

RECORDER_TIMEOUT = 60
SECONDS_BETWEEN_PINGS = 10.0
# A pause is at least so many times as long as the poll before it: with many prompts in flight, a poll is long.
PAUSE = 9.0
# Share of skipped images: estimated over this many steps, and believed up to this share.
STEPS_REMEMBERED = 20
MOST_SKIPPED = 0.75
# Ask for so many images that they suffice with this probability; at 50 % skipped, 5 % of a batch of 512 are then left.
CONFIDENCE = 0.9


class NoProgress(RuntimeError):
    """The rollouts cannot continue: every image is skipped, a worker died, or no prompt has moved for too long."""


class DivekReplayBuffer(ReplayBuffer):
    """verl's replay buffer for DiVE-k (``trainer.v1.sampler.custom_sampler``) with ``trainer_mode=sync``.

    ``trainer/configure.py`` passes on what verl does not give to a custom sampler: the refill of failed groups, the
    poll interval and ``algorithm.filter_groups``.

    verl replaces k skipped images by exactly k, of which some are skipped again: at 50 % easy images, a batch of 512
    takes about ten rounds of mining. This buffer asks ahead (``divek.ask_ahead``): at the start of a step, and with
    each replacement, for as many images as should be left over at the share that was skipped lately. A group too many
    is trained on in the next step.

    Raises:
        NoProgress: from ``sample``, instead of waiting for ever.
    """

    # verl's asynchronous buffers replace exactly, because their warm-up batches hide the cost.
    asks_ahead = True

    def __init__(self, *, sampler_kwargs: DictConfig, refill_fn: Callable[[int], None], **kwargs: object) -> None:
        self.settings = read_settings(sampler_kwargs.divek)
        self.max_refills = self.settings.max_refills_per_step or 10 * int(sampler_kwargs.train_batch_size)
        self.recorder = shared_recorder(self.settings)
        self.store = start_store(self.settings.max_vote_age) if self.settings.reuses_votes else None
        self._refill = refill_fn
        self._wanted = self._ready = 0
        self._step: Counter[str] = Counter()
        self._steps: deque[Counter[str]] = deque(maxlen=STEPS_REMEMBERED)
        self._last_state: tuple = ()
        self._last_progress = time.monotonic()
        self._last_ping = time.monotonic()
        super().__init__(
            sampler_kwargs=sampler_kwargs,
            refill_fn=self._refill_within_cap,
            poll_interval=self.settings.poll_interval,
            # verl gives these to its own samplers only (verl/trainer/ppo/v1/trainer_base.py: _build_replay_buffer).
            filter_groups_metric=sampler_kwargs.get("filter_groups_metric"),
            max_inflight_gen_batches=int(sampler_kwargs.get("max_inflight_gen_batches") or 1),
            sync_refill_failed_groups=True,
            gen_batch_size=1,
            train_batch_size=int(sampler_kwargs.train_batch_size),
            **kwargs,
        )
        # With verl's filter of groups, verl itself asks for more than it needs.
        self.asks_ahead = self.asks_ahead and self.settings.ask_ahead and self.filter_groups_metric is None

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """A batch of finished groups with verl's metrics and, for training, the ``divek/`` metrics of the step."""
        self._step = Counter()
        self._last_progress = time.monotonic()
        if self.store is not None:
            # The weights of the step before answer during a step.
            self.store.set_policy_version.remote(global_steps - (partition_id == "train"))
        if partition_id == "train" and self.asks_ahead:
            self._wanted = batch_size
            self._sync_metadata_from_transfer_queue()
            self._sampleable_terminal_keys(partition_id, self._terminal_eviction_reasons(global_steps, partition_id))
            self._ask_for_what_is_missing()
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id == "train":
            self._step["kept"] = batch_size
            # verl asks for no replacement, but evicts, where enough groups are left.
            self._step["skipped"] = metrics.get("training/rollout_failure/evicted_samples", 0)
            self._steps.append(self._step)
            metrics.update(ray.get(self.recorder.drain.remote(), timeout=RECORDER_TIMEOUT))
            metrics["divek/refills"] = float(self._step["asked"])
            # At most: requests for replacements may overlap.
            metrics["divek/mining_rounds"] = 1.0 + self._step["rounds"]
            metrics["divek/groups_left_over"] = float(self._ready - batch_size)
        return batch, metrics

    def _refill_within_cap(self, count: int) -> None:
        """Replace ``count`` skipped images; verl calls it as soon as it has seen them."""
        self._step["skipped"] += count
        if self._step["skipped"] > self.max_refills:
            raise NoProgress(self._why_refilled())
        asked = self._step["asked"]
        if self.asks_ahead:
            self._ask_for_what_is_missing()
        else:
            self._ask(count)
        self._step["rounds"] += self._step["asked"] > asked

    def _ask(self, count: int) -> None:
        self._step["asked"] += count
        self._refill(count)

    def _ask_for_what_is_missing(self) -> None:
        """Ask for as many images as the batch probably lacks, after those that have a question or may get one."""
        have = self._ready + len(self.running_keys["train"])
        missing = self._wanted - have
        if (
            missing > 0
            and (more := images_for(missing, self._skipped_share(have)) - len(self.pending_keys["train"])) > 0
        ):
            self._ask(more)

    def _skipped_share(self, kept: int) -> float:
        """The share of skipped images in the last steps and in this one so far."""
        skipped = sum(step["skipped"] for step in (*self._steps, self._step))
        seen = skipped + kept + sum(step["kept"] for step in self._steps)
        return min(skipped / seen, MOST_SKIPPED) if seen else 0.0

    def _sampleable_terminal_keys(self, partition_id: str, eviction_reasons: tuple) -> set[str]:
        """No group is ready while images asked ahead are under way: the engine sleeps during the update."""
        keys: set[str] = super()._sampleable_terminal_keys(partition_id, eviction_reasons)
        self._ready = len(keys)
        busy = self.pending_keys[partition_id] or self.running_keys[partition_id]
        return set() if partition_id == "train" and self.asks_ahead and busy else keys

    def _why_refilled(self) -> str:
        reasons = ray.get(self.recorder.refill_reasons.remote(), timeout=RECORDER_TIMEOUT)
        listed = ", ".join(f"{count} x {reason} (e.g. {detail})" for reason, (count, detail) in reasons.items())
        advice = (
            "every image is easy for this policy: train on harder data, or set divek.skip_easy=false"
            if set(reasons) <= {"easy", "easy_lately"} and reasons
            else "fix what the reasons name, or raise divek.max_refills_per_step"
        )
        causes = listed or "groups without variance"
        return f"More than {self.max_refills} images of one step were replaced ({causes}): {advice}."

    def _sync_metadata_from_transfer_queue(self) -> None:
        started = time.perf_counter()
        super()._sync_metadata_from_transfer_queue()
        self.poll_interval = max(self.settings.poll_interval, PAUSE * (time.perf_counter() - started))

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        self._watch(partition_id)
        return super()._wait_for_next_poll(partition_id, last_debug_time)

    def _watch(self, partition_id: str) -> None:
        now = time.monotonic()
        state = tuple(
            len(keys[partition_id])
            for keys in (
                self.pending_keys,
                self.running_keys,
                self.finished_keys,
                self.failure_keys,
                self.partitions,
            )
        )
        if state != self._last_state:
            self._last_state, self._last_progress = state, now
        elif now - self._last_progress > self.settings.stall_timeout:
            raise NoProgress(
                f"No prompt has moved for {self.settings.stall_timeout:.0f} s (pending, running, finished, failed, "
                f"trajectories: {state}): see the workers' logs, or raise divek.stall_timeout."
            )
        if now - self._last_ping > SECONDS_BETWEEN_PINGS:
            self._last_ping = now
            self._ping_workers()

    def _ping_workers(self) -> None:
        """Raise NoProgress for a dead worker; a busy one may answer late."""
        workers = ray.get(self.recorder.workers.remote(), timeout=RECORDER_TIMEOUT)
        if not workers:
            return
        pings = [worker.ping.remote() for worker in workers]
        answered, _ = ray.wait(pings, num_returns=len(pings), timeout=1.0)
        for ping in answered:
            try:
                ray.get(ping)
            except ActorUnavailableError:
                # Ray is reconnecting to it.
                continue
            except RayActorError as error:
                raise NoProgress(f"An agent-loop worker died, so its prompts would never finish: {error}") from error


class DivekReplayBufferAsync(DivekReplayBuffer, ReplayBufferAsync):
    """The same over verl's asynchronous buffer, for ``trainer_mode=colocate_async`` and ``separate_async``."""

    asks_ahead = False


def images_for(groups: int, skipped_share: float) -> int:
    """The number of images of which at least ``groups`` are not skipped, with probability ``CONFIDENCE``."""
    return groups + int(nbinom.ppf(CONFIDENCE, groups, 1 - skipped_share))
