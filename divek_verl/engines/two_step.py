"""The two steps of inference, shared by evaluation and prediction: K answers, their votes, one question, one choice.

No truth is known here. Prompts, counting, options and their order are those of verl's validation.
"""

import random
from dataclasses import dataclass, field
from string import ascii_uppercase

from divek_verl import prompts
from divek_verl.answers import parse_option
from divek_verl.engines.base import Engine, Reply, Request, Sampling
from divek_verl.engines.rows import PreparedRow
from divek_verl.errors import SetupError
from divek_verl.question import Question, QuestionRules, Skip, question_seed
from divek_verl.settings import DEFAULTS
from divek_verl.votes import Votes, count_votes

# As verl validates: the most likely completion, and no repetition penalty.
GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=-1, repetition_penalty=1.0)


@dataclass(frozen=True)
class TwoStepSettings:
    """How both questions are asked; without ``ask_choice`` only the open one is.

    ``seed`` is that of the questions; the samplings have their own.
    """

    num_samples: int = DEFAULTS.num_samples
    rules: QuestionRules = QuestionRules()
    open_sampling: Sampling = Sampling()
    choice_sampling: Sampling = GREEDY
    seed: int = 0
    ask_choice: bool = True

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise SetupError(f"The number of samples is {self.num_samples}: ask for at least 1.")


@dataclass(frozen=True)
class TwoStepAnswer:
    """The replies of both steps; a failed step has a reply without texts, and nothing follows it."""

    open_reply: Reply
    votes: Votes = field(default_factory=lambda: Votes({}))
    question: Question | None = None
    choice_reply: Reply | None = None

    @property
    def option(self) -> int | None:
        """The zero-based option that the second completion names; None if it names none."""
        if self.question is None or self.choice_reply is None or not self.choice_reply.texts:
            return None
        return parse_option(self.choice_reply.texts[0], len(self.question.options))

    @property
    def letter(self) -> str | None:
        return None if self.option is None else ascii_uppercase[self.option]

    @property
    def chosen(self) -> str | None:
        """The display name of the class that the second step chose."""
        return None if self.option is None or self.question is None else self.question.options[self.option]

    @property
    def failed_reply(self) -> Reply | None:
        """The first reply without any completion, which ended the two steps early."""
        replies = (self.open_reply, self.choice_reply)
        return next((reply for reply in replies if reply is not None and not reply.texts), None)


async def ask_two_steps(engine: Engine, row: PreparedRow, settings: TwoStepSettings) -> TwoStepAnswer:
    """Ask the open question K times, build the multiple-choice question from the votes, and ask it once."""
    name = "-".join(row.key)
    opened = await engine.generate(Request(f"{name}/open", row.messages, settings.num_samples), settings.open_sampling)
    if not opened.texts:
        return TwoStepAnswer(opened)
    # A missing sample counts as one without an answer: K stays the denominator.
    missing = settings.num_samples - len(opened.texts)
    votes = count_votes([*opened.texts, *[""] * missing], row.classes)
    seed = question_seed(settings.seed, *row.key)
    question: Question | Skip
    if row.classes is None:
        options = list(votes.counts)[: settings.rules.most_options]
        random.Random(f"{seed}-order").shuffle(options)
        question = Question(tuple(options), None, False)
    else:
        question = settings.rules.build(votes, row.classes, seed=seed)
    assert not isinstance(question, Skip), "only a question with a truth is skipped"
    if not settings.ask_choice or not question.options:
        return TwoStepAnswer(opened, votes, question)
    messages = prompts.with_text(row.messages, prompts.multiple_choice(row.wording, question.text))
    chosen = await engine.generate(Request(f"{name}/choice", messages), settings.choice_sampling)
    return TwoStepAnswer(opened, votes, question, chosen)
