"""An engine that answers by a script, for what must not depend on a model: counting, resuming, failing by name."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from divek_verl.engines.base import Reply, Request, Sampling

Answer = Callable[[Request, Sampling], Reply]


def prompt_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The words of the last message."""
    return " ".join(part["text"] for part in messages[-1]["content"] if part["type"] == "text")


def says(*answers: str) -> tuple[str, ...]:
    """Completions with these answers."""
    return tuple(f"<think>because</think><answer>{answer}</answer>" for answer in answers)


class ScriptedEngine:
    """Answers with ``answer(request, sampling)``, after a wait that differs from request to request.

    Attributes:
        requests: all that it was asked, in order.
        most_at_work: the most requests that were at work at one time.
    """

    model = "scripted"

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[Request] = []
        self.closed = False
        self.most_at_work = 0
        self._at_work = 0

    async def generate(self, request: Request, sampling: Sampling) -> Reply:
        self.requests.append(request)
        self._at_work += 1
        self.most_at_work = max(self.most_at_work, self._at_work)
        for _ in range(random.Random(request.key).randrange(5)):
            await asyncio.sleep(0)
        self._at_work -= 1
        return self._answer(request, sampling)

    async def close(self) -> None:
        self.closed = True


def seeded_policy(names: Sequence[str]) -> Answer:
    """Draws answers and choices by the seed and the key of each request, as a sampler does."""

    def answer(request: Request, sampling: Sampling) -> Reply:
        rng = random.Random(f"{sampling.seed}-{request.key}")
        if request.key.endswith("/choice"):
            letters = prompt_text(request.messages).count("\n")
            texts = says(rng.choice("ABCDEFGHIJ"[: max(1, letters)]))
        else:
            drawn = [rng.choice([*names, "something else", ""]) for _ in range(request.count)]
            texts = says(*drawn)
        return Reply(request.key, texts, prompt_tokens=10, output_tokens=3 * len(texts))

    return answer
