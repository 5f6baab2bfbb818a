"""What answers a question about a picture: one interface for a local engine and for a server.

Mining, evaluation and prediction are written against it. All of it is asynchronous, so that every image can be in
flight at once and the second step of one image does not wait for the first step of another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; the defaults are those of the K answers (the paper's mining).

    ``max_new_tokens`` bounds one completion. ``seed``: None draws anew each time; with a number, a request's own seed
    is derived from it and from the request's key, so that it does not depend on the order of requests.
    """

    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = -1
    repetition_penalty: float = 1.1
    max_new_tokens: int = 1024
    seed: int | None = None


@dataclass(frozen=True)
class Request:
    """``count`` completions of one conversation.

    Attributes:
        key: unique in a run; names the request in errors, seeds and caches.
        messages: chat messages as ``DiveKDataset`` builds them: a picture is
            ``{"type": "image", "image": path or PIL image, "min_pixels": ..., "max_pixels": ...}`` before the text.
        count: completions, n.
    """

    key: str
    messages: Sequence[Mapping[str, Any]]
    count: int = 1


@dataclass(frozen=True)
class Reply:
    """What came back for one request: completions, or the named reason why there are none.

    ``prompt_tokens`` are those of the one prompt; ``cached_tokens`` is what the last of the completions found of them
    in the cache, None where an engine does not say. ``truncated`` completions ended at the token limit. An expected
    failure (unreadable image, overlong prompt, time-out, refused by a server) is data: ``failure`` names it, ``detail``
    says more. A failure beside completions means that only these came.
    """

    key: str
    texts: tuple[str, ...] = ()
    truncated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0
    failure: str | None = None
    detail: str | None = None


class Engine(Protocol):
    """A model that can be asked. ``model`` names it in records: a path or a server's model name."""

    model: str

    async def generate(self, request: Request, sampling: Sampling) -> Reply:
        """The completions of one request; never raises for an expected failure."""
        ...

    async def close(self) -> None:
        """End what the engine started."""
        ...
