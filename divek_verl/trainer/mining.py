"""Stage 1 in the live policy: K answers to a row's open question through the client that serves verl's rollouts."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import hydra
from PIL import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, DictConfigWrap, ToolListWrap, _agent_loop_registry
from verl.workers.rollout.replica import TokenOutput

from divek_verl.compat import GROUP_FIELD, serves_groups
from divek_verl.labels import ClassNames
from divek_verl.records import FailureReason, QuestionRecord
from divek_verl.settings import Settings
from divek_verl.trainer.prompt_tokens import PromptTokens
from divek_verl.trainer.questions import Message, MiningError
from divek_verl.votes import MinedVotes, count_votes

ABORTED = ("abort", "aborted")
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class OpenPrompt:
    """An open question, tokenized once for all of its K requests."""

    uid: str
    token_ids: list[int]
    images: list[Image.Image] | None
    count: int
    deadline: float
    sampling: Mapping[str, float]


class OnlineMiner:
    """Samples through an agent-loop worker's own client, tokenizer and picture processing.

    Args:
        worker: verl's agent-loop worker (``verl/experimental/agent_loop/agent_loop.py``).
        settings: the ``divek:`` node.
    """

    def __init__(self, worker: Any, settings: Settings) -> None:
        self.worker = worker
        self.settings = settings
        self._loop: AgentLoopBase | None = None
        self._grouped = settings.group_requests and serves_groups(worker.config)

    async def mine(self, messages: list[Message], classes: ClassNames, uid: str, record: QuestionRecord) -> MinedVotes:
        """The votes of K answers; the picture is read and processed once for all of them.

        A failed request counts as unanswered, so that K stays the denominator. Validation also gets one greedy answer
        (``record.greedy``).

        Raises:
            MiningError: no answer came at all.
        """
        deadline = time.monotonic() + self.settings.mining_timeout
        prompt = await self._prepare(messages, uid, self.settings.samples_in(record.split), deadline)
        if record.split == "train":
            return self._count(await self._sample(prompt), prompt, classes, record)
        one = self._sample(replace(prompt, count=1, sampling=GREEDY))
        outputs, greedy = await asyncio.gather(self._sample(prompt), one)
        try:
            record.greedy = self._count(greedy, prompt, classes, record).votes.top_answer
        except MiningError as error:
            record.greedy_failure = str(error.reason)
        return self._count(outputs, prompt, classes, record)

    async def _prepare(self, messages: list[Message], uid: str, count: int, deadline: float) -> OpenPrompt:
        loop = self._single_turn_loop()
        try:
            media = await loop.process_multi_modal_info(messages)
        except Exception as error:
            raise MiningError(FailureReason.UNREADABLE_IMAGE, error) from error
        try:
            token_ids = await asyncio.to_thread(loop.prompt_tokens, messages, media.get("images"))
        except ValueError as error:
            raise MiningError(FailureReason.OVERLONG_PROMPT, error) from error
        names = ("temperature", "top_p", "top_k", "repetition_penalty")
        sampling = {name: getattr(self.settings, name) for name in names}
        return OpenPrompt(uid, token_ids, media.get("images"), count, deadline, sampling)

    def _single_turn_loop(self) -> AgentLoopBase:
        if self._loop is None:
            worker = self.worker
            self._loop = hydra.utils.instantiate(
                config=_agent_loop_registry["single_turn_agent"],
                trainer_config=DictConfigWrap(config=worker.config),
                server_manager=worker.llm_client,
                tokenizer=worker.tokenizer,
                processor=worker.processor,
                hf_model_type=worker.hf_model_type,
                dataset_cls=worker.dataset_cls,
                data_config=DictConfigWrap(worker.config.data),
                tools=ToolListWrap([]),
            )
            self._loop.prompt_tokens = PromptTokens(self._loop)
        return self._loop

    async def _sample(self, prompt: OpenPrompt) -> list[TokenOutput | BaseException]:
        """K outputs, or an exception in the place of one; one that is late is a TimeoutError.

        Nothing is aborted in the engine: that would clear its caches for everybody.
        """
        count = prompt.count
        groups = [(0, count)] if self._grouped else [(index, 1) for index in range(count)]
        tasks = {asyncio.ensure_future(self._request(prompt, *group)): group for group in groups}
        await asyncio.wait(tasks, timeout=max(0.0, prompt.deadline - time.monotonic()))
        outputs: list[TokenOutput | BaseException] = []
        for task, (_, size) in tasks.items():
            if not task.done():
                task.cancel()
                outputs += [asyncio.TimeoutError()] * size
            elif (error := task.exception()) is not None:
                outputs += [error] * size
            else:
                outputs += task.result()
        return outputs

    async def _request(self, prompt: OpenPrompt, index: int, count: int) -> list[TokenOutput]:
        """One request to the engine; all of an image share a routing id, because one replica has its picture cached."""
        settings, rollout = self.settings, self.worker.rollout_config
        params = dict(prompt.sampling)
        if settings.max_new_tokens is not None:
            params["max_tokens"] = settings.max_new_tokens
        if rollout.full_determinism:
            # verl would give all K the engine's one seed, and so K times the same answer.
            params["seed"] = rollout.seed + index
        if count > 1:
            params["n"] = count
        output = await self.worker.llm_client.generate(
            request_id=f"{prompt.uid}-vote-{index}" if rollout.full_determinism else f"{prompt.uid}-votes",
            prompt_ids=prompt.token_ids,
            sampling_params=params,
            image_data=prompt.images,
            video_data=None,
            mm_processor_kwargs=self.worker._get_mm_processor_kwargs(),
        )
        return split_group(output) if count > 1 else [output]

    def _count(
        self,
        outputs: Sequence[TokenOutput | BaseException],
        prompt: OpenPrompt,
        classes: ClassNames,
        record: QuestionRecord,
    ) -> MinedVotes:
        done = [each for each in outputs if not isinstance(each, BaseException) and each.stop_reason not in ABORTED]
        if not done:
            if all(isinstance(output, asyncio.TimeoutError) for output in outputs):
                raise MiningError(FailureReason.MINING_TIMEOUT)
            errors = [output for output in outputs if isinstance(output, BaseException)]
            cause = errors[0] if errors else RuntimeError("the engine aborted all requests")
            raise MiningError(FailureReason.SAMPLING_FAILED, cause)
        lost = len(outputs) - len(done)
        tokenizer = self.worker.tokenizer
        texts = [tokenizer.decode(output.token_ids, skip_special_tokens=True) for output in done]
        limit = self.settings.max_new_tokens or self.worker.rollout_config.response_length
        versions = [version for version in map(_oldest_version, done) if version is not None]
        return MinedVotes(
            record.data_source,
            record.image_id,
            count_votes([*texts, *[""] * lost], classes),
            step=record.step,
            policy_version=min(versions, default=None),
            truncated=sum(is_truncated(output.token_ids, limit, tokenizer.eos_token_id) for output in done),
            failed=lost,
            open_tokens=len(prompt.token_ids),
            prompt_tokens=len(prompt.token_ids) * len(done),
            cached_tokens=sum(output.extra_fields.get("num_cached_tokens") or 0 for output in done),
        )


def is_truncated(token_ids: Sequence[int], limit: int, end: int) -> bool:
    """Whether an answer fills its token limit without an end."""
    return len(token_ids) >= limit and token_ids[-1] != end


def split_group(output: TokenOutput) -> list[TokenOutput]:
    """One output for each completion of a request with n > 1 (compat.py: serve_groups).

    The engine reports the cached tokens of one completion, the one that ended last. Each completion gets that number,
    so that the mean over many images is right.

    Raises:
        RuntimeError: the engine's process has not loaded this plugin.
    """
    if GROUP_FIELD not in output.extra_fields:
        raise RuntimeError("the rollout engine answered a group with one completion: set divek.group_requests=false")
    group = output.extra_fields.pop(GROUP_FIELD)
    return [output.model_copy(update={"token_ids": tokens, "stop_reason": reason}) for tokens, reason in group]


def _oldest_version(output: TokenOutput) -> int | None:
    """A request that continues after a weight sync has two versions; the votes are as old as the older one."""
    oldest: int | None = output.extra_fields.get("min_global_steps")
    return output.extra_fields.get("global_steps") if oldest is None else oldest
