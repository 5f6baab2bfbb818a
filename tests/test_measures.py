import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.labels import ClassNames
from divek_verl.measures import NO_MEASURES, measure_votes
from divek_verl.question import Question, Skip, build_question
from divek_verl.votes import Votes

NAMES = ("Ant", "Bee", "Cat", "Dog", "Emu", "Fox", "Gnu")
CLASSES = ClassNames(NAMES)
VOTES = st.builds(
    Votes,
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 20)),
    st.dictionaries(st.sampled_from(["Yak", "??"]), st.integers(1, 5)),
    st.integers(0, 20),
)


def test_what_the_votes_of_one_image_say() -> None:
    votes = Votes({"Ant": 10, "Bee": 5, "Cat": 1}, {"Yak": 2}, unanswered=2)
    question = Question(("Cat", "Ant", "Bee"), answer=None, truth_injected=False)
    assert measure_votes(votes, "Ant", question, greedy="Ant") == {
        "one_step_greedy": 1.0,
        "one_step": 0.5,
        "consistency": 1.0,
        "recall": 1.0,
        "pass_at_k": 1.0,
    }
    assert measure_votes(votes, "Bee", question, greedy="Ant") == {
        "one_step_greedy": 0.0,
        "one_step": 0.25,
        "consistency": 0.0,
        "recall": 1.0,
        "pass_at_k": 1.0,
    }
    assert measure_votes(votes, "Dog", question) == NO_MEASURES


def test_a_truth_that_was_put_among_the_options_is_not_recalled() -> None:
    votes = Votes({"Ant": 6, "Bee": 3, "Cat": 1})
    question = Question(("Ant", "Cat"), answer=1, truth_injected=True)
    measures = measure_votes(votes, "Cat", question)
    assert measures["recall"] == 0.0
    # One sample did answer it.
    assert measures["pass_at_k"] == 1.0


def test_a_truth_that_filled_the_list_up_by_luck_is_not_recalled() -> None:
    """In validation the second option of an image with one answer comes from the class list, blindly."""
    votes = Votes({"Ant": 20})
    lucky = [seed for seed in range(200) if "Bee" in build_question(votes, CLASSES, seed=seed).options]  # type: ignore[union-attr]
    assert lucky
    question = build_question(votes, CLASSES, seed=lucky[0])
    assert measure_votes(votes, "Bee", question) == NO_MEASURES


def test_an_easy_image_is_recalled() -> None:
    votes = Votes({"Ant": 20})
    assert measure_votes(votes, "Ant", Skip("easy"), greedy="Ant") == dict.fromkeys(NO_MEASURES, 1.0)


def test_no_answer_at_all_measures_nothing() -> None:
    votes = Votes({}, unanswered=20)
    assert measure_votes(votes, "Ant", build_question(votes, CLASSES, seed=0)) == NO_MEASURES


@given(VOTES, st.sampled_from(NAMES), st.booleans(), st.integers(2, 7), st.integers())
def test_each_measure_bounds_the_next(votes: Votes, truth: str, training: bool, num_options: int, seed: int) -> None:
    question = build_question(
        votes, CLASSES, truth=truth if training else None, num_options=num_options, skip_easy=True, seed=seed
    )
    measures = measure_votes(votes, truth, question)
    assert list(measures) == list(NO_MEASURES)
    assert all(isinstance(value, float) and 0.0 <= value <= 1.0 for value in measures.values())
    assert measures["consistency"] <= measures["recall"] <= measures["pass_at_k"]
    assert measures["one_step"] <= measures["pass_at_k"]
    assert (measures["one_step"] > 0) == (measures["pass_at_k"] == 1.0)


@given(VOTES, st.sampled_from(NAMES), st.integers(2, 7), st.integers())
def test_recall_does_not_depend_on_whether_the_truth_was_given(
    votes: Votes, truth: str, num_options: int, seed: int
) -> None:
    """Training and validation report one measure: putting the truth among the options changes the question only."""
    recalls = {
        measure_votes(
            votes, truth, build_question(votes, CLASSES, truth=given_truth, num_options=num_options, seed=seed)
        )["recall"]
        for given_truth in (None, truth)
    }
    assert len(recalls) == 1


@pytest.mark.parametrize("key", list(NO_MEASURES))
def test_what_is_not_measured_is_zero(key: str) -> None:
    assert NO_MEASURES[key] == 0.0
