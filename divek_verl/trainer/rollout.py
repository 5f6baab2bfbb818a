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
from pathlib import Path
from typing import Any

import ray
import transfer_queue as tq
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from divek_verl.answers import parse_option
from divek_verl.class_lists import classes_of
from divek_verl.images import is_data_url
from divek_verl.labels import ClassNames
from divek_verl.measures import NO_MEASURES, measure_votes
from divek_verl.option_sources import build_option_source
from divek_verl.prompts import is_ours
from divek_verl.question import Question, Skip, build_question
from divek_verl.records import Visit, shared_recorder
from divek_verl.reward import compute_score
from divek_verl.settings import Settings, read_settings
from divek_verl.trainer.dataset import to_multiple_choice
from divek_verl.trainer.mining import CannotAsk, Mined, OnlineMiner
from divek_verl.trainer.vote_origin import votes_origin
from divek_verl.trainer.vote_store import CHECKPOINT_FILE, fill_store, restore_votes, resumed_folder, start_store
from divek_verl.votes import Votes
from divek_verl.votes_file import MinedVotes, read_votes_file
from divek_verl.waves import should_stop

logger = logging.getLogger(__name__)

# Ray wraps the class that it makes an actor of; its subclass is made from the class underneath.
_VerlWorker = AgentLoopWorkerTQ.__ray_metadata__.modified_class
# Seconds beyond divek.mining_timeout for what is not sampling: reading the picture, asking the vote store.
GRACE = 30.0


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
        self.miner = OnlineMiner(self, self.settings)
        self.source = build_option_source(
            self.settings.option_source, mixed_with=self.settings.mixed_with, text_encoder=self.settings.text_encoder
        )
        self.store = start_store(self.settings.max_vote_age) if self.settings.reuses_votes else None
        self._slots = asyncio.Semaphore(self.settings.max_images_in_flight)
        self._visits: dict[str, Open] = {}

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
        # The prompt stays "pending" until its rollouts start: a message to the queue less, and verl tells the two
        # apart nowhere.
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
            return await asyncio.wait_for(self._mine_and_build(prompt, visit), self.settings.mining_timeout + GRACE)
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
        mined = await self._votes_on(prompt, visit, classes)
        # In a thread, because the first use of a text encoder loads it and this loop serves all other images.
        question = await asyncio.to_thread(self._build, mined.votes, visit, classes)
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

    async def _votes_on(self, prompt: dict, visit: Visit, classes: ClassNames) -> Mined:
        """The votes on one image: young enough ones of the store, or K new answers of the policy."""
        training = visit.split == "train"
        if training and not self.settings.samples_votes:
            visit.votes_from = "nowhere"
            return Mined(Votes({}), open_tokens=0)
        stored = await self._stored(visit) if training else None
        if stored is not None:
            mined = stored
        else:
            stop = await asyncio.to_thread(self._stop_rule, visit, classes) if training else None
            mined = await self.miner.mine(prompt["raw_prompt"], classes, prompt["uid"], stop)
            if training and self.store is not None:
                await self.store.put.remote(_to_store(mined, visit))
        _copy_votes(mined, visit)
        return mined

    async def _stored(self, visit: Visit) -> Mined | None:
        if self.store is None:
            return None
        # The version that answers in this step; the trainer's own word, through the sampler, may be newer.
        version = max(0, visit.step - 1)
        found = await self.store.look_up.remote(visit.data_source, visit.image_id, version)
        if found is None:
            return None
        stored, visit.vote_age = found
        visit.votes_from = "store"
        return Mined(stored.votes, stored.open_tokens, stored.policy_version, stored.truncated, stored.failed)

    def _stop_rule(self, visit: Visit, classes: ClassNames) -> Any:
        if self.settings.stop_confidence is None:
            return None
        seed = self._seed(visit)
        # Options that no vote can change are known beforehand: what is decided early is the verdict "easy".
        ranking = None if self.source.uses_votes else self._rank(Votes({}), visit, classes)

        def stop(votes: Votes, left: int) -> bool:
            return should_stop(
                votes,
                left,
                self.settings.stop_confidence or 1.0,
                classes=classes,
                truth=visit.truth,
                seed=seed,
                ranking=ranking,
                **self._question_settings(),
            )

        return stop

    def _question_settings(self) -> dict[str, Any]:
        settings = self.settings
        names = ("num_options", "min_options", "auto_share", "auto_max_options", "skip_easy")
        return {name: getattr(settings, name) for name in names}

    def _build(self, votes: Votes, visit: Visit, classes: ClassNames) -> Question | Skip:
        """Training: the truth among the options, which ``divek.option_source`` names. Validation: the votes alone."""
        training = visit.split == "train"
        return build_question(
            votes,
            classes,
            truth=visit.truth if training else None,
            seed=self._seed(visit),
            ranking=self._rank(votes, visit, classes) if training else None,
            **self._question_settings(),
        )

    def _rank(self, votes: Votes, visit: Visit, classes: ClassNames) -> list[str]:
        most = self.settings.most_options
        return self.source.rank(votes, classes, truth=visit.truth, num_options=most, seed=self._seed(visit))

    def _seed(self, visit: Visit) -> str:
        """Training reshuffles at each visit; validation asks the same question in the same order each time."""
        when = f"-{visit.step}" if visit.split == "train" else ""
        return f"{self.settings.seed}-{visit.data_source}-{visit.image_id}{when}"

    def _check_length(self, open_prompt: list[dict], question: list[dict], open_tokens: int) -> None:
        """Raise where the question does not fit: the picture's tokens are those of the open prompt.

        Where the length of that is not known (votes from nowhere, or of an older file), verl's own check is left to it.
        """
        if not open_tokens:
            return
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

    async def _publish_zero(self, kwargs: dict, reason: str, validate: bool = True) -> None:
        """Put a trajectory that scores 0, with the same keys as any other; training has no use for one."""
        hidden = ("agent_name", "__rollout_n__", "__do_sample__")
        fields = {name: value for name, value in kwargs.items() if name not in hidden}
        extra_info = {**(fields.get("extra_info") or {}), "failure": reason}
        extra_info.setdefault("measures", dict(NO_MEASURES))
        truth = fields["reward_model"]["ground_truth"]
        scores = compute_score(fields["data_source"], "", truth, extra_info)
        token = self.tokenizer.eos_token_id
        # As every rollout tells the weights that answered it; here, those that would have.
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
        await super()._agent_loop_postprocess(output, validate, **{**fields, "extra_info": extra_info})


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
    visit.waves = mined.waves


def _to_store(mined: Mined, visit: Visit) -> MinedVotes:
    return MinedVotes(
        visit.data_source,
        visit.image_id,
        mined.votes,
        step=visit.step,
        policy_version=mined.policy_version if mined.policy_version is not None else max(0, visit.step - 1),
        truncated=mined.truncated,
        failed=mined.failed,
        open_tokens=mined.open_tokens,
    )


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
        # The store has its votes before the first worker asks for any.
        self.store = prepare_store(self.config)


def prepare_store(config: Any) -> Any | None:
    """The run's vote store with the votes of ``divek.votes_file`` and of the checkpoint that verl resumes from.

    The checkpoint's votes come last: they are the newer ones. None where every visit mines.
    """
    settings = read_settings(config.divek)
    if not settings.reuses_votes:
        return None
    store = start_store(settings.max_vote_age)
    if settings.votes_file is not None:
        path = Path(settings.votes_file).expanduser()
        print(f"divek_verl: {fill_store(store, read_votes_file(path), path)}")
    folder = resumed_folder(config.trainer)
    if folder is not None:
        print(f"divek_verl: {restore_votes(store, folder / CHECKPOINT_FILE, votes_origin(config))}")
    return store
