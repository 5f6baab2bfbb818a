"""What was asked about one image and what came back, in the schema of a run's ``questions.jsonl``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from string import ascii_uppercase
from typing import Any

from divek_verl.engines.base import Reply
from divek_verl.engines.two_step import TwoStepAnswer
from divek_verl.evaluation.items import Item
from divek_verl.records import Visit
from divek_verl.votes import Votes

NO_COMPLETION = "no_completion"
FEWER = "fewer_than_asked"
STEPS = ("open question", "multiple choice")


@dataclass
class EvaluatedVisit(Visit):
    """A ``Visit`` with what evaluation adds.

    Seconds and cache hits, which differ from one machine to the next, are left at 0: equal models, data and seeds give
    equal lines.

    Attributes:
        num_samples: K that were asked for; a failed image has them all failed.
        chosen: class that the second step chose.
        two_step: 1.0 where it is the true one.
        sample_failure: why some of the K samples did not come, where others did.
        failed_step: the question that ``failure`` ended.
        input_tokens: of both prompts, that of the K samples once: they share it.
        output_tokens: of the K samples and the choice.
        choice_truncated: whether the choice's completion ended at the token limit.
        judged: name -> ``same``, ``different`` or ``unjudged: <reason>``, where a judge was asked.
        unjudged: measure -> by how much it would be higher if all that is unjudged were right.
    """

    num_samples: int = 0
    chosen: str | None = None
    two_step: float = 0.0
    sample_failure: str | None = None
    failed_step: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    choice_truncated: bool = False
    judged: dict[str, str] = field(default_factory=dict)
    unjudged: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return self.data_source, self.image_id

    @property
    def counted(self) -> Votes:
        return Votes(self.votes, self.unknown, self.unanswered)

    @property
    def silent(self) -> int:
        """Samples that came back without an answer; a sample that did not come back is among the ``unanswered`` too."""
        return max(0, self.unanswered - self.failed_samples)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "EvaluatedVisit":
        """The visit of a line; unknown keys are another release's.

        Raises:
            TypeError: the line is of no visit.
        """
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in known})


def visit_of(item: Item, answer: TwoStepAnswer, num_samples: int) -> EvaluatedVisit:
    """The record of one image, not measured yet."""
    visit = EvaluatedVisit(
        step=0,
        split="val",
        data_source=item.data_source,
        image_id=item.image_id,
        image=item.image,
        truth=item.truth,
        num_samples=num_samples,
    )
    _copy_open_step(answer, visit)
    _copy_choice(answer, visit)
    failed = answer.failed_reply
    if failed is not None:
        visit.failure, visit.detail = failed.failure or NO_COMPLETION, failed.detail
        visit.failed_step = STEPS[0] if failed is answer.open_reply else STEPS[1]
    return visit


def _copy_open_step(answer: TwoStepAnswer, visit: EvaluatedVisit) -> None:
    votes, reply = answer.votes, answer.open_reply
    visit.votes, visit.unknown, visit.unanswered = dict(votes.counts), dict(votes.unknown), votes.unanswered
    visit.truncated = reply.truncated
    visit.failed_samples = visit.num_samples - len(reply.texts)
    if reply.texts and visit.failed_samples > 0:
        visit.sample_failure = reply.failure or FEWER
    _add_tokens(reply, visit)
    if answer.question is not None:
        visit.options = list(answer.question.options)
        index = visit.options.index(visit.truth) if visit.truth in visit.options else None
        visit.answer = None if index is None else ascii_uppercase[index]


def _copy_choice(answer: TwoStepAnswer, visit: EvaluatedVisit) -> None:
    reply = answer.choice_reply
    if reply is None or not reply.texts:
        return
    visit.choices, visit.completions, visit.chosen = [answer.letter], [reply.texts[0]], answer.chosen
    visit.choice_truncated = reply.truncated > 0
    _add_tokens(reply, visit)


def _add_tokens(reply: Reply, visit: EvaluatedVisit) -> None:
    visit.input_tokens += reply.prompt_tokens
    visit.output_tokens += reply.output_tokens
