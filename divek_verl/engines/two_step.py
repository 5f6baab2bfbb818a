"""The two steps of inference, shared by evaluation and prediction: K answers, their votes, one question, one choice.

No truth is known here. What happens is what happens in verl's validation: the same prompts, counting and shuffle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

from divek_verl import prompts
from divek_verl.answers import parse_option
from divek_verl.engines.base import Engine, Reply, Request, Sampling
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.prompts import Wording
from divek_verl.question import MAX_OPTIONS, Question, Skip, build_question
from divek_verl.votes import Votes, count_votes

# As verl validates: the most likely completion, and no repetition penalty.
GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=-1, repetition_penalty=1.0)


@dataclass(frozen=True)
class TwoStepSettings:
    """How both questions are asked.

    Attributes:
        num_samples: K, answers to the open question.
        num_options: at most so many answers become options, 2 to 26; ``"auto"`` lets the votes decide.
        open_sampling: of the K answers.
        choice_sampling: of the one answer to the multiple-choice question.
        seed: of the shuffles; the samplings hold their own.
        ask_choice: whether the second question is asked at all.

    Raises:
        SetupError: for a count that cannot work.
    """

    num_samples: int = 20
    num_options: int | str = 5
    open_sampling: Sampling = Sampling()
    choice_sampling: Sampling = GREEDY
    seed: int = 0
    ask_choice: bool = True

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise SetupError(f"The number of samples is {self.num_samples}: ask for at least 1.")
        if self.num_options != "auto" and not (
            isinstance(self.num_options, int) and 2 <= self.num_options <= MAX_OPTIONS
        ):
            raise SetupError(
                f"The number of options is {self.num_options!r}: give a whole number from 2 to {MAX_OPTIONS}, or auto."
            )


@dataclass(frozen=True)
class OpenQuestion:
    """One picture to be asked about.

    Attributes:
        key: unique in a run; seeds and shuffles depend on it.
        wording: the nouns of the multiple-choice question.
        classes: the class list.
        messages: the open question as chat messages, picture and class list in it.
    """

    key: str
    wording: Wording
    classes: ClassNames
    messages: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class TwoStepAnswer:
    """What both steps brought; a step that failed has a reply without texts and nothing after it."""

    open_reply: Reply
    votes: Votes = field(default_factory=lambda: Votes({}))
    question: Question | None = None
    choice_reply: Reply | None = None

    @property
    def option(self) -> int | None:
        """Zero-based option that the second completion names; None where it names none."""
        if self.question is None or self.choice_reply is None or not self.choice_reply.texts:
            return None
        return parse_option(self.choice_reply.texts[0], len(self.question.options))

    @property
    def letter(self) -> str | None:
        return None if self.option is None else ascii_uppercase[self.option]

    @property
    def chosen(self) -> str | None:
        """The class that the second step chose, a display name."""
        return None if self.option is None or self.question is None else self.question.options[self.option]

    @property
    def failed_reply(self) -> Reply | None:
        """The reply that ended this before its time; None where every question that was asked was answered.

        A reply with some of its samples and a reason for the others ends nothing.
        """
        replies = (self.open_reply, self.choice_reply)
        return next((reply for reply in replies if reply is not None and not reply.texts), None)


async def ask_two_steps(engine: Engine, asked: OpenQuestion, settings: TwoStepSettings) -> TwoStepAnswer:
    """Ask the open question K times, build the question of its votes, ask that once."""
    opened = await engine.generate(
        Request(f"{asked.key}/open", [dict(message) for message in asked.messages], settings.num_samples),
        settings.open_sampling,
    )
    if not opened.texts:
        return TwoStepAnswer(opened)
    # A sample that did not come back is one without an answer: K stays the denominator.
    missing = settings.num_samples - len(opened.texts)
    votes = count_votes([*opened.texts, *[""] * missing], asked.classes)
    question = _question(votes, asked, settings)
    if not settings.ask_choice:
        return TwoStepAnswer(opened, votes, question)
    messages = prompts.with_text(asked.messages, prompts.multiple_choice(asked.wording, question.text))
    chosen = await engine.generate(Request(f"{asked.key}/choice", messages), settings.choice_sampling)
    return TwoStepAnswer(opened, votes, question, chosen)


def _question(votes: Votes, asked: OpenQuestion, settings: TwoStepSettings) -> Question:
    num_options: Any = settings.num_options
    seed = f"{settings.seed}-{asked.key}"
    built = build_question(votes, asked.classes, num_options=num_options, skip_easy=False, seed=seed)
    assert not isinstance(built, Skip), "only a question with a truth is skipped"
    return built
