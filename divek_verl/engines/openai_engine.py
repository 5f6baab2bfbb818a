"""A model behind an OpenAI-compatible server: a running vLLM, or another model's API."""

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from divek_verl.engines.base import Reply, Request, Sampling, Slots, says_overlong, seed_of
from divek_verl.engines.client import NO_KEY, address, open_client, said, token_count
from divek_verl.engines.options import EngineOptions
from divek_verl.engines.pictures import to_chat
from divek_verl.errors import SetupError
from divek_verl.files import without_surrogates
from divek_verl.records import FailureReason

if TYPE_CHECKING:
    from openai import APIStatusError

# Not in OpenAI's own protocol: sent only when they differ from these values, which change nothing.
EXTENSIONS = {"top_k": -1, "repetition_penalty": 1.0}
MAX_PAUSE_S = 8.0
START_TIMEOUT_S = 60.0
# A token has about four characters; most of them stay far below this.
CHARACTERS_PER_TOKEN = 32


class OpenAIEngine:
    """Answers through ``/chat/completions``: one request with n samples, or n requests if the server gives one each.

    The client repeats requests that failed for a passing reason (429, 5xx, lost connections) with growing pauses.
    """

    def __init__(self, client: Any, options: EngineOptions, key: str = NO_KEY) -> None:
        self.model = options.model
        self._key = key
        self._client = client
        self._options = options
        self._slots = Slots(options.max_images_in_flight, options.timeout)
        self._gives_several = True

    @classmethod
    async def start(cls, options: EngineOptions) -> "OpenAIEngine":
        """Raises SetupError if nothing answers at the address, or the key is refused."""
        from openai import APIConnectionError, APIStatusError

        key = os.environ.get(options.api_key_variable) or NO_KEY
        client = open_client(options.base_url, key, options.timeout, options.retries)
        engine = cls(client, options, key)
        try:
            await asyncio.wait_for(client.models.list(), min(options.timeout, START_TIMEOUT_S))
        except (APIConnectionError, asyncio.TimeoutError) as error:
            await client.close()
            cause = engine._said(error) or "it does not answer in time"
            raise SetupError(
                f"Nothing answers at {address(options.base_url or '')} ({cause}): start the server, or correct the "
                "address."
            ) from None
        except APIStatusError as error:
            # Servers need not list their models, so other refusals mean nothing.
            if error.status_code in (401, 403):
                await client.close()
                raise engine._setup_error(error) from None
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass  # a list that the client cannot read
        return engine

    async def generate(self, request: Request, sampling: Sampling) -> Reply:
        """The samples of one request; a SetupError if the server refuses what every request has."""
        return await self._slots.run(request, self._generate(request, sampling))

    async def close(self) -> None:
        await self._client.close()

    async def _generate(self, request: Request, sampling: Sampling) -> Reply:
        messages = await asyncio.to_thread(to_chat, request.messages)
        extensions = {name: getattr(sampling, name) for name in EXTENSIONS}
        arguments = {
            "model": self.model,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "extra_body": {name: value for name, value in extensions.items() if value != EXTENSIONS[name]},
        }
        seed = seed_of(sampling, request.key)
        replies = [await self._ask(request.key, arguments, seed, request.count if self._gives_several else 1)]
        missing = request.count - len(replies[0].texts)
        if replies[0].texts and missing > 0:
            # The server ignores `n`, so every sample is a request of its own.
            self._gives_several = False
            seeds = [None if seed is None else seed + index for index in range(request.count - missing, request.count)]
            replies += await asyncio.gather(*(self._ask(request.key, arguments, each, 1) for each in seeds))
        return _merged(request.key, replies)

    async def _ask(self, key: str, arguments: dict[str, Any], seed: int | None, count: int) -> Reply:
        """One request; the client and the slot bound its time and its repetitions."""
        import openai

        if seed is not None:
            arguments = {**arguments, "seed": seed}
        # Some servers refuse any `n`, so it is sent only when it is needed.
        several = {"n": count} if count > 1 else {}
        detail = ""
        try:
            for attempt in range(self._options.retries + 1):
                try:
                    completion = await self._client.chat.completions.create(**arguments, **several)
                    return _reply(key, completion, count, arguments["max_tokens"])
                except (ValueError, RecursionError) as error:
                    detail = self._said(f"{type(error).__name__}: {error}")
                    await asyncio.sleep(min(MAX_PAUSE_S, 0.5 * 2**attempt) if attempt < self._options.retries else 0)
            return Reply(key, failure=FailureReason.MALFORMED_REPLY, detail=detail)
        except openai.APITimeoutError as error:
            return Reply(key, failure=FailureReason.TIMEOUT, detail=self._said(error))
        except openai.APIConnectionError as error:
            detail = self._said(f"{error}: {error.__cause__}")
            return Reply(key, failure=FailureReason.CONNECTION_FAILED, detail=detail)
        except openai.APIStatusError as error:
            detail, status = self._said(error), error.status_code
            if count > 1 and status in (400, 422) and _is_about(error, "n"):
                self._gives_several = False
                return await self._ask(key, arguments, seed, 1)
            if status in (401, 403, 404) or any(_is_about(error, name) for name in EXTENSIONS):
                raise self._setup_error(error) from None
            reason = FailureReason.SERVER_ERROR if status >= 500 else FailureReason.REFUSED_REQUEST
            if status == 429:
                reason = FailureReason.RATE_LIMITED
            elif status < 500 and says_overlong(str(error)):
                reason = FailureReason.OVERLONG_PROMPT
            return Reply(key, failure=reason, detail=detail)

    def _said(self, error: object) -> str:
        return said(error, self._key, self._options.base_url)

    def _setup_error(self, error: "APIStatusError") -> SetupError:
        server, status = address(self._options.base_url or ""), error.status_code
        if status in (401, 403):
            variable = self._options.api_key_variable
            return SetupError(f"{server} refuses the key in ${variable} (status {status}): set the right one.")
        if status == 404:
            return SetupError(f"{server} knows no model {self.model!r} or no chat completions: correct one of them.")
        return SetupError(
            f"{server} does not take a sampling option ({self._said(error)}): leave it out with --top-k -1 "
            "--repetition-penalty 1."
        )


def _is_about(error: "APIStatusError", parameter: str) -> bool:
    """Whether a refusal is about ``parameter``; servers say so in ``param`` or only in words."""
    said = str(error)
    return error.param == parameter or (len(parameter) > 1 and parameter in said) or f"'{parameter}'" in said


def _reply(key: str, completion: object, count: int, max_tokens: int) -> Reply:
    """At most ``count`` samples; raises ValueError: the client also returns text, and JSON of any other form."""
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"no choices in {str(completion)[:200]!r}")
    texts, kept = [], choices[:count]
    for choice in kept:
        message = getattr(choice, "message", None)
        content = getattr(message, "content", None)
        if message is None or not isinstance(content, str | None):
            raise ValueError(f"no message in {str(choice)[:200]!r}")
        # A completion that was cut before its first word has no content: it counts as unanswered.
        texts.append(without_surrogates((content or "")[: CHARACTERS_PER_TOKEN * max_tokens]))
    usage = getattr(completion, "usage", None)
    cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
    return Reply(
        key,
        texts=tuple(texts),
        truncated=sum(getattr(choice, "finish_reason", None) == "length" for choice in kept),
        prompt_tokens=token_count(getattr(usage, "prompt_tokens", None)),
        cached_tokens=None if cached is None else token_count(cached),
        output_tokens=token_count(getattr(usage, "completion_tokens", None)),
        surplus=len(choices) - len(kept),
    )


def _merged(key: str, replies: Sequence[Reply]) -> Reply:
    """One reply for several requests about one prompt, with the first failure."""
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
        surplus=sum(reply.surplus for reply in replies),
    )
