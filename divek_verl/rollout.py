"""The two-stage agent loop: votes of the live policy first, then verl's own rollouts of one shared question.

verl hands a worker one prompt at a time (``verl/trainer/ppo/v1/agent_loop_tq.py``: ``_run_prompt``). Ours samples K
answers to the open question through the same client that serves the rollouts, builds the question, rewrites the
prompt and lets verl do the rest. Prompts do not wait for each other.
"""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import hydra
import ray
import transfer_queue as tq
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopMetrics,
    AgentLoopOutput,
    DictConfigWrap,
    ToolListWrap,
    _agent_loop_registry,
)
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from divek_verl.answers import parse_option
from divek_verl.dataset import is_ours, to_multiple_choice
from divek_verl.images import is_data_url
from divek_verl.measures import NO_MEASURES, measure_votes
from divek_verl.prepared import classes_of
from divek_verl.question import Question, Skip, build_question
from divek_verl.records import Visit, shared_recorder
from divek_verl.reward import compute_score
from divek_verl.settings import Settings, read_settings
from divek_verl.votes import Votes, count_votes

logger = logging.getLogger(__name__)

# Ray wraps the class that it makes an actor of; its subclass is made from the class underneath.
_VerlWorker = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class CannotAsk(Exception):
    """An expected failure of one image, with the reason under which it is counted."""

    def __init__(self, reason: str, detail: object = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = None if detail is None else f"{type(detail).__name__}: {detail}"


@dataclass
class Mined:
    """What K samples of one open question brought."""

    votes: Votes
    open_tokens: int
    policy_version: int | None = None
    truncated: int = 0
    failed: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0


@dataclass
class Open:
    """A visit under way: its record, and how many of its rollouts are still to come."""

    visit: Visit
    sessions_left: int
    failures: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)


class TwoStageAgentLoopWorker(_VerlWorker):  # type: ignore[misc, valid-type]
    """verl's agent-loop worker with the mining stage before the rollouts of each DiVE-k row."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings: Settings = read_settings(self.config.divek)
        self.recorder = shared_recorder(self.settings.run_dir)
        ray.get(self.recorder.register_worker.remote(ray.get_runtime_context().current_actor))
        self._slots = asyncio.Semaphore(self.settings.max_images_in_flight)
        self._visits: dict[str, Open] = {}
        self._open_loop: Any = None

    async def ping(self) -> bool:
        """Answer the sampler's question whether this worker is alive."""
        return True

    async def _run_prompt(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        if not is_ours(prompt["data_source"]):
            return await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        async with self._slots:
            try:
                await self._visit(prompt, sampling_params, trajectory, trace)
            except Exception:
                # Nobody awaits this task: without a last status, the trainer would wait for the prompt.
                logger.exception("divek_verl: the visit of prompt %s failed", prompt["uid"])
                await tq.async_kv_put(key=prompt["uid"], partition_id=_partition(trajectory), tag={"status": "failure"})

    async def _visit(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool) -> None:
        await tq.async_kv_put(key=prompt["uid"], partition_id=_partition(trajectory), tag={"status": "running"})
        visit = self._new_visit(prompt, trajectory)
        rewritten = await self._ask(prompt, visit)
        await self.recorder.note_mined.remote(visit)
        if rewritten is None:
            return await self._close_without_rollouts(prompt, visit, trajectory)
        self._visits[prompt["uid"]] = Open(visit, sessions_left=self._sessions(prompt, trajectory))
        try:
            await super()._run_prompt(rewritten, sampling_params, trajectory, trace)
        finally:
            self._visits.pop(prompt["uid"])

    def _sessions(self, prompt: dict, trajectory: dict) -> int:
        rollout = self.config.actor_rollout_ref.rollout
        return int(prompt.get("__rollout_n__", rollout.val_kwargs.n if trajectory["validate"] else rollout.n))

    def _new_visit(self, prompt: dict, trajectory: dict) -> Visit:
        return Visit(
            step=int(trajectory["step"]),
            split="val" if trajectory["validate"] else "train",
            data_source=prompt["data_source"],
            image_id=str((prompt.get("extra_info") or {}).get("image_id", prompt["index"])),
            image=_first_image(prompt["raw_prompt"]),
            truth=prompt["reward_model"]["ground_truth"],
        )

    # ---------------------------------------------------------------- stage 1: votes and question

    async def _ask(self, prompt: dict, visit: Visit) -> dict | None:
        """The prompt rewritten into a question; None, with the reason in ``visit``, where there is none to ask."""
        started = time.monotonic()
        try:
            return await asyncio.wait_for(self._mine_and_build(prompt, visit), self.settings.mining_timeout)
        except CannotAsk as failure:
            visit.failure, visit.detail = failure.reason, failure.detail
        except asyncio.TimeoutError:
            visit.failure = "mining_timeout"
        except Exception as error:
            logger.exception("divek_verl: image %s could not be asked", visit.image_id)
            visit.failure, visit.detail = type(error).__name__, str(error)
        finally:
            visit.mining_seconds = time.monotonic() - started
        return None

    async def _mine_and_build(self, prompt: dict, visit: Visit) -> dict | None:
        classes = classes_of(prompt["image_root"], visit.data_source)
        # The votes are counted by display name, the row may spell the class otherwise.
        visit.truth = classes.match(visit.truth) or visit.truth
        mined = await self._mine(prompt["raw_prompt"], classes, prompt["uid"])
        _copy_votes(mined, visit)
        training = visit.split == "train"
        question = build_question(
            mined.votes,
            classes,
            truth=visit.truth if training else None,
            num_options=self.settings.num_options,
            skip_easy=self.settings.skip_easy,
            seed=self._seed(visit),
        )
        measures = measure_votes(mined.votes, visit.truth, question)
        for name, value in measures.items():
            setattr(visit, name, value)
        if isinstance(question, Skip):
            visit.skip = question.reason
            return None
        _copy_question(question, visit)
        rewritten = to_multiple_choice(prompt, question, visit.truth, measures)
        rewritten["extra_info"]["step"] = visit.step
        self._check_length(prompt["raw_prompt"], rewritten["raw_prompt"], mined.open_tokens)
        return rewritten

    def _seed(self, visit: Visit) -> str:
        """Training reshuffles at each visit; validation asks the same question in the same order each time."""
        when = f"-{visit.step}" if visit.split == "train" else ""
        return f"{self.settings.seed}-{visit.data_source}-{visit.image_id}{when}"

    async def _mine(self, messages: list[dict], classes: Any, uid: str) -> Mined:
        """K answers to the open question; the picture is read and processed once for all of them."""
        loop = self._single_turn_loop()
        try:
            media = await loop.process_multi_modal_info(messages)
        except Exception as error:
            raise CannotAsk("unreadable_image", error) from error
        try:
            prompt_ids = await loop.ct_build_initial_tokens(messages, images=media.get("images"))
        except ValueError as error:
            raise CannotAsk("overlong_prompt", error) from error
        outputs = await asyncio.gather(
            *(self._sample(uid, index, prompt_ids, media) for index in range(self.settings.num_samples)),
            return_exceptions=True,
        )
        return self._count(outputs, len(prompt_ids), classes)

    def _single_turn_loop(self) -> Any:
        if self._open_loop is None:
            self._open_loop = hydra.utils.instantiate(
                config=_agent_loop_registry["single_turn_agent"],
                trainer_config=DictConfigWrap(config=self.config),
                server_manager=self.llm_client,
                tokenizer=self.tokenizer,
                processor=self.processor,
                hf_model_type=self.hf_model_type,
                dataset_cls=self.dataset_cls,
                data_config=DictConfigWrap(self.config.data),
                tools=ToolListWrap([]),
            )
        return self._open_loop

    async def _sample(self, uid: str, index: int, prompt_ids: list[int], media: dict) -> Any:
        """One of the K answers. One routing id for all K: they go to the replica that has the picture cached."""
        deterministic = self.rollout_config.full_determinism
        params = self._mining_params()
        if deterministic:
            # verl would give all K the engine's one seed, and so K times the same answer.
            params["seed"] = self.rollout_config.seed + index
        return await self.llm_client.generate(
            request_id=f"{uid}-vote-{index}" if deterministic else f"{uid}-votes",
            prompt_ids=prompt_ids,
            sampling_params=params,
            image_data=media.get("images"),
            video_data=None,
            mm_processor_kwargs=self._get_mm_processor_kwargs(),
        )

    def _mining_params(self) -> dict[str, Any]:
        settings = self.settings
        params = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
            "repetition_penalty": settings.repetition_penalty,
        }
        if settings.max_new_tokens is not None:
            params["max_tokens"] = settings.max_new_tokens
        return params

    def _count(self, outputs: list[Any], open_tokens: int, classes: Any) -> Mined:
        """Votes of the K outputs; a failed request counts as unanswered, so that K stays the denominator."""
        done = [output for output in outputs if not isinstance(output, BaseException)]
        errors = [output for output in outputs if isinstance(output, BaseException)]
        if not done:
            raise CannotAsk("sampling_failed", errors[0])
        texts = [self.tokenizer.decode(output.token_ids, skip_special_tokens=True) for output in done]
        limit = self.settings.max_new_tokens or self.rollout_config.response_length
        return Mined(
            votes=count_votes([*texts, *("" for _ in errors)], classes),
            open_tokens=open_tokens,
            policy_version=done[0].extra_fields.get("global_steps"),
            truncated=sum(self._is_cut(output.token_ids, limit) for output in done),
            failed=len(errors),
            cached_tokens=sum(output.extra_fields.get("num_cached_tokens") or 0 for output in done),
            prompt_tokens=open_tokens * len(done),
        )

    def _is_cut(self, token_ids: list[int], limit: int) -> bool:
        return len(token_ids) >= limit and token_ids[-1] != self.tokenizer.eos_token_id

    def _check_length(self, open_prompt: list[dict], question: list[dict], open_tokens: int) -> None:
        """Raise where the question does not fit: the picture's tokens are those of the open prompt."""
        tokens = open_tokens + self._text_tokens(question) - self._text_tokens(open_prompt)
        limit = self.rollout_config.prompt_length
        if tokens > limit:
            raise CannotAsk("overlong_question", ValueError(f"{tokens} tokens, data.max_prompt_length={limit}"))

    def _text_tokens(self, messages: list[dict]) -> int:
        template = (self.processor or self.tokenizer).apply_chat_template
        text = template(messages, add_generation_prompt=True, tokenize=False)
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    # ---------------------------------------------------------------- stage 2: verl's rollouts, watched

    async def _run_agent_loop(self, sampling_params: dict, trajectory: dict, **kwargs: Any) -> Any:
        opened = self._visits.get(kwargs["uid"])
        if opened is None:
            return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)
        try:
            run = super()._run_agent_loop(sampling_params, trajectory, **kwargs)
            return await asyncio.wait_for(run, self.settings.rollout_timeout)
        except Exception as error:
            reason = "rollout_timeout" if isinstance(error, asyncio.TimeoutError) else type(error).__name__
            opened.failures[reason] += 1
            # verl reports a failed group of a training batch itself, but loses a failed validation rollout.
            if not trajectory["validate"]:
                raise
            logger.exception("divek_verl: a validation rollout of %s failed", opened.visit.image_id)
            await self._publish_zero(kwargs, reason)
        finally:
            await self._finish_session(opened)

    async def _finish_session(self, opened: Open) -> None:
        """Write the record with the last rollout, so that it is there before verl publishes the group."""
        opened.sessions_left -= 1
        if opened.sessions_left == 0:
            opened.visit.rollout_seconds = time.monotonic() - opened.started
            opened.visit.rollout_failures = dict(opened.failures)
            await self.recorder.write.remote(opened.visit)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        await super()._agent_loop_postprocess(output, validate, **kwargs)
        opened = self._visits.get(kwargs["uid"])
        if opened is not None:
            self._copy_rollout(output[-1] if isinstance(output, list) else output, opened.visit)

    def _copy_rollout(self, output: AgentLoopOutput, visit: Visit) -> None:
        text = self.tokenizer.decode(output.response_ids, skip_special_tokens=True)
        choice = parse_option(text, len(visit.options))
        visit.completions.append(text)
        visit.choices.append(None if choice is None else chr(ord("A") + choice))
        visit.rewards.append(float(output.reward_score or 0.0))

    # ---------------------------------------------------------------- images without a question

    async def _close_without_rollouts(self, prompt: dict, visit: Visit, trajectory: dict) -> None:
        """Training: a failed group without trajectories, which verl replaces. Validation: zeros, nothing vanishes."""
        await self.recorder.write.remote(visit)
        if trajectory["validate"]:
            for session in range(self._sessions(prompt, trajectory)):
                await self._publish_zero({**prompt, "session_id": session}, visit.reason or "failed")
        status = "finished" if trajectory["validate"] else "failure"
        await tq.async_kv_put(key=prompt["uid"], partition_id=_partition(trajectory), tag={"status": status})

    async def _publish_zero(self, kwargs: dict, reason: str) -> None:
        """Put a validation trajectory that scores 0, with the same keys as any other."""
        hidden = ("agent_name", "__rollout_n__", "__do_sample__")
        fields = {name: value for name, value in kwargs.items() if name not in hidden}
        extra_info = {**(fields.get("extra_info") or {}), "failure": reason}
        extra_info.setdefault("measures", dict(NO_MEASURES))
        truth = fields["reward_model"]["ground_truth"]
        scores = compute_score(fields["data_source"], "", truth, extra_info)
        token = self.tokenizer.eos_token_id
        output = AgentLoopOutput(
            prompt_ids=[token],
            response_ids=[token],
            response_mask=[1],
            response_logprobs=[0.0],
            reward_score=0.0,
            num_turns=2,
            metrics=AgentLoopMetrics(),
            extra_fields={"reward_extra_info": scores, "turn_scores": [], "tool_rewards": []},
        )
        await super()._agent_loop_postprocess(output, True, **{**fields, "extra_info": extra_info})


def _partition(trajectory: dict) -> str:
    return "val" if trajectory["validate"] else "train"


def _first_image(messages: list[dict]) -> str:
    """The path of the first picture, for the record; empty for a picture that is no file."""
    for message in messages:
        for part in message["content"] if not isinstance(message["content"], str) else []:
            if part["type"] == "image":
                image = part["image"]
                return image if isinstance(image, str) and not is_data_url(image) else ""
    return ""


def _copy_votes(mined: Mined, visit: Visit) -> None:
    visit.votes = dict(mined.votes.counts)
    visit.unknown = dict(mined.votes.unknown)
    visit.unanswered = mined.votes.unanswered
    visit.policy_version = mined.policy_version
    visit.truncated, visit.failed_samples = mined.truncated, mined.failed
    visit.cached_tokens, visit.prompt_tokens = mined.cached_tokens, mined.prompt_tokens


def _copy_question(question: Question, visit: Visit) -> None:
    visit.options = list(question.options)
    index = question.options.index(visit.truth) if visit.truth in question.options else None
    visit.answer = None if index is None else chr(ord("A") + index)
    visit.injected = question.truth_injected


class TwoStageAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager with our workers; named by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # verl's own __init__ names its class, so ours is named after it.
        self.agent_loop_workers_class = ray.remote(TwoStageAgentLoopWorker)
