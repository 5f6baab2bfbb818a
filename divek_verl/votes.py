"""How often each class was answered in the K samples of one image."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from numbers import Integral
from typing import Any

from divek_verl.answers import parse_answer
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames

LARGEST_COUNT = 10**9


@dataclass(frozen=True)
class Votes:
    """The answers of K completions to one open question; nothing that was sampled disappears.

    Attributes:
        counts: completions per class of the class list, highest count first, ties in the order first seen.
        unknown: completions per answer that is no class of the list, as answered and ranked likewise.
        unanswered: completions without an answer.
    """

    counts: Mapping[str, int]
    unknown: Mapping[str, int] = field(default_factory=dict)
    unanswered: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", _ranked("counts", self.counts))
        object.__setattr__(self, "unknown", _ranked("unknown", self.unknown))
        object.__setattr__(self, "unanswered", _checked_count("unanswered", self.unanswered))

    @property
    def total(self) -> int:
        """All completions, K."""
        return self.answered + self.unanswered

    @property
    def answered(self) -> int:
        """The completions with an answer, in the class list or not."""
        return sum(self.counts.values()) + sum(self.unknown.values())

    @property
    def ranking(self) -> tuple[str, ...]:
        """The classes that were answered, most frequent first."""
        return tuple(self.counts)

    @property
    def top(self) -> str | None:
        """The most frequent class; None where no class was answered."""
        return next(iter(self.counts), None)

    @property
    def top_answer(self) -> str | None:
        """The most frequent class or, where no class was answered, the most frequent other answer."""
        return self.top or next(iter(self.unknown), None)

    def one_step_accuracy(self, truth: str) -> float:
        """The share of all completions that answer ``truth``, a display name; 0.0 without completions."""
        total = self.total
        return self.counts.get(truth, 0) / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain types that ``from_json`` turns back into equal votes with the same ranking."""
        return {"counts": dict(self.counts), "unknown": dict(self.unknown), "unanswered": self.unanswered}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Votes":
        """The votes that ``to_json`` described.

        Raises:
            SetupError: where a key is missing or a count is no whole number of zero or more.
        """
        try:
            return cls(record["counts"], record["unknown"], record["unanswered"])
        except (KeyError, TypeError) as error:
            message = "A votes record lacks 'counts', 'unknown' or 'unanswered'; mine the votes again."
            raise SetupError(message) from error


@dataclass(frozen=True)
class MinedVotes:
    """The votes on one image, from the engine that sampled them to the store and the votes file.

    Attributes:
        step: the trainer's global step; 0 offline.
        policy_version: version of the oldest weights that answered, where known.
        truncated: completions that ended at the token limit.
        failed: samples without a completion; they are among the votes' ``unanswered``.
        open_tokens: tokens of the open question, 0 where unknown.
        prompt_tokens, cached_tokens: prompt tokens of all samples, and how many of them came from the engine's cache.
    """

    data_source: str
    image_id: str
    votes: Votes
    step: int = 0
    policy_version: int | None = None
    truncated: int = 0
    failed: int = 0
    open_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.data_source, self.image_id

    def to_json(self) -> dict[str, Any]:
        """Plain types that ``from_json`` turns back into an equal object."""
        return {**asdict(self), "votes": self.votes.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "MinedVotes":
        """Raises KeyError, TypeError or ValueError for a record that ``to_json`` did not write."""
        mined = cls(**{**record, "votes": Votes.from_json(record["votes"])})
        if not all(isinstance(part, str) for part in mined.key):
            raise ValueError("data_source and image_id must be text")
        for name, value in record.items():
            if name not in ("data_source", "image_id", "votes") and (name, value) != ("policy_version", None):
                _checked_count(name, value)
        return mined


def count_votes(completions: Iterable[str], classes: ClassNames | None) -> Votes:
    """Counts what the completions answer; an empty answer element counts as unanswered.

    Without ``classes`` each answer, as it is spelled, is a class of its own.
    """
    counts: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    unanswered = 0
    for completion in completions:
        answer = parse_answer(completion)
        name = answer if classes is None or not answer else classes.match_answer(answer)
        if name:
            counts[name] += 1
        elif answer:
            unknown[answer] += 1
        else:
            unanswered += 1
    return Votes(counts, unknown, unanswered)


def _ranked(kind: str, counts: Mapping[str, int]) -> dict[str, int]:
    """By count, highest first; the sort is stable, so ties keep the order in which they were first seen."""
    if not isinstance(counts, Mapping):
        raise SetupError(f"The votes' {kind!r} must map a name to its count; mine the votes again.")
    checked = {name: _checked_count(name, count) for name, count in counts.items()}
    return {name: checked[name] for name in sorted(checked, key=lambda name: -checked[name]) if checked[name]}


def _checked_count(name: str, count: int) -> int:
    if not isinstance(count, Integral) or not 0 <= count <= LARGEST_COUNT:
        shown = f"{count!r:.40}" if not isinstance(count, int) or abs(count) <= LARGEST_COUNT else "out of range"
        raise SetupError(f"The votes' {name!r} is {shown}, not a whole number from 0 to a billion; mine again.")
    return int(count)
