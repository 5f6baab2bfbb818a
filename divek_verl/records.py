"""The record of one image: training writes it, evaluation extends it, the report reads it.

One line of ``questions.jsonl`` is one record. Nothing here needs Ray or verl.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from divek_verl.errors import SetupError
from divek_verl.files import JsonObject
from divek_verl.measures import VOTE_MEASURES
from divek_verl.question import Question
from divek_verl.votes import MinedVotes, Votes

QUESTIONS_FILE = "questions.jsonl"
METRICS_FILE = "metrics.jsonl"
# Model, K, seed, versions and start of the run, for the report's header.
SUMMARY_FILE = "summary.json"
# Lines without a number are of schema 1.
SCHEMA = 2

Record = TypeVar("Record", bound="QuestionRecord")


class FailureReason(str, Enum):
    """Why an image has no question, or a request no answer. ``sentence`` explains it to a reader."""

    sentence: str

    def __new__(cls, value: str, sentence: str) -> "FailureReason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    EASY = "easy", "The policy already answers the true class, so there is nothing to learn."
    EASY_LATELY = "easy_lately", "The image was easy at its last visit and rests (divek.revisit_easy)."
    UNREADABLE_IMAGE = "unreadable_image", "The picture is missing, damaged, too large or too small."
    OVERLONG_PROMPT = "overlong_prompt", "The open question does not fit into the prompt length."
    OVERLONG_QUESTION = "overlong_question", "The multiple-choice question does not fit into the prompt length."
    MINING_TIMEOUT = "mining_timeout", "The K samples took longer than divek.mining_timeout."
    SAMPLING_FAILED = "sampling_failed", "The engine returned none of the K samples."
    ROLLOUT_TIMEOUT = "rollout_timeout", "A rollout took longer than divek.rollout_timeout."
    ROLLOUT_FAILED = "rollout_failed", "A rollout or its reward raised an error."
    TIMEOUT = "timeout", "The engine or server did not answer in time."
    CONNECTION_FAILED = "connection_failed", "The server could not be reached."
    MALFORMED_REPLY = "malformed_reply", "The server's reply is not a chat completion."
    RATE_LIMITED = "rate_limited", "The server refused the request because of its rate limit."
    SERVER_ERROR = "server_error", "The server reported an error of its own."
    REFUSED_REQUEST = "refused_request", "The server refused the request."
    ENGINE_ERROR = "engine_error", "The engine raised an error."
    NO_COMPLETION = "no_completion", "The engine returned no completion and no reason."
    FEWER_THAN_ASKED = "fewer_than_asked", "The engine returned fewer samples than were asked for."
    MORE_THAN_ASKED = (
        "more_than_asked",
        "The engine returned more samples than asked for; the rest were dropped.",
    )
    NO_CLASS_NAMED = "no_class_named", "None of the samples names a class of the list, so all options are fillers."
    NO_OPTION_NAMED = "no_option_named", "The completion of the second step names no option."
    OVERLONG_NAME = "overlong_name", "A name is too long to ask the judge about it."
    NO_VERDICT = "no_verdict", "The judge's reply is not the JSON object that it was asked for."
    UNEXPECTED_ERROR = "unexpected_error", "An error that nobody expected; the detail and the log say more."

    def __str__(self) -> str:
        return str(self.value)


def sentence_of(reason: str) -> str:
    """The sentence of a reason by its name; empty for one that only an older or newer release knows."""
    return next((known.sentence for known in FailureReason if known.value == reason), "")


@dataclass
class QuestionRecord:
    """The history of one image at one step: votes, question, rollouts, or why there are none.

    Attributes:
        split: ``train`` or ``val``.
        image: path of the picture; empty for one that is not a file.
        votes, unknown, unanswered: the K samples as ``Votes`` counts them.
        truncated: samples that ended at the token limit.
        failed_samples: samples without a completion; they are among ``unanswered``.
        greedy: the class, or the name outside the class list, that one greedy completion of the open question answers;
            None where it was not asked (training) or answers nothing, ``greedy_failure`` says why it is missing.
        votes_from: ``policy`` (sampled now), ``store`` (reused) or ``none`` (the options need no votes).
        vote_age: versions of the policy since reused votes were sampled.
        option_source: where the options come from (``divek.option_source``).
        num_options: the number of options asked for, or ``auto``.
        answer: letter of the true class; None where it is not an option.
        injected: whether the truth is an option only because it was given.
        skip, failure, detail: why there is no question (``FailureReason``), and more about it.
        choices: the letter that each rollout chose; None where it names no option.
        one_step_greedy, ..., pass_at_k: the ``VOTE_MEASURES``; the first is None where no greedy completion was asked
            for: in training, and in records of releases that did not ask.
        formats: 1.0 for each rollout that keeps the format, else 0.0; empty in older records.
        rollout_failures: reason -> rollouts that brought no completion.
        prompt_tokens, cached_tokens: prompt tokens of the K samples, and how many of them came from the cache.
        attempt: number of the start of the run that wrote it; a resumed run has several.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    step: int
    split: str
    data_source: str
    image_id: str
    image: str
    truth: str
    policy_version: int | None = None
    votes: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0
    truncated: int = 0
    failed_samples: int = 0
    greedy: str | None = None
    greedy_failure: str | None = None
    votes_from: str = "policy"
    vote_age: int = 0
    option_source: str | None = None
    num_options: int | str | None = None
    options: list[str] = field(default_factory=list)
    answer: str | None = None
    injected: bool = False
    skip: str | None = None
    failure: str | None = None
    detail: str | None = None
    choices: list[str | None] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    formats: list[float] = field(default_factory=list)
    rollout_failures: dict[str, int] = field(default_factory=dict)
    one_step_greedy: float | None = 0.0
    one_step: float = 0.0
    consistency: float = 0.0
    recall: float = 0.0
    pass_at_k: float = 0.0
    mining_seconds: float = 0.0
    rollout_seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    attempt: int = 0

    def __post_init__(self) -> None:
        if self.split == "train":
            self.one_step_greedy = None

    @property
    def key(self) -> tuple[str, str]:
        return self.data_source, self.image_id

    @property
    def samples(self) -> int:
        """Completions sampled for the votes, K."""
        return self.counted.total

    @property
    def counted(self) -> Votes:
        return Votes(self.votes, self.unknown, self.unanswered)

    @property
    def no_answer(self) -> int:
        """Samples that came back without an answer; those that did not come back are not among them."""
        return max(0, self.unanswered - self.failed_samples)

    @property
    def reason(self) -> str | None:
        """Why there is no question; None where there is one."""
        return self.skip or self.failure

    @property
    def accuracy(self) -> float:
        """Share of the rollouts that chose the true class; 0.0 where there was no question or no rollout."""
        rollouts = len(self.choices) + sum(self.rollout_failures.values())
        right = sum(choice is not None and choice == self.answer for choice in self.choices)
        return right / rollouts if rollouts else 0.0

    def set_votes(self, mined: MinedVotes) -> None:
        """Copy what the samples brought."""
        self.votes, self.unknown = dict(mined.votes.counts), dict(mined.votes.unknown)
        self.unanswered, self.truncated, self.failed_samples = mined.votes.unanswered, mined.truncated, mined.failed
        self.policy_version = mined.policy_version
        self.prompt_tokens, self.cached_tokens = mined.prompt_tokens, mined.cached_tokens

    def set_question(self, question: Question) -> None:
        """Copy the options and the letter of the truth."""
        self.options, self.injected = list(question.options), question.truth_injected
        index = self.options.index(self.truth) if self.truth in self.options else None
        self.answer = None if index is None else chr(ord("A") + index)

    def set_measures(self, measures: Mapping[str, float]) -> None:
        """Set the ``VOTE_MEASURES``; a missing one is 0.0, and one that was not asked for stays None."""
        for name in VOTE_MEASURES:
            if getattr(self, name) is not None:
                setattr(self, name, measures.get(name, 0.0))

    def to_json(self) -> JsonObject:
        """The line of ``questions.jsonl``; ``cached_share`` is the share of the samples' prompt tokens."""
        cached_share = self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None
        return {"schema": SCHEMA, **asdict(self), "cached_share": cached_share}

    @classmethod
    def from_json(cls: type[Record], line: JsonObject) -> Record:
        """The record of a line that this or an earlier release wrote; unknown keys are ignored.

        Raises:
            SetupError: the line is not a record, or of a later schema.
        """
        schema = line.get("schema", 1)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise SetupError(f"A record has schema {schema!r}, this release reads up to {SCHEMA}: install a newer one.")
        if line.get("votes_from") == "nowhere":  # schema 1
            line = {**line, "votes_from": "none"}
        # Releases without it asked for no greedy completion.
        line = {"one_step_greedy": None, **line}
        try:
            record: Record = _adapter(cls).validate_python(line)  # type: ignore[arg-type]
            record.counted  # noqa: B018  (checks the counts)
            return record
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "line"
            raise SetupError(f"A line is not a question record ({where}: {first['msg']}).") from None


def without_repeated(records: Sequence[Record]) -> list[Record]:
    """The records without those that a resume made void: of steps that a later attempt of the run did again."""
    first: dict[tuple[str, int], int] = {}
    for each in records:
        first[each.split, each.attempt] = min(each.step, first.get((each.split, each.attempt), each.step))
    limits = {
        (split, attempt): min(
            (step for (of, later), step in first.items() if of == split and later > attempt), default=None
        )
        for split, attempt in first
    }
    return [each for each in records if (limit := limits[each.split, each.attempt]) is None or each.step < limit]


@functools.cache
def _adapter(record: type[QuestionRecord]) -> TypeAdapter[Any]:
    return TypeAdapter(record)
