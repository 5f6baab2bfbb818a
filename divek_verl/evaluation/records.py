"""The record of one evaluated image, in the schema of a run's ``questions.jsonl``."""

from dataclasses import dataclass, field

from divek_verl.engines.base import Reply
from divek_verl.engines.rows import PreparedRow
from divek_verl.engines.two_step import TwoStepAnswer, TwoStepSettings
from divek_verl.records import FailureReason, QuestionRecord
from divek_verl.votes import MinedVotes, count_votes


@dataclass
class EvaluationRecord(QuestionRecord):
    """A run's record with what evaluation adds.

    Seconds and cache hits differ between machines and stay 0, so that equal models, data and seeds give equal lines.
    ``sample_failure`` says why some of the ``num_samples`` are missing while others came; ``surplus_samples`` counts
    those beyond ``num_samples``, which were dropped; ``failed_step`` names the
    question that ``failure`` ended. All answers to the open question share one prompt, which ``input_tokens`` counts
    once. ``judged``:
    name -> ``same``, ``different`` or ``unjudged: <reason>``. ``unjudged``: measure -> how much higher if all that were
    right.
    """

    num_samples: int = 0
    chosen: str | None = None
    two_step: float = 0.0
    sample_failure: str | None = None
    surplus_samples: int = 0
    failed_step: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    choice_truncated: bool = False
    judged: dict[str, str] = field(default_factory=dict)
    unjudged: dict[str, float] = field(default_factory=dict)


def record_of(
    row: PreparedRow, answer: TwoStepAnswer, settings: TwoStepSettings, single: Reply | None = None
) -> EvaluationRecord:
    """The record of one image, without its measures; ``single`` is the one greedy answer to the open question."""
    opened, chosen, failed = answer.open_reply, answer.choice_reply, answer.failed_reply
    record = EvaluationRecord(
        step=0,
        split="val",
        data_source=row.data_source,
        image_id=row.image_id,
        image=row.image,
        truth=row.truth,
        option_source="policy",
        num_options=settings.rules.num_options,
        num_samples=settings.num_samples,
        input_tokens=opened.prompt_tokens,
        output_tokens=opened.output_tokens,
        surplus_samples=opened.surplus,
    )
    if single is not None:
        record.greedy = count_votes(single.texts, row.classes).top_answer
        if not single.texts:
            record.greedy_failure = str(single.failure or FailureReason.NO_COMPLETION)
        record.output_tokens += single.output_tokens
    missing = settings.num_samples - len(opened.texts)
    record.set_votes(MinedVotes(*row.key, answer.votes, truncated=opened.truncated, failed=missing))
    if opened.texts and missing > 0:
        record.sample_failure = str(opened.failure or FailureReason.FEWER_THAN_ASKED)
    if answer.question is not None:
        record.set_question(answer.question)
    if chosen is not None and chosen.texts:
        record.choices, record.completions, record.chosen = [answer.letter], [chosen.texts[0]], answer.chosen
        record.surplus_samples += chosen.surplus
        record.choice_truncated = chosen.truncated > 0
        record.input_tokens += chosen.prompt_tokens
        record.output_tokens += chosen.output_tokens
    if failed is not None:
        record.failure, record.detail = str(failed.failure or FailureReason.NO_COMPLETION), failed.detail
        record.failed_step = "open question" if failed is opened else "multiple choice"
    return record
