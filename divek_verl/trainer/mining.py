"""Stage 1 in the live policy: K answers to a row's open question through the client that serves verl's rollouts."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hydra
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap, _agent_loop_registry

from divek_verl.compat import GROUP_FIELD, serves_groups
from divek_verl.labels import ClassNames
from divek_verl.settings import Settings
from divek_verl.trainer.prompt_tokens import PromptTokens
from divek_verl.votes import Votes, count_votes

ABORTED = ("abort", "aborted")


class CannotAsk(Exception):
    """An expected failure of one image, with the reason under which it is counted."""

    def __init__(self, reason: str, detail: object = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = None if detail is None else f"{type(detail).__name__}: {detail}"


@dataclass
class Mined:
    """What the samples of one open question brought.

    ``policy_version``: of the oldest weights that answered. ``waves``: in how many turns the samples were drawn.
    """

    votes: Votes
    open_tokens: int
    policy_version: int | None = None
    truncated: int = 0
    failed: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    waves: int = 1


@dataclass(frozen=True)
class OpenPrompt:
    """An open question made ready once for all of its K requests."""

    uid: str
    token_ids: list[int]
    images: Any
    deadline: float

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


# (votes so far, samples still to come) -> whether the next wave may be left out
StopRule = Callable[[Votes, int], bool]


class OnlineMiner:
    """Mines through an agent-loop worker's own client, tokenizer and picture processing.

    Args:
        worker: verl's agent-loop worker (``verl/experimental/agent_loop/agent_loop.py``).
        settings: the ``divek:`` node.
    """

    def __init__(self, worker: Any, settings: Settings) -> None:
        self.worker = worker
        self.settings = settings
        self._loop: Any = None
        self._prompt_tokens: Any = None
        self._grouped = settings.group_requests and serves_groups(worker.config)

    async def mine(self, messages: list[dict], classes: ClassNames, uid: str, stop: StopRule | None = None) -> Mined:
        """The votes of K answers; the picture is read and processed once for all of them.

        A failed request counts as unanswered, so that K stays the denominator. With ``stop``, the samples are drawn in
        ``divek.waves``, and the rest is left out as soon as it says so.

        Raises:
            CannotAsk: no answer came at all, with the reason.
        """
        deadline = time.monotonic() + self.settings.mining_timeout
        prompt = await self._prepare(messages, uid, deadline)
        sizes = self.settings.waves if stop and self.settings.waves else (self.settings.num_samples,)
        outputs: list[Any] = []
        for wave, size in enumerate(sizes, start=1):
            outputs += await self._sample(prompt, len(outputs), size)
            left = sum(sizes[wave:])
            if left and stop is not None and stop(self._count(outputs, prompt, classes).votes, left):
                break
        mined = self._count(outputs, prompt, classes)
        mined.waves = wave
        return mined

    async def _prepare(self, messages: list[dict], uid: str, deadline: float) -> OpenPrompt:
        loop = self._single_turn_loop()
        try:
            media = await loop.process_multi_modal_info(messages)
        except Exception as error:
            raise CannotAsk("unreadable_image", error) from error
        try:
            token_ids = await asyncio.to_thread(self._prompt_tokens, messages, media.get("images"))
        except ValueError as error:
            raise CannotAsk("overlong_prompt", error) from error
        return OpenPrompt(uid, token_ids, media.get("images"), deadline)

    def _single_turn_loop(self) -> Any:
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
            self._prompt_tokens = PromptTokens(self._loop)
        return self._loop

    async def _sample(self, prompt: OpenPrompt, first: int, count: int) -> list[Any]:
        """``count`` outputs, or the exception in the place of one; what is not there in time is a TimeoutError.

        Nothing is aborted in the engine: that would clear its caches for everybody.
        """
        groups = [(first, count)] if self._grouped else [(first + index, 1) for index in range(count)]
        tasks = {asyncio.ensure_future(self._request(prompt, *group)): group for group in groups}
        await asyncio.wait(tasks, timeout=prompt.seconds_left)
        outputs: list[Any] = []
        for task, (_, size) in tasks.items():
            if not task.done():
                task.cancel()
                outputs += [asyncio.TimeoutError()] * size
            elif (error := task.exception()) is not None:
                outputs += [error] * size
            else:
                outputs += task.result()
        return outputs

    async def _request(self, prompt: OpenPrompt, index: int, count: int) -> list[Any]:
        """One request of the engine. One routing id for all of an image: its replica has the picture cached."""
        deterministic = self.worker.rollout_config.full_determinism
        params = self._sampling_params()
        if deterministic:
            # verl would give all K the engine's one seed, and so K times the same answer.
            params["seed"] = self.worker.rollout_config.seed + index
        if count > 1:
            params["n"] = count
        output = await self.worker.llm_client.generate(
            request_id=f"{prompt.uid}-vote-{index}" if deterministic else f"{prompt.uid}-votes",
            prompt_ids=prompt.token_ids,
            sampling_params=params,
            image_data=prompt.images,
            video_data=None,
            mm_processor_kwargs=self.worker._get_mm_processor_kwargs(),
        )
        return split_group(output) if count > 1 else [output]

    def _sampling_params(self) -> dict[str, Any]:
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

    def _count(self, outputs: Sequence[Any], prompt: OpenPrompt, classes: ClassNames) -> Mined:
        done = [output for output in outputs if _came(output)]
        lost = [output for output in outputs if not _came(output)]
        if not done:
            raise _no_answer(lost)
        decode = self.worker.tokenizer.decode
        texts = [decode(output.token_ids, skip_special_tokens=True) for output in done]
        limit = self.settings.max_new_tokens or self.worker.rollout_config.response_length
        versions = [version for version in map(_oldest_version, done) if version is not None]
        return Mined(
            votes=count_votes([*texts, *("" for _ in lost)], classes),
            open_tokens=len(prompt.token_ids),
            policy_version=min(versions, default=None),
            truncated=sum(self._is_cut(output.token_ids, limit) for output in done),
            failed=len(lost),
            cached_tokens=sum(output.extra_fields.get("num_cached_tokens") or 0 for output in done),
            prompt_tokens=len(prompt.token_ids) * len(done),
        )

    def _is_cut(self, token_ids: Sequence[int], limit: int) -> bool:
        return len(token_ids) >= limit and token_ids[-1] != self.worker.tokenizer.eos_token_id


def split_group(output: Any) -> list[Any]:
    """One output for each completion of a request with n > 1 (see compat.py: serve_groups).

    The engine tells the cached tokens of one of them, the one that ended last. Which that is, is chance, so that the
    mean over many images is right where each completion is given that number.

    Raises:
        RuntimeError: the engine's process has not loaded this plugin.
    """
    if GROUP_FIELD not in output.extra_fields:
        raise RuntimeError("the rollout engine answered a group with one completion: set divek.group_requests=false")
    group = output.extra_fields.pop(GROUP_FIELD)
    return [output.model_copy(update={"token_ids": tokens, "stop_reason": reason}) for tokens, reason in group]


def _came(output: Any) -> bool:
    return not isinstance(output, BaseException) and output.stop_reason not in ABORTED


def _no_answer(lost: Sequence[Any]) -> CannotAsk:
    if all(isinstance(output, asyncio.TimeoutError) for output in lost):
        return CannotAsk("mining_timeout")
    errors = [output for output in lost if isinstance(output, BaseException)]
    return CannotAsk("sampling_failed", errors[0] if errors else RuntimeError("the engine aborted all requests"))


def _oldest_version(output: Any) -> int | None:
    """A request that went on after a weight sync has two versions; the votes are as old as the older one."""
    oldest = output.extra_fields.get("min_global_steps")
    return output.extra_fields.get("global_steps") if oldest is None else oldest
