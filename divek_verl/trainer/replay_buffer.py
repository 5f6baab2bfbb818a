"""The trainer's side of the two stages: verl's replay buffer with our metrics, a cap on refills and a watchdog."""

import time
from collections.abc import Callable

import ray
from omegaconf import DictConfig
from ray.exceptions import ActorUnavailableError, RayActorError
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from divek_verl.settings import read_settings
from divek_verl.trainer.recorder import shared_recorder
from divek_verl.trainer.vote_store import start_store

RECORDER_TIMEOUT = 60
SECONDS_BETWEEN_PINGS = 10.0


class NoProgress(RuntimeError):
    """The rollouts cannot continue: every image is skipped, a worker died, or no prompt has moved for too long."""


class DivekReplayBuffer(ReplayBuffer):
    """verl's replay buffer for DiVE-k (``trainer.v1.sampler.custom_sampler``) with ``trainer_mode=sync``.

    ``trainer/configure.py`` passes on what verl does not give to a custom sampler: the refill of failed groups, the
    poll interval and ``algorithm.filter_groups``.

    Raises:
        NoProgress: from ``sample``, instead of waiting for ever.
    """

    def __init__(self, *, sampler_kwargs: DictConfig, refill_fn: Callable[[int], None], **kwargs: object) -> None:
        self.settings = read_settings(sampler_kwargs.divek)
        self.max_refills = self.settings.max_refills_per_step or 10 * int(sampler_kwargs.train_batch_size)
        self.recorder = shared_recorder(self.settings.run_dir)
        self.store = start_store(self.settings.max_vote_age) if self.settings.reuses_votes else None
        self._refill = refill_fn
        self._refills = 0
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

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """A batch of finished groups with verl's metrics and, for training, the ``divek/`` metrics of the step."""
        self._refills = 0
        self._last_progress = time.monotonic()
        if self.store is not None:
            # The weights of the step before answer during a step.
            self.store.set_policy_version.remote(global_steps - (partition_id == "train"))
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id == "train":
            metrics.update(ray.get(self.recorder.drain.remote(), timeout=RECORDER_TIMEOUT))
            metrics["divek/refills"] = float(self._refills)
        return batch, metrics

    def _refill_within_cap(self, count: int) -> None:
        self._refills += count
        if self._refills > self.max_refills:
            raise NoProgress(self._why_refilled())
        self._refill(count)

    def _why_refilled(self) -> str:
        reasons = ray.get(self.recorder.refill_reasons.remote(), timeout=RECORDER_TIMEOUT)
        listed = ", ".join(f"{count} x {reason} (e.g. {detail})" for reason, (count, detail) in reasons.items())
        advice = (
            "every image is easy for this policy: train on harder data, or set divek.skip_easy=false"
            if set(reasons) == {"easy"}
            else "fix what the reasons name, or raise divek.max_refills_per_step"
        )
        causes = listed or "groups without variance"
        return f"More than {self.max_refills} images of one step were replaced ({causes}): {advice}."

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
