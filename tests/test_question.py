import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.question import Question, QuestionRules, Skip, build_question, question_seed
from divek_verl.votes import Votes

NAMES = ("Ant", "Bee", "Cat", "Dog", "Emu", "Fox", "Gnu")
CLASSES = ClassNames(NAMES)
# Ranked Ant, Bee, Cat, Dog, Emu, Fox.
VOTES = Votes({"Ant": 6, "Bee": 5, "Cat": 4, "Dog": 3, "Emu": 2, "Fox": 1})
RANKING = ["Gnu", "Held Out", "fox", "Gnu", "Emu", "Dog"]

VOTES_STRATEGY = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 20)).map(Votes)


def _question(votes: Votes, **arguments: object) -> Question:
    built = build_question(votes, CLASSES, **{"seed": 0, **arguments})  # type: ignore[arg-type]
    assert isinstance(built, Question)
    return built


def _auto(**arguments: object) -> dict[str, object]:
    return {"num_options": "auto", **arguments}


@pytest.mark.parametrize(
    ("votes", "arguments", "options", "injected"),
    [
        # The highest voted classes of the list; ties are broken by first seen.
        (VOTES, {}, "Ant Bee Cat Dog Emu", False),
        (Votes({"Gnu": 1, "Fox": 1, "Ant": 1}), {"num_options": 2}, "Fox Gnu", False),
        (Votes({"Held Out": 9, "Ant": 2, "Bee": 1}), {"num_options": 2}, "Ant Bee", False),
        # A truth among them is found, however it is spelled.
        (VOTES, {"truth": "Cat"}, "Ant Bee Cat Dog Emu", False),
        (VOTES, {"truth": "cat."}, "Ant Bee Cat Dog Emu", False),
        # A missing truth, with too few votes or none, replaces the lowest voted option, or joins where there is room.
        (VOTES, {"truth": "Fox"}, "Ant Bee Cat Dog Fox", True),
        (VOTES, {"truth": "Gnu"}, "Ant Bee Cat Dog Gnu", True),
        (Votes({"Ant": 1, "Bee": 1}), {"truth": "Cat"}, "Ant Bee Cat", True),
        # An automatic number counts votes for classes of the list alone, and the spellings of a class together.
        (Votes({"Ant": 9, "Held Out": 30, "Bee": 9, "Cat": 2}, {"Kiwi": 40}, 40), _auto(), "Ant Bee", False),
        (Votes({"Ant": 5, "Bee": 4, "ant": 4, "Cat": 1}), _auto(auto_share=0.7), "Ant Bee", False),
        (Votes({"Ant": 5, "Bee": 4, "ant": 4, "Cat": 1}), _auto(auto_share=0.95), "Ant Bee Cat", False),
        # A missing truth joins it, and replaces the lowest voted only where it is full.
        (Votes({"Ant": 10, "Bee": 9, "Cat": 1}), _auto(truth="Cat"), "Ant Bee Cat", True),
        (Votes({"Ant": 10, "Bee": 9, "Cat": 1}), _auto(truth="Gnu"), "Ant Bee Gnu", True),
        (VOTES, _auto(auto_max_options=3, truth="Gnu"), "Ant Bee Gnu", True),
        (VOTES, _auto(auto_max_options=3), "Ant Bee Cat", False),
        # min_options are the next voted ones before any filler.
        (Votes({"Ant": 18, "Bee": 1, "Cat": 1}), _auto(min_options=3), "Ant Bee Cat", False),
        # A ranking takes the place of the votes, but for the automatic number.
        (VOTES, {"truth": "Bee", "ranking": RANKING, "num_options": 4}, "Bee Emu Fox Gnu", True),
        (Votes({}), {"truth": "Bee", "ranking": ["Gnu", "bee."], "num_options": 4}, "Bee Gnu", False),
        (Votes({"Ant": 10, "Bee": 5, "Cat": 5}), _auto(ranking=RANKING), "Emu Fox Gnu", False),
    ],
)
def test_which_options_are_shown(votes: Votes, arguments: dict[str, Any], options: str, injected: bool) -> None:
    question = _question(votes, **arguments)
    assert sorted(question.options) == options.split()
    assert question.truth_injected == injected
    if "truth" not in arguments:
        assert question.answer is None and question.letter is None
    else:
        assert question.answer is not None
        assert question.options[question.answer] == CLASSES.match(arguments["truth"])


@pytest.mark.parametrize(
    ("votes", "arguments"),
    [
        (Votes({"Ant": 20}), {}),
        (Votes({"Ant": 20}), {"truth": "ant"}),
        # Only votes that name a class of the list count.
        (Votes({"Ant": 19}, {"Kiwi": 1}), {}),
        (Votes({"Ant": 1}, unanswered=19), {}),
        (Votes({"Ant": 2, "Held Out": 9}), {}),
        (Votes({"Ant": 18, "Bee": 2}), {"easy_share": 0.9}),
        # Whatever the number of options and their source.
        (Votes({"Ant": 20}), {"num_options": "auto"}),
        (Votes({"Ant": 20}), {"ranking": RANKING}),
    ],
)
def test_an_image_is_easy_where_the_truth_has_its_share_of_the_listed_votes(
    votes: Votes, arguments: dict[str, Any]
) -> None:
    assert build_question(votes, CLASSES, **{"truth": "Ant", "seed": 0, **arguments}) == Skip("easy")


@pytest.mark.parametrize(
    ("votes", "arguments"),
    [
        (Votes({"Ant": 20}), {"truth": "Ant", "skip_easy": False}),
        (Votes({"Ant": 20}), {"truth": "Bee"}),
        (Votes({"Ant": 20}), {}),
        (Votes({"Ant": 19, "Bee": 1}), {"truth": "Ant"}),
        (Votes({}), {"truth": "Ant"}),
        (Votes({"Held Out": 9}, {"Kiwi": 1}, unanswered=1), {"truth": "Ant"}),
        (Votes({"Ant": 17, "Bee": 3}), {"truth": "Ant", "easy_share": 0.9}),
    ],
)
def test_everything_else_is_a_question(votes: Votes, arguments: dict[str, object]) -> None:
    assert len(_question(votes, **arguments).options) == 2


@given(st.sampled_from([None, *NAMES]), st.integers())
def test_too_few_options_are_filled_up_to_two_from_the_class_list(truth: str | None, seed: int) -> None:
    held_in = ClassNames(["Ant", "Bee", truth or "Cat"]) if truth not in ("Ant", "Bee") else ClassNames(["Ant", "Bee"])
    question = build_question(Votes({}, unanswered=20), held_in, truth=truth, seed=seed)
    assert isinstance(question, Question)
    assert len(set(question.options)) == len(question.options) == 2
    assert set(question.options) <= set(held_in)
    assert question.truth_injected == (truth is not None)


def test_the_filler_differs_from_seed_to_seed() -> None:
    votes = Votes({"Ant": 20})
    fillers = {name for seed in range(50) for name in _question(votes, seed=seed).options}
    assert len(fillers) > 3


@given(VOTES_STRATEGY, st.sampled_from([None, *NAMES]), st.integers(2, 26), st.booleans(), st.integers() | st.text())
def test_every_question_is_sound(
    votes: Votes, truth: str | None, num_options: int, skip_easy: bool, seed: int | str
) -> None:
    built = build_question(votes, CLASSES, truth=truth, num_options=num_options, skip_easy=skip_easy, seed=seed)
    if isinstance(built, Skip):
        assert skip_easy and votes.ranking == (truth,)
        return
    assert 2 <= len(built.options) <= num_options
    assert len(set(built.options)) == len(built.options)
    assert set(built.options) <= set(NAMES)
    assert (built.answer is None) == (truth is None)
    if built.answer is not None:
        assert built.options[built.answer] == truth
    assert built.truth_injected == (truth is not None and truth not in votes.ranking[:num_options])


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([17, 2, 1], 2),
        ([10, 6, 2, 1, 1], 3),  # 18 of 20 are exactly nine tenths
        ([10, 5, 2, 1, 1, 1], 4),
        ([5, 1], 2),
        ([20], 2),  # one is never a question: a filler
        ([1, 1, 1], 3),  # fewer than ten votes: all that they name
        ([1, 1, 1, 1, 1, 1, 1], 7),
    ],
)
def test_auto_shows_the_smallest_set_that_holds_nine_tenths_of_the_votes(counts: list[int], shown: int) -> None:
    votes = Votes(dict(zip(NAMES, counts, strict=False)))
    options = _question(votes, num_options="auto").options
    assert len(options) == shown
    assert set(NAMES[: min(shown, len(counts))]) <= set(options)


@pytest.mark.parametrize(("share", "shown"), [(0.1, 2), (0.55, 2), (0.6, 3), (1, 7)])
def test_the_share_of_auto_can_be_set(share: float, shown: int) -> None:
    # 0.55 of 20 is 11.000000000000002 in floating point.
    votes = Votes(dict(zip(NAMES, [6, 5, 2, 2, 2, 2, 1], strict=True)))
    assert votes.total == 20
    assert len(_question(votes, num_options="auto", auto_share=share).options) == shown


def test_without_votes_an_automatic_set_is_fillers_and_the_truth() -> None:
    question = _question(Votes({}, unanswered=20), truth="Ant", num_options="auto", min_options=4)
    assert len(question.options) == 4
    assert "Ant" in question.options


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ({}, 3),  # the truth and two fillers
        ({"Bee": 20}, 4),  # the truth, the wrong class and two fillers
        ({"Ant": 10, "Bee": 10}, 4),
        ({"Bee": 10, "Cat": 10}, 3),  # two wrong classes were named
    ],
)
def test_few_class_fillers_join_a_question_with_at_most_one_wrong_class(counts: dict[str, int], shown: int) -> None:
    votes = Votes(counts, unanswered=20 - sum(counts.values()))
    question = _question(votes, truth="Ant", few_class_fillers=2)
    assert len(question.options) == shown
    assert {"Ant", *counts} <= set(question.options)
    # Without a truth there is no wrong class.
    assert len(_question(votes, few_class_fillers=2).options) == max(2, len(counts))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"min_options": 4}, 4),
        ({"min_options": 5}, 5),
        ({"min_options": 26}, 5),  # num_options is the limit
        ({"min_options": 26, "num_options": 26}, 7),  # and the list
        ({"min_options": 26, "num_options": "auto"}, 7),
        ({"min_options": 26, "num_options": "auto", "auto_max_options": 6}, 6),
    ],
)
def test_short_questions_are_filled_up_to_min_options(arguments: dict[str, object], shown: int) -> None:
    question = _question(Votes({"Ant": 3, "Bee": 1}), truth="Cat", **arguments)
    assert len(question.options) == len(set(question.options)) == shown
    assert {"Ant", "Bee", "Cat"} <= set(question.options) <= set(NAMES)


def test_an_empty_ranking_is_filled_up() -> None:
    assert len(_question(VOTES, ranking=[]).options) == 2


@given(
    st.dictionaries(st.sampled_from([*NAMES, "Held Out", "ant"]), st.integers(1, 20)),
    st.sampled_from([None, *NAMES]),
    st.integers(2, 26),
    st.integers(2, 26),
    st.floats(0.01, 1.0),
    st.none() | st.lists(st.sampled_from([*NAMES, "Held Out", "ant"])),
)
def test_every_automatic_question_is_sound(
    counts: dict[str, int], truth: str | None, least: int, most: int, share: float, ranking: list[str] | None
) -> None:
    question = _question(
        Votes(counts),
        truth=truth,
        skip_easy=False,
        num_options="auto",
        min_options=least,
        auto_max_options=most,
        auto_share=share,
        ranking=ranking,
    )
    assert min(least, most, len(NAMES)) <= len(question.options) <= most
    assert len(set(question.options)) == len(question.options)
    assert set(question.options) <= set(NAMES)
    assert question.answer is None if truth is None else question.options[question.answer or 0] == truth


@given(st.permutations(NAMES), st.permutations(NAMES), st.integers() | st.text())
def test_the_shuffle_depends_on_the_seed_alone(one: list[str], other: list[str], seed: int | str) -> None:
    """The rank of the option at each letter is the same, whatever the names and the truth."""

    def ranks(order: list[str], **arguments: object) -> list[int]:
        votes = Votes({name: 10 - rank for rank, name in enumerate(order[:5])})
        return [order.index(name) for name in _question(votes, seed=seed, **arguments).options]

    assert ranks(one) == ranks(other) == ranks(one, truth=one[2])
    # An injected truth stands where the option that it replaces would have stood.
    assert [5 if rank == 4 else rank for rank in ranks(one)] == ranks(one, truth=one[5])


def test_a_filler_takes_the_place_that_a_voted_option_would_have() -> None:
    for seed in range(20):
        filled = _question(Votes({"Ant": 2}), seed=seed).options
        voted = _question(Votes({"Ant": 2, "Bee": 1}), seed=seed).options
        assert filled.index("Ant") == voted.index("Ant")


def test_every_letter_can_be_right() -> None:
    assert {_question(VOTES, truth="Ant", seed=seed).letter for seed in range(100)} == set("ABCDE")


def test_a_number_and_its_text_are_one_seed() -> None:
    assert _question(VOTES, seed=7) == _question(VOTES, seed="7")


_SCRIPT = """
import json
from divek_verl.labels import ClassNames
from divek_verl.question import build_question
from divek_verl.votes import Votes

classes = ClassNames(["Ant", "Bee", "Cat", "Dog", "Emu", "Fox", "Gnu"])
seeds = [0, 1, -5, "cub/001.jpg-3", "é"]
votes = [Votes({"Ant": 6, "Bee": 5, "Cat": 4}), Votes({}, unanswered=3)]
cases = [(v, t, s) for v in votes for t in (None, "Gnu") for s in seeds]
print(json.dumps([build_question(v, classes, truth=t, seed=s).options for v, t, s in cases]))
"""


def _options_in_another_process(hash_seed: str) -> list[list[str]]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    options: list[list[str]] = json.loads(result.stdout)
    return options


def test_another_process_builds_the_same_question() -> None:
    assert _options_in_another_process("1") == _options_in_another_process("2")


def test_the_order_is_pinned() -> None:
    """A change here would make questions of earlier runs impossible to build again."""
    assert _question(VOTES, truth="Gnu", seed=0).options == ("Gnu", "Bee", "Dog", "Ant", "Cat")


def test_text_has_one_lettered_line_an_option() -> None:
    question = Question(("Sooty Tern", "F/A-18", "Emu"), answer=1, truth_injected=False)
    assert question.text == "A. Sooty Tern\nB. F/A-18\nC. Emu"
    assert question.letter == "B"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_options", [1, 0, -1, 27, 2.5, "5", "automatic", None, True]),
        ("min_options", [1, 27, 2.5]),
        ("auto_max_options", [1, 27]),
        ("auto_share", [0, 1.01, float("nan"), True, "0.9"]),
        ("easy_share", [1.1]),
    ],
)
def test_rules_that_cannot_work_are_refused(name: str, values: list[Any]) -> None:
    for value in values:
        rules = {"num_options": "auto", name: value}
        with pytest.raises(SetupError, match=f"{name} is {value!r}"):
            QuestionRules(**rules)
        with pytest.raises(SetupError, match=f"{name} is {value!r}"):
            _question(VOTES, **rules)


def test_what_no_question_can_be_built_from_is_refused() -> None:
    with pytest.raises(SetupError, match="truth 'Yak'"):
        _question(VOTES, truth="Yak")
    with pytest.raises(SetupError, match="seed"):
        _question(VOTES, seed=None)
    with pytest.raises(SetupError, match="two classes"):
        build_question(VOTES, ClassNames(["Ant"]), seed=0)


def test_rules_build_what_build_question_builds() -> None:
    rules = QuestionRules(num_options="auto", min_options=3, auto_share=0.5, auto_max_options=4, skip_easy=False)
    built = rules.build(VOTES, CLASSES, truth="Gnu", seed="s")
    arguments = dataclasses.asdict(rules)
    assert built == build_question(VOTES, CLASSES, truth="Gnu", seed="s", **arguments)
    assert rules.most_options == 4 and QuestionRules(num_options=7).most_options == 7


def test_the_seed_of_a_question_is_one_composition() -> None:
    assert question_seed(5, "divek/cub/base", "a.jpg") == "5-divek/cub/base-a.jpg"
    assert question_seed(5, "divek/cub/base", "a.jpg", 3) == "5-divek/cub/base-a.jpg-3"
