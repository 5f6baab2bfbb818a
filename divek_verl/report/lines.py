"""The lines of the two record files, as far as the report reads them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt


class Line(BaseModel):
    """A JSON line; what it holds beside the fields is left out."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class MetricsLine(Line):
    """A line of ``metrics.jsonl``."""

    step: int
    data: dict[str, Any]


class RecordedVisit(Line):
    """What the report reads of a line of ``questions.jsonl``; what the line lacks is None or empty."""

    step: int
    split: Literal["train", "val"]
    data_source: str
    image_id: str
    truth: str
    image: str = ""
    votes: dict[str, NonNegativeInt] = {}
    unknown: dict[str, NonNegativeInt] = {}
    unanswered: NonNegativeInt = 0
    options: list[str] = []
    option_source: str | None = None
    num_options: int | None = None
    answer: str | None = None
    injected: bool = False
    policy_version: int | None = None
    votes_from: str | None = None
    vote_age: int | None = None
    waves: int | None = None
    skip: str | None = None
    failure: str | None = None
    choices: list[str | None] = []
    completions: list[str] = []
    rewards: list[float] = []
    rollout_failures: dict[str, NonNegativeInt] = {}
    one_step: float | None = None
    consistency: float | None = None
    recall: float | None = None
    pass_at_k: float | None = None

    @property
    def samples(self) -> int:
        """The completions behind the votes, K."""
        return sum(self.votes.values()) + sum(self.unknown.values()) + self.unanswered

    @property
    def reason(self) -> str | None:
        """Why there is no question; None where there is one."""
        return self.skip or self.failure

    @property
    def acc(self) -> float:
        """Share of the rollouts that chose the true class; 0.0 where there was no question or no rollout."""
        rollouts = len(self.choices) + sum(self.rollout_failures.values())
        right = sum(choice is not None and choice == self.answer for choice in self.choices)
        return right / rollouts if rollouts else 0.0

    @property
    def right(self) -> bool:
        return self.acc > 0.5

    @property
    def closeness(self) -> float:
        """From 0 to 0.5: how evenly the samples are split between the truth and one other class."""
        others = [count for name, count in self.votes.items() if name != self.truth]
        return min(self.votes.get(self.truth, 0), max(others, default=0)) / max(self.samples, 1)
