"""The record of one image: a run's own schema, with what evaluation adds, and nothing of a machine or a clock."""

import json
from dataclasses import fields

import pytest

from divek_verl.engines.base import Reply
from divek_verl.engines.rows import PreparedRow
from divek_verl.engines.two_step import TwoStepAnswer, TwoStepSettings
from divek_verl.errors import SetupError
from divek_verl.evaluation.records import EvaluationRecord, record_of
from divek_verl.labels import ClassNames
from divek_verl.question import Question, QuestionRules
from divek_verl.records import QuestionRecord
from divek_verl.votes import Votes

from .fabricated_set import BASE, WORDING

ROW = PreparedRow("divek/flags/base", "7", "flag.png", "Chad", ClassNames(BASE), WORDING, [])
SETTINGS = TwoStepSettings(6, QuestionRules(num_options="auto"))
VOTES = Votes({"Romania": 2, "Chad": 1}, {"Libya": 1}, 2)
QUESTION = Question(("Romania", "Chad"), None, False)
OPEN = Reply("k/open", ("a",) * 5, truncated=1, prompt_tokens=100, output_tokens=40, failure="rate_limited")
CHOICE = Reply("k/choice", ("<think>t</think><answer>B</answer>",), truncated=0, prompt_tokens=120, output_tokens=9)


def test_everything_that_came_back_is_in_the_record() -> None:
    record = record_of(ROW, TwoStepAnswer(OPEN, VOTES, QUESTION, CHOICE), SETTINGS)
    assert (record.votes, record.unknown, record.unanswered) == ({"Romania": 2, "Chad": 1}, {"Libya": 1}, 2)
    assert (record.options, record.answer, record.choices, record.chosen) == (["Romania", "Chad"], "B", ["B"], "Chad")
    assert (record.input_tokens, record.output_tokens, record.truncated) == (220, 49, 1)
    assert (record.failed_samples, record.no_answer, record.failure) == (1, 1, None)
    assert record.sample_failure == "rate_limited"
    assert (record.option_source, record.num_options, record.votes_from) == ("policy", "auto", "policy")


def test_a_record_reads_back_as_it_was() -> None:
    record = record_of(ROW, TwoStepAnswer(OPEN, VOTES, QUESTION, CHOICE), SETTINGS)
    line = json.dumps(record.to_json())
    assert EvaluationRecord.from_json(json.loads(line)) == record
    assert list(EvaluationRecord.from_json(json.loads(line)).votes) == ["Romania", "Chad"]


def test_a_line_of_something_else_is_none() -> None:
    with pytest.raises(SetupError):
        EvaluationRecord.from_json({"step": 1})


def test_it_has_every_field_of_a_runs_record_and_no_clock() -> None:
    record = record_of(ROW, TwoStepAnswer(OPEN, VOTES, QUESTION, CHOICE), SETTINGS).to_json()
    written = QuestionRecord(step=0, split="val", data_source="s", image_id="i", image="", truth="t").to_json()
    assert set(written) <= set(record)
    assert record["mining_seconds"] == record["rollout_seconds"] == 0.0 and record["cached_share"] is None
    assert {field.name for field in fields(QuestionRecord)} <= {field.name for field in fields(EvaluationRecord)}


@pytest.mark.parametrize(
    ("answer", "step", "reason", "failed"),
    [
        (TwoStepAnswer(Reply("k", failure="timeout")), "open question", "timeout", 6),
        (TwoStepAnswer(Reply("k")), "open question", "no_completion", 6),
        (TwoStepAnswer(OPEN, VOTES, QUESTION, Reply("k", failure="timeout")), "multiple choice", "timeout", 1),
    ],
)
def test_a_failure_names_its_step(answer: TwoStepAnswer, step: str, reason: str, failed: int) -> None:
    record = record_of(ROW, answer, SETTINGS)
    assert (record.failed_step, record.failure, record.failed_samples) == (step, reason, failed)
    assert record.chosen is None
