"""The two-stage agent loop: votes of the live policy first, then verl's own rollouts of one shared question.

verl hands a worker one prompt at a time (``verl/trainer/ppo/v1/agent_loop_tq.py``: ``_run_prompt``). This worker asks
``QuestionMaker`` for a question, and lets verl roll out the rewritten prompt. Prompts do not wait for each other.
"""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
import transfer_queue as tq
from ray.actor import ActorHandle
from ray.exceptions import RayError
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from divek_verl.answers import parse_option
from divek_verl.images import is_data_url
from divek_verl.measures import NO_MEASURES
from divek_verl.prompts import is_divek
from divek_verl.records import FailureReason, QuestionRecord
from divek_verl.reward import compute_score
from divek_verl.settings import Settings, read_settings
from divek_verl.trainer.mining import OnlineMiner
from divek_verl.trainer.questions import Message, Prompt, QuestionMaker
from divek_verl.trainer.recorder import shared_recorder
from divek_verl.trainer.shared_inputs import OUR_LOOP, SHARED, VERLS_LOOP, SharedInputs
from divek_verl.trainer.vote_store import prepare_store, start_store

logger = logging.getLogger(__name__)

# Ray wraps the class that it makes an actor of; a subclass needs the class underneath.
_VerlWorker = AgentLoopWorkerTQ.__ray_metadata__.modified_class


@dataclass
class InFlightQuestion:
    """A question whose rollouts are under way."""

    record: QuestionRecord
    sessions_left: int
    failures: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)


class TwoStageAgentLoopWorker(_VerlWorker):  # type: ignore[misc, valid-type]
    """verl's agent-loop worker with the mining stage before the rollouts of each DiVE-k row."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        settings = read_settings(self.config.divek)
        recorder = shared_recorder(settings)
        ray.get(recorder.register_worker.remote(ray.get_runtime_context().current_actor))
        store = start_store(settings.max_vote_age) if settings.reuses_votes else None
        self._set_up(settings, recorder, store)

    def _set_up(self, settings: Settings, recorder: ActorHandle, store: ActorHandle | None) -> None:
        self.settings, self.recorder = settings, recorder
        self.miner = OnlineMiner(self, settings)
        self.questions = QuestionMaker(
            settings,
            self.miner.mine,
            count_tokens=self._count_tokens,
            max_prompt_tokens=self.rollout_config.prompt_length,
            look_up=None if store is None else store.look_up.remote,
            keep=None if store is None else store.put.remote,
        )
        self._slots = asyncio.Semaphore(settings.max_images_in_flight)
        self._in_flight: dict[str, InFlightQuestion] = {}

    async def ping(self) -> bool:
        """Show the replay buffer that this worker is alive."""
        return True

    async def _run_prompt(self, prompt: Prompt, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        if not is_divek(prompt["data_source"]):
            return await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        async with self._slots:
            try:
                await self._visit(prompt, sampling_params, trajectory, trace)
            except Exception:
                # Nobody awaits this task: without a last status, the trainer would wait for the prompt.
                logger.exception("divek_verl: the visit of prompt %s failed", prompt["uid"])
                await self._publish_status(prompt, trajectory, "failure")

    async def _visit(self, prompt: Prompt, sampling_params: dict, trajectory: dict, trace: bool) -> None:
        record = QuestionRecord(
            step=int(trajectory["step"]),
            split="val" if trajectory["validate"] else "train",
            data_source=prompt["data_source"],
            image_id=str((prompt.get("extra_info") or {}).get("image_id", prompt["index"])),
            image=_first_image(prompt["raw_prompt"]),
            truth=prompt["reward_model"]["ground_truth"],
        )
        rewritten = None
        rests = self.settings.revisit_easy > 1 and record.split == "train"
        if rests and await self.recorder.rests.remote(*record.key):
            record.skip, record.votes_from = FailureReason.EASY_LATELY, "none"
        else:
            # Skip the "running" status while mining: it saves a queue message, and verl treats "pending" alike.
            rewritten = await self.questions.rewrite(prompt, record)
        await self._tell(self.recorder.record_votes, record)
        if rewritten is None:
            return await self._close_without_rollouts(prompt, record, trajectory)
        self._in_flight[prompt["uid"]] = InFlightQuestion(record, self._sessions(prompt, trajectory))
        if rewritten["agent_name"] == VERLS_LOOP:
            rewritten["agent_name"] = OUR_LOOP
        # The tasks of the rollouts inherit it.
        token = SHARED.set(SharedInputs())
        try:
            await super()._run_prompt(rewritten, sampling_params, trajectory, trace)
        finally:
            SHARED.reset(token)
            del self._in_flight[prompt["uid"]]

    async def _run_agent_loop(self, sampling_params: dict, trajectory: dict, **kwargs: Any) -> object:
        asked = self._in_flight.get(kwargs["uid"])
        if asked is None:
            return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)
        try:
            run = super()._run_agent_loop(sampling_params, trajectory, **kwargs)
            return await asyncio.wait_for(run, self.settings.rollout_timeout)
        except Exception as error:
            late = isinstance(error, asyncio.TimeoutError)
            reason = FailureReason.ROLLOUT_TIMEOUT if late else FailureReason.ROLLOUT_FAILED
            asked.failures[str(reason)] += 1
            asked.record.detail = asked.record.detail or f"{type(error).__name__}: {error}"
            # verl reports a failed group of a training batch itself, but loses a failed validation rollout.
            if not trajectory["validate"]:
                raise
            logger.exception("divek_verl: a validation rollout of %s failed", asked.record.image_id)
            await self._publish_zero(kwargs, reason)
            return None
        finally:
            asked.sessions_left -= 1
            if asked.sessions_left == 0:
                # Written with the last rollout, so that the line is there before verl publishes the group.
                asked.record.rollout_seconds = time.monotonic() - asked.started
                asked.record.rollout_failures = dict(asked.failures)
                await self._tell(self.recorder.write, asked.record)

    async def _agent_loop_postprocess(
        self, output: AgentLoopOutput | list[AgentLoopOutput], validate: bool, **kwargs: Any
    ) -> None:
        shared = SHARED.get()
        if shared is not None and isinstance(output, AgentLoopOutput):
            await shared.prepare(output, super()._compute_multi_modal_inputs)
        await super()._agent_loop_postprocess(output, validate, **kwargs)
        asked = self._in_flight.get(kwargs["uid"])
        if asked is None:
            return
        last = output[-1] if isinstance(output, list) else output
        text = self.tokenizer.decode(last.response_ids, skip_special_tokens=True)
        choice = parse_option(text, len(asked.record.options))
        asked.record.completions.append(text)
        asked.record.choices.append(None if choice is None else chr(ord("A") + choice))
        asked.record.rewards.append(float(last.reward_score or 0.0))
        graded = last.extra_fields.get("reward_extra_info") or {}
        asked.record.formats.append(float(graded.get("format") or 0.0))

    def _compute_multi_modal_inputs(self, output: AgentLoopOutput, input_ids: torch.Tensor) -> dict:
        shared = SHARED.get()
        found = None if shared is None else shared.of(output)
        return super()._compute_multi_modal_inputs(output, input_ids) if found is None else found

    async def _tell(self, method: Any, record: QuestionRecord) -> None:
        """Call the recorder; what goes to the trainer never depends on it."""
        try:
            await method.remote(record)
        except RayError:
            logger.exception("divek_verl: the record of %s is lost", record.image_id)

    async def _close_without_rollouts(self, prompt: Prompt, record: QuestionRecord, trajectory: dict) -> None:
        """Training: a failed group without trajectories, which verl replaces. Validation: zeros, nothing vanishes."""
        await self._tell(self.recorder.write, record)
        if trajectory["validate"]:
            for session in range(self._sessions(prompt, trajectory)):
                await self._publish_zero({**prompt, "session_id": session}, record.reason or "failed")
        await self._publish_status(prompt, trajectory, "finished" if trajectory["validate"] else "failure")

    async def _publish_status(self, prompt: Prompt, trajectory: dict, status: str) -> None:
        partition = "val" if trajectory["validate"] else "train"
        await tq.async_kv_put(key=prompt["uid"], partition_id=partition, tag={"status": status})

    async def _publish_zero(self, kwargs: dict, reason: str) -> None:
        """Publish a validation trajectory that scores 0, with the same keys as any other."""
        hidden = ("agent_name", "__rollout_n__", "__do_sample__")
        fields = {name: value for name, value in kwargs.items() if name not in hidden}
        extra_info = {**(fields.get("extra_info") or {}), "failure": str(reason)}
        extra_info.setdefault("measures", dict(NO_MEASURES))
        scores = compute_score(fields["data_source"], "", fields["reward_model"]["ground_truth"], extra_info)
        token = self.tokenizer.eos_token_id
        # Every rollout names the weights that answered it; these are the ones that would have.
        version = kwargs.get("global_steps")
        output = AgentLoopOutput(
            prompt_ids=[token],
            response_ids=[token],
            response_mask=[1],
            response_logprobs=[0.0],
            reward_score=0.0,
            num_turns=2,
            metrics=AgentLoopMetrics(),
            extra_fields={
                "reward_extra_info": scores,
                "turn_scores": [],
                "tool_rewards": [],
                "min_global_steps": version,
                "max_global_steps": version,
            },
        )
        await super()._agent_loop_postprocess(output, True, **{**fields, "extra_info": extra_info})

    def _sessions(self, prompt: Prompt, trajectory: dict) -> int:
        rollout = self.config.actor_rollout_ref.rollout
        return int(prompt.get("__rollout_n__") or (rollout.val_kwargs.n if trajectory["validate"] else rollout.n))

    def _count_tokens(self, messages: list[Message]) -> int:
        template = (self.processor or self.tokenizer).apply_chat_template
        options = self.config.data.get("apply_chat_template_kwargs") or {}
        text = template(messages, add_generation_prompt=True, tokenize=False, **options)
        return len(self.tokenizer.encode(text, add_special_tokens=False))


def _first_image(messages: list[Message]) -> str:
    """The path of the first picture, for the record; empty for a picture that is not a file."""
    parts = [part for message in messages if not isinstance(message["content"], str) for part in message["content"]]
    image = next((part["image"] for part in parts if part["type"] == "image"), "")
    return image if isinstance(image, str) and not is_data_url(image) else ""


class TwoStageAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager with our workers; named by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        # verl's own __init__ sets its class, so this has to come after it.
        self.agent_loop_workers_class = ray.remote(TwoStageAgentLoopWorker)
        # The store has its votes before the first worker asks for any.
        self.store = prepare_store(self.config)
