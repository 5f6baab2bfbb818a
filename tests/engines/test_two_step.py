"""The two steps: the same votes, question and shuffle as in verl's validation, no truth known, no sample lost."""

import asyncio

import pytest
from scripted_engine import ScriptedEngine, prompt_text, says

from divek_verl import prompts
from divek_verl.engines.base import Reply, Request, Sampling
from divek_verl.engines.rows import PreparedRow
from divek_verl.engines.two_step import GREEDY, TwoStepAnswer, TwoStepSettings, ask_two_steps
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.prompts import with_text
from divek_verl.question import Question, QuestionRules
from divek_verl.votes import Votes

CLASSES = ClassNames(("Chad", "Romania", "Andorra", "Moldova", "Monaco", "Indonesia"))
PICTURE = {"type": "image", "image": "flag.png", "max_pixels": 401408}
WORDING = prompts.Wording("flag", "country")
ROW = PreparedRow(
    "divek/flags/base",
    "7",
    "flag.png",
    "Chad",
    CLASSES,
    WORDING,
    [{"role": "user", "content": [PICTURE, {"type": "text", "text": "which flag?"}]}],
)
RULES = QuestionRules(num_options=3)
SETTINGS = TwoStepSettings(num_samples=6, rules=RULES)
OPEN = says("Chad", "chad", "Romania", "Atlantis", "Chad") + ("no tag",)


def ask(
    open_reply: Reply, choice: Reply | None = None, settings: TwoStepSettings = SETTINGS
) -> tuple[TwoStepAnswer, ScriptedEngine]:
    def answer(request: Request, sampling: Sampling) -> Reply:
        reply = choice if request.key.endswith("/choice") else open_reply
        assert reply is not None
        return reply

    engine = ScriptedEngine(answer)
    return asyncio.run(ask_two_steps(engine, ROW, settings)), engine


def letter_of(name: str) -> str:
    """The letter of a class in the question that ``OPEN`` leads to."""
    question = RULES.build(Votes({"Chad": 3, "Romania": 1}), CLASSES, seed="0-divek/flags/base-7")
    assert isinstance(question, Question)
    return "ABC"[question.options.index(name)]


def test_the_options_are_the_most_frequent_answers_and_the_choice_is_one_of_them() -> None:
    answer, _ = ask(Reply("k", OPEN), Reply("k", says(letter_of("Romania"))))
    assert answer.votes == Votes({"Chad": 3, "Romania": 1}, {"Atlantis": 1}, 1)
    assert answer.question is not None and set(answer.question.options) == {"Chad", "Romania"}
    assert (answer.chosen, answer.letter) == ("Romania", letter_of("Romania"))
    assert answer.failed_reply is None
    # No truth is known, and the shuffle is that of verl's validation.
    assert answer.question == RULES.build(answer.votes, CLASSES, seed="0-divek/flags/base-7")
    assert answer.question.answer is None


def test_the_second_question_keeps_the_picture_before_its_text() -> None:
    answer, engine = ask(Reply("k", OPEN), Reply("k", says("A")))
    opened, chosen = engine.requests
    assert (opened.key, opened.count) == ("divek/flags/base-7/open", 6)
    assert (chosen.key, chosen.count) == ("divek/flags/base-7/choice", 1)
    assert answer.question is not None
    assert chosen.messages[0]["content"] == [
        PICTURE,
        {"type": "text", "text": prompts.multiple_choice(ROW.wording, answer.question.text)},
    ]


def test_each_step_is_sampled_in_its_own_way() -> None:
    seen = []

    def answer(request: Request, sampling: Sampling) -> Reply:
        seen.append(sampling)
        return Reply(request.key, says("A"))

    asyncio.run(ask_two_steps(ScriptedEngine(answer), ROW, TwoStepSettings(open_sampling=Sampling(seed=3))))
    assert seen == [Sampling(seed=3), GREEDY]


def test_samples_that_did_not_come_back_are_unanswered() -> None:
    answer, _ = ask(Reply("k", says("Chad", "Chad"), failure="rate_limited"), Reply("k", says("A")))
    assert answer.votes == Votes({"Chad": 2}, {}, 4)
    assert answer.failed_reply is None


def test_a_failed_first_step_ends_it() -> None:
    answer, engine = ask(Reply("k", failure="unreadable_image", detail="broken"))
    assert answer.failed_reply is not None and answer.failed_reply.failure == "unreadable_image"
    assert (answer.votes.total, answer.question, answer.chosen) == (0, None, None)
    assert len(engine.requests) == 1


def test_a_failed_second_step_keeps_the_votes() -> None:
    answer, _ = ask(Reply("k", OPEN), Reply("k", failure="timeout"))
    assert answer.failed_reply is not None and answer.failed_reply.failure == "timeout"
    assert answer.votes.counts == {"Chad": 3, "Romania": 1}
    assert answer.chosen is None


def test_a_completion_that_names_no_option_chooses_nothing() -> None:
    answer, _ = ask(Reply("k", OPEN), Reply("k", says("Chad or Romania")))
    assert (answer.option, answer.letter, answer.chosen) == (None, None, None)


def test_one_step_asks_one_question() -> None:
    answer, engine = ask(Reply("k", OPEN), settings=TwoStepSettings(num_samples=6, ask_choice=False))
    assert len(engine.requests) == 1
    assert answer.question is not None and answer.choice_reply is None


def test_no_samples_are_refused() -> None:
    with pytest.raises(SetupError, match="number of samples is 0"):
        TwoStepSettings(num_samples=0)


def test_new_text_leaves_the_given_messages_alone() -> None:
    before = [dict(message) for message in ROW.messages]
    changed = with_text(ROW.messages, "new")
    assert prompt_text(changed) == "new"
    assert list(ROW.messages) == before


def test_plain_text_can_be_replaced_too() -> None:
    assert with_text([{"role": "user", "content": "old"}], "new")[0]["content"] == [{"type": "text", "text": "new"}]
