"""The record of one evaluated image, in the schema of a run's ``questions.jsonl``."""

from dataclasses import dataclass, field
from string import ascii_uppercase

from divek_verl.engines.rows import PreparedRow
from divek_verl.engines.two_step import TwoStepAnswer
from divek_verl.records import QuestionRecord

NO_COMPLETION = "no_completion"
FEWER = "fewer_than_asked"
STEPS = ("open question", "multiple choice")


@dataclass
class EvaluationRecord(QuestionRecord):
    """A run's record with what evaluation adds.

    Seconds and cache hits differ between machines and stay 0, so that equal models, data and seeds give equal lines.

    Attributes:
        num_samples: K that were asked for; all of them have failed for a failed image.
        chosen: class that the second step chose.
        two_step: 1.0 if that is the true class.
        sample_failure: why some of the K samples are missing while others came.
        failed_step: the question that ``failure`` ended.
        input_tokens: of both prompts; the K samples share one, which is counted once.
        output_tokens: of the K samples and the choice.
        choice_truncated: whether the choice's completion ended at the token limit.
        judged: name -> ``same``, ``different`` or ``unjudged: <reason>``, if a judge was asked.
        unjudged: measure -> how much higher it would be if all that is unjudged were right.
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


def record_of(row: PreparedRow, answer: TwoStepAnswer, num_samples: int) -> EvaluationRecord:
    """The record of one image, without its measures."""
    votes, opened, chosen, failed = answer.votes, answer.open_reply, answer.choice_reply, answer.failed_reply
    record = EvaluationRecord(
        step=0,
        split="val",
        data_source=row.data_source,
        image_id=row.image_id,
        image=row.image,
        truth=row.truth,
        votes=dict(votes.counts),
        unknown=dict(votes.unknown),
        unanswered=votes.unanswered,
        truncated=opened.truncated,
        failed_samples=num_samples - len(opened.texts),
        num_samples=num_samples,
        input_tokens=opened.prompt_tokens,
        output_tokens=opened.output_tokens,
    )
    if opened.texts and record.failed_samples > 0:
        record.sample_failure = opened.failure or FEWER
    if answer.question is not None:
        record.options = list(answer.question.options)
        index = record.options.index(record.truth) if record.truth in record.options else None
        record.answer = None if index is None else ascii_uppercase[index]
    if chosen is not None and chosen.texts:
        record.choices, record.completions, record.chosen = [answer.letter], [chosen.texts[0]], answer.chosen
        record.choice_truncated = chosen.truncated > 0
        record.input_tokens += chosen.prompt_tokens
        record.output_tokens += chosen.output_tokens
    if failed is not None:
        record.failure, record.detail = failed.failure or NO_COMPLETION, failed.detail
        record.failed_step = STEPS[0] if failed is opened else STEPS[1]
    return record
