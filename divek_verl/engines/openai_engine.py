"""A model behind an OpenAI-compatible server: a running vLLM, another model's API, whatever speaks the protocol."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from divek_verl.engines.base import Reply, Request, Sampling, Slots, says_overlong, seed_of
from divek_verl.engines.options import EngineOptions
from divek_verl.engines.pictures import to_chat
from divek_verl.errors import SetupError
from divek_verl.images import UnreadableImage

# Local servers want no key, the client wants one.
NO_KEY = "none"
# Beyond OpenAI's own protocol; sent only where they change anything.
EXTENSIONS = {"top_k": -1, "repetition_penalty": 1.0}
LONGEST_PAUSE = 8.0


class MalformedReply(Exception):
    """The server's answer is no chat completion."""


class OpenAIEngine:
    """Answers through ``/chat/completions``: one request with n samples, or n requests where the server gives one each.

    The client repeats what can be repeated (429, 5xx, lost connections) with growing pauses.
    """

    def __init__(self, client: Any, options: EngineOptions) -> None:
        self.model = options.model
        self._client = client
        self._options = options
        self._slots = Slots(options.max_images_in_flight, options.timeout)
        self._gives_several = True

    @classmethod
    async def start(cls, options: EngineOptions) -> "OpenAIEngine":
        """Raises SetupError where nothing answers at the address, or the key is refused."""
        from openai import APIConnectionError, APIStatusError, AsyncOpenAI

        key = os.environ.get(options.api_key_variable) or NO_KEY
        client = AsyncOpenAI(
            base_url=options.base_url, api_key=key, timeout=options.timeout, max_retries=options.retries
        )
        engine = cls(client, options)
        try:
            await client.models.list()
        except APIConnectionError as error:
            await client.close()
            raise SetupError(
                f"Nothing answers at {options.base_url} ({error}): start the server, or correct it."
            ) from error
        except APIStatusError as error:
            if error.status_code in (401, 403):
                await client.close()
                raise engine._wrong_setup(error) from error
            # A server need not list its models.
        return engine

    async def generate(self, request: Request, sampling: Sampling) -> Reply:
        """The samples of one request; where some of them failed, those that came, and the reason of the others.

        Raises:
            SetupError: the server refuses the key, the model or a sampling option, as it would for every request.
        """
        return await self._slots.run(request, self._generate(request, sampling))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _generate(self, request: Request, sampling: Sampling) -> Reply:
        try:
            messages = await asyncio.get_running_loop().run_in_executor(None, to_chat, request.messages)
        except UnreadableImage as error:
            return Reply(request.key, failure="unreadable_image", detail=str(error))
        arguments = self._arguments(messages, sampling)
        seed = seed_of(sampling, request.key)
        replies = [await self._one(request.key, arguments, seed, request.count if self._gives_several else 1)]
        missing = request.count - len(replies[0].texts)
        if replies[0].texts and missing > 0:
            # It gave fewer than were asked for, so it gives one each.
            self._gives_several = False
            seeds = [None if seed is None else seed + index for index in range(request.count - missing, request.count)]
            replies += await asyncio.gather(*(self._one(request.key, arguments, each, 1) for each in seeds))
        return _merged(request.key, replies)

    def _arguments(self, messages: list[dict[str, Any]], sampling: Sampling) -> dict[str, Any]:
        extensions = {name: getattr(sampling, name) for name in EXTENSIONS}
        return {
            "model": self.model,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "extra_body": {name: value for name, value in extensions.items() if value != EXTENSIONS[name]},
        }

    async def _one(self, key: str, arguments: dict[str, Any], seed: int | None, count: int) -> Reply:
        """One request; what it costs in time and repetitions is bounded by the client and the slot."""
        import openai

        if seed is not None:
            arguments = {**arguments, "seed": seed}
        try:
            return await self._completed(key, arguments, count)
        except openai.APITimeoutError as error:
            return Reply(key, failure="timeout", detail=str(error))
        except openai.APIConnectionError as error:
            return Reply(key, failure="connection_failed", detail=f"{error}: {error.__cause__}")
        except MalformedReply as error:
            return Reply(key, failure="malformed_reply", detail=str(error))
        except openai.APIStatusError as error:
            if count > 1 and error.status_code in (400, 422) and _names(error, "n"):
                self._gives_several = False
                return await self._one(key, arguments, seed, 1)
            return self._refused(key, error)

    async def _completed(self, key: str, arguments: dict[str, Any], count: int) -> Reply:
        for attempt in range(self._options.retries + 1):
            try:
                # `n` only where it says something: servers that cannot count refuse it.
                several = {"n": count} if count > 1 else {}
                return _reply(key, await self._client.chat.completions.create(**arguments, **several))
            except (MalformedReply, ValueError) as error:
                problem = MalformedReply(f"{type(error).__name__}: {error}")
                await asyncio.sleep(min(LONGEST_PAUSE, 0.5 * 2**attempt) if attempt < self._options.retries else 0)
        raise problem

    def _refused(self, key: str, error: Any) -> Reply:
        detail = str(error)
        if error.status_code in (401, 403, 404) or any(_names(error, name) for name in EXTENSIONS):
            raise self._wrong_setup(error) from error
        if error.status_code == 429:
            return Reply(key, failure="rate_limited", detail=detail)
        if error.status_code >= 500:
            return Reply(key, failure="server_error", detail=detail)
        return Reply(key, failure="overlong_prompt" if says_overlong(detail) else "refused_request", detail=detail)

    def _wrong_setup(self, error: Any) -> SetupError:
        address, status = self._options.base_url, error.status_code
        if status in (401, 403):
            variable = self._options.api_key_variable
            return SetupError(f"{address} refuses the key in ${variable} (status {status}): set the right one.")
        if status == 404:
            return SetupError(f"{address} knows no model {self.model!r} or no chat completions: correct either.")
        return SetupError(
            f"{address} does not take a sampling option ({error}): leave it out with --top-k -1 --repetition-penalty 1."
        )


def _names(error: Any, parameter: str) -> bool:
    """Whether a refusal is about ``parameter``; servers say so in ``param`` or only in words."""
    return (
        error.param == parameter or (len(parameter) > 1 and parameter in str(error)) or f"'{parameter}'" in str(error)
    )


def _reply(key: str, completion: Any) -> Reply:
    """Raises MalformedReply; the client lets through what is JSON of another form, and text."""
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise MalformedReply(f"no choices in {str(completion)[:200]!r}")
    texts = [_text(choice) for choice in choices]
    usage = getattr(completion, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return Reply(
        key,
        texts=tuple(texts),
        truncated=sum(getattr(choice, "finish_reason", None) == "length" for choice in choices),
        prompt_tokens=getattr(usage, "prompt_tokens", None) or 0,
        cached_tokens=getattr(details, "cached_tokens", None),
        output_tokens=getattr(usage, "completion_tokens", None) or 0,
    )


def _text(choice: Any) -> str:
    """A completion that was cut before it said anything has no content: the empty text, and so unanswered."""
    message = getattr(choice, "message", None)
    content = getattr(message, "content", None)
    if message is None or not isinstance(content, str | None):
        raise MalformedReply(f"no message in {str(choice)[:200]!r}")
    return content or ""


def _merged(key: str, replies: Sequence[Reply]) -> Reply:
    """One reply of several requests about one prompt; the first failure stands for all."""
    failed = next((reply for reply in replies if reply.failure is not None), None)
    return Reply(
        key,
        texts=tuple(text for reply in replies for text in reply.texts),
        truncated=sum(reply.truncated for reply in replies),
        prompt_tokens=max(reply.prompt_tokens for reply in replies),
        cached_tokens=replies[-1].cached_tokens,
        output_tokens=sum(reply.output_tokens for reply in replies),
        failure=None if failed is None else failed.failure,
        detail=None if failed is None else failed.detail,
    )
