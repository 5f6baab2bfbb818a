"""The measures of one image, with and without a judge; what is unjudged is neither right nor wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.evaluation.judge import Pair, Verdict
from divek_verl.evaluation.measuring import measure, measure_judged, pairs_to_judge
from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.labels import ClassNames
from divek_verl.measures import MEASURES
from divek_verl.question import Question, build_question
from divek_verl.votes import Votes

from .fabricated_set import record

CLASSES = ClassNames(("Chad", "Romania", "Andorra", "Moldova"), aliases={"Chad": ["Tchad"]})
SAME, DIFFERENT, UNJUDGED = Verdict(True), Verdict(False), Verdict(None, "timeout")


def measures_of(measured: EvaluationRecord) -> dict[str, float]:
    return {name: getattr(measured, name) for name in MEASURES if name != "one_step_greedy"}


@pytest.mark.parametrize(
    ("greedy", "verdicts", "expected"),
    [
        ("Chad", {}, (1.0, {})),
        ("Romania", {}, (0.0, {})),
        (None, {}, (0.0, {})),
        ("Republic of Chad", {Pair("Chad", "Republic of Chad"): SAME}, (1.0, {})),
        ("Libya", {Pair("Chad", "Libya"): UNJUDGED}, (0.0, {"one_step_greedy": 1.0})),
    ],
)
def test_the_greedy_answer_is_measured_by_the_list_and_the_judge(
    greedy: str | None, verdicts: dict[Pair, Verdict], expected: tuple[float, dict[str, float]]
) -> None:
    asked = record(votes={"Romania": 4}, options=("Chad", "Romania"), greedy=greedy)
    assert pairs_to_judge(asked, CLASSES) == set(verdicts)
    measure_judged(asked, CLASSES, verdicts)
    assert (asked.one_step_greedy, asked.unjudged) == expected


def test_the_measures_of_a_visit() -> None:
    right = record(votes={"Romania": 2, "Chad": 1}, unanswered=1, options=("Chad", "Romania"), chosen="Chad")
    measure(right)
    assert measures_of(right) == {"two_step": 1, "one_step": 0.25, "consistency": 0, "recall": 1, "pass_at_k": 1}
    assert right.rewards == [2.0]


@pytest.mark.parametrize("reason", ["unreadable_image", "timeout"])
def test_a_failed_image_is_wrong_in_every_measure_whatever_the_judge_says(reason: str) -> None:
    failed = record(failure=reason)
    measure(failed)
    assert set(measures_of(failed).values()) == {0.0}
    measure_judged(failed, CLASSES, {})
    assert set(measures_of(failed).values()) == {0.0} and failed.unjudged == {}


def test_a_failed_second_step_leaves_the_votes_their_measures() -> None:
    half = record(votes={"Chad": 4}, options=("Chad", "Romania"), failure="timeout", failed_samples=0)
    measure(half)
    assert measures_of(half) == {"two_step": 0, "one_step": 1, "consistency": 1, "recall": 1, "pass_at_k": 1}


def test_a_filler_that_is_chosen_and_right_counts_for_two_steps_and_not_for_recall() -> None:
    lucky = record(votes={"Romania": 4}, options=("Chad", "Romania"), chosen="Chad")
    measure(lucky)
    assert (lucky.two_step, lucky.recall, lucky.pass_at_k) == (1.0, 0.0, 0.0)


completions = st.lists(st.sampled_from(["Chad", "Romania", "Andorra", "Moldova", "Tchad", "Atlantis", ""]), max_size=8)


@given(completions, st.integers(2, 4), st.integers(0, 3))
def test_recall_is_at_most_pass_at_k_and_two_step_at_most_recall_but_for_fillers(
    answers: list[str], num_options: int, letter: int
) -> None:
    counts = {name: answers.count(name) for name in ("Chad", "Romania", "Andorra", "Moldova") if name in answers}
    votes = Votes(counts, {"Atlantis": answers.count("Atlantis")}, answers.count(""))
    question = build_question(votes, CLASSES, num_options=num_options, seed=0)
    assert isinstance(question, Question)
    chosen = question.options[letter] if letter < len(question.options) else None
    asked = record(
        votes=dict(votes.counts),
        unknown=dict(votes.unknown),
        unanswered=votes.unanswered,
        options=question.options,
        chosen=chosen,
    )
    measure(asked)
    assert asked.recall <= asked.pass_at_k
    assert asked.one_step <= asked.pass_at_k
    assert asked.consistency <= asked.pass_at_k
    # What had no vote was put there to fill the list up; only then may a right choice be none of recall's.
    assert asked.two_step <= asked.recall or chosen not in votes.counts


# --------------------------------------------------------------------- with a judge


def test_the_judge_is_asked_about_what_the_list_does_not_know() -> None:
    asked = record(votes={"Romania": 1}, unknown={"Republic of Chad": 2}, options=("Romania", "Moldova"))
    assert pairs_to_judge(asked, CLASSES) == {Pair("Chad", "Republic of Chad")}


def test_where_the_list_does_not_know_the_truth_the_judge_is_asked_about_every_name() -> None:
    asked = record(truth="Tschad", votes={"Chad": 1}, unknown={"X": 1}, options=("Chad", "Moldova"))
    assert pairs_to_judge(asked, CLASSES) == {Pair("Tschad", name) for name in ("Chad", "X", "Moldova")}


def test_two_spellings_of_a_truth_outside_the_list_need_no_judge() -> None:
    asked = record(
        truth="Tschad", votes={"Romania": 1}, unknown={"Tschad": 2, "tschad.": 1}, options=("Romania", "Chad")
    )
    assert pairs_to_judge(asked, CLASSES) == {Pair("Tschad", "Romania"), Pair("Tschad", "Chad")}
    measure_judged(asked, CLASSES, dict.fromkeys(pairs_to_judge(asked, CLASSES), DIFFERENT))
    assert (asked.one_step, asked.consistency, asked.pass_at_k) == (0.75, 1.0, 1.0)


def test_an_answer_that_is_judged_the_same_counts_as_the_truth() -> None:
    asked = record(
        votes={"Romania": 2}, unknown={"Republic of Chad": 3}, options=("Romania", "Andorra"), chosen="Andorra"
    )
    measure_judged(asked, CLASSES, {Pair("Chad", "Republic of Chad"): SAME})
    assert measures_of(asked) == {"two_step": 0, "one_step": 0.6, "consistency": 1, "recall": 0, "pass_at_k": 1}
    assert asked.judged == {"Republic of Chad": "same"}
    assert asked.unjudged == {}


def test_an_answer_that_is_judged_different_is_wrong() -> None:
    asked = record(votes={"Romania": 2}, unknown={"Libya": 3}, options=("Romania", "Andorra"))
    measure_judged(asked, CLASSES, {Pair("Chad", "Libya"): DIFFERENT})
    assert (asked.one_step, asked.unjudged) == (0.0, {})


def test_what_is_unjudged_is_shown_apart_in_each_measure_that_it_could_change() -> None:
    asked = record(votes={"Chad": 1, "Romania": 2}, unknown={"TCD": 2}, options=("Romania", "Chad"), chosen="Romania")
    measure_judged(asked, CLASSES, {Pair("Chad", "TCD"): UNJUDGED})
    assert measures_of(asked) == {"two_step": 0, "one_step": 0.2, "consistency": 0, "recall": 1, "pass_at_k": 1}
    assert asked.unjudged == {"one_step": 0.6 - 0.2, "consistency": 1.0}
    assert asked.judged == {"TCD": "unjudged: timeout"}


def test_the_choice_is_judged_where_the_list_does_not_know_the_truth() -> None:
    asked = record(truth="Tschad", votes={"Chad": 2}, options=("Chad", "Moldova"), chosen="Chad", greedy="Chad")
    verdicts = {Pair("Tschad", "Chad"): SAME, Pair("Tschad", "Moldova"): DIFFERENT}
    measure_judged(asked, CLASSES, verdicts)
    assert measures_of(asked) == {"two_step": 1, "one_step": 1, "consistency": 1, "recall": 1, "pass_at_k": 1}
    measure_judged(asked, CLASSES, {**verdicts, Pair("Tschad", "Chad"): UNJUDGED})
    assert set(measures_of(asked).values()) == {0.0}
    assert asked.unjudged == dict.fromkeys(MEASURES, 1.0)


names = st.sampled_from(["Chad", "Romania", "Andorra", "Moldova"])


@given(
    st.dictionaries(names, st.integers(1, 4)),
    st.dictionaries(st.sampled_from(["TCD", "Libya", "Roumania"]), st.integers(1, 4)),
    st.lists(st.sampled_from([SAME, DIFFERENT, UNJUDGED]), min_size=3, max_size=3),
    st.integers(0, 1),
)
def test_a_verdict_moves_a_measure_only_within_what_was_unjudged(
    votes: dict[str, int], unknown: dict[str, int], given_verdicts: list[Verdict], letter: int
) -> None:
    question = build_question(Votes(votes), CLASSES, num_options=3, seed=0)
    assert isinstance(question, Question)
    asked = record(votes=votes, unknown=unknown, options=question.options, chosen=question.options[letter])
    pairs = [Pair("Chad", name) for name in ("TCD", "Libya", "Roumania")]
    measure_judged(asked, CLASSES, dict.fromkeys(pairs, UNJUDGED))
    least, span = measures_of(asked), dict(asked.unjudged)
    measure_judged(asked, CLASSES, dict(zip(pairs, given_verdicts, strict=True)))
    for name, value in measures_of(asked).items():
        assert least[name] <= value <= least[name] + span.get(name, 0.0) + 1e-12


def test_without_unknown_answers_the_judge_changes_nothing() -> None:
    asked = record(votes={"Chad": 3, "Romania": 1}, unanswered=2, options=("Chad", "Romania"), chosen="Chad")
    measure(asked)
    plain = measures_of(asked)
    measure_judged(asked, CLASSES, {})
    assert measures_of(asked) == plain
