import random
from collections import Counter
from statistics import fmean
from typing import Any

import pytest

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.question import Skip, build_question
from divek_verl.votes import Votes, count_votes
from divek_verl.waves import URNS, check_waves, probability_unchanged, should_stop

NAMES = ("Ant", "Bee", "Cat", "Dog", "Emu", "Fox", "Gnu")
CLASSES = ClassNames(NAMES)
UNKNOWN, MISSING = "<answer>Kiwi</answer>", ""


def _asked(votes: Votes, classes: ClassNames, rules: dict[str, Any]) -> frozenset[str]:
    """What stopping at these votes would ask; nothing for an easy image."""
    built = build_question(votes, classes, **{"seed": 0, **rules})
    return frozenset() if isinstance(built, Skip) else frozenset(built.options)


# ---------------------------------------------------------------- the sizes of the waves


@pytest.mark.parametrize("waves", [[8, 6, 6], (20,), [1] * 20])
def test_waves_that_add_up_are_kept(waves: list[int]) -> None:
    assert check_waves(waves, 20) == tuple(waves)


def test_no_waves_are_one_wave() -> None:
    assert check_waves(None, 20) == (20,)


def test_waves_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(SetupError, match="hold 19 answers, but num_samples is 20"):
        check_waves([8, 6, 5], 20)


@pytest.mark.parametrize("waves", [[], [20, 0], [25, -5], [10.0, 10], ["8", "12"], "8+6+6", [True] * 20])
def test_what_is_no_wave_is_refused(waves: Any) -> None:
    with pytest.raises(SetupError, match="whole numbers"):
        check_waves(waves, 20)


# ---------------------------------------------------------------- the test against what can be worked out


def _exactly_after_one(votes: Votes, urn: tuple[float, float], rules: dict[str, Any]) -> float:
    """By listing all kinds that one more answer can be; ``rules`` must leave no tie for the first seen to decide."""
    concentration, discount = urn
    answers = [f"<answer>{name}</answer>" for name in NAMES]
    so_far = [a for a, name in zip(answers, NAMES, strict=True) for _ in range(votes.counts.get(name, 0))]
    so_far += [UNKNOWN] * sum(votes.unknown.values()) + [MISSING] * votes.unanswered
    now, seen = _asked(votes, CLASSES, rules), Counter(so_far)
    kinds = [*answers, UNKNOWN, MISSING]
    new = (concentration + discount * len(seen)) / (len(kinds) - len(seen)) if len(seen) < len(kinds) else 0.0
    odds = [seen[kind] - discount if kind in seen else new for kind in kinds]
    same = [_asked(count_votes([*so_far, kind], CLASSES), CLASSES, rules) == now for kind in kinds]
    return sum(o for o, kept in zip(odds, same, strict=True) if kept) / sum(odds)


@pytest.mark.parametrize("urn", [(1.0, 0.0), (1.0, 0.5), (10.0, 0.25)])
@pytest.mark.parametrize(
    ("votes", "rules"),
    [
        (Votes({"Ant": 5, "Bee": 2}), {}),
        (Votes({"Ant": 5, "Bee": 2}, {"Kiwi": 3}, 2), {}),
        (Votes({"Ant": 5, "Bee": 2}), {"truth": "Cat"}),
        (Votes({"Ant": 8}, unanswered=1), {"truth": "Ant", "min_options": 3}),
        (Votes({"Ant": 8}), {"truth": "Ant"}),
        (Votes({"Ant": 8, "Bee": 2}), {"truth": "Ant", "skip_easy": False}),
        (Votes({"Ant": 6, "Bee": 4, "Cat": 2}), {"num_options": 2}),
        (Votes({"Ant": 6, "Bee": 4, "Cat": 2}), {"num_options": 2, "truth": "Dog"}),
        (Votes({"Ant": 9, "Bee": 4, "Cat": 1}), {"num_options": "auto"}),
        (Votes({"Ant": 9, "Bee": 4, "Cat": 2}), {"num_options": "auto", "truth": "Dog", "auto_max_options": 3}),
        (Votes({"Ant": 9, "Bee": 4, "Cat": 1}), {"num_options": "auto", "auto_share": 0.6, "min_options": 2}),
    ],
)
def test_one_more_answer_changes_the_question_as_often_as_it_must(
    votes: Votes, rules: dict[str, Any], urn: tuple[float, float]
) -> None:
    exact = _exactly_after_one(votes, urn, rules)
    found = probability_unchanged(votes, 1, CLASSES, urns=[urn], draws=4000, seed=0, **rules)
    # Four standard errors, and what (same + 1) / (draws + 2) adds.
    assert found == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 4000) ** 0.5 + 1e-3)


def test_a_tie_goes_to_the_class_that_is_likelier_to_have_come_first() -> None:
    """Cat draws level with Bee, and is ahead in the ranking only if its one answer came before Bee's two."""
    votes = Votes({"Ant": 5, "Bee": 2, "Cat": 1})
    found = probability_unchanged(votes, 1, CLASSES, num_options=2, urns=[(1.0, 0.0)], draws=20_000, seed=0)
    assert found == pytest.approx(1 - 1 / 9 * 1 / 3, abs=0.006)


def test_a_tie_that_the_votes_have_decided_stays_decided() -> None:
    votes = Votes({"Ant": 5, "Cat": 1, "Bee": 1})
    found = probability_unchanged(votes, 1, CLASSES, num_options=2, urns=[(1e-9, 0.0)], draws=20_000, seed=0)
    assert found == pytest.approx(6 / 7, abs=0.01)


def _drawn(urn: tuple[float, float], count: int, rng: random.Random) -> list[str]:
    """Completions one after the other, each kind with the probability that defines the urn."""
    concentration, discount = urn
    kinds = [*(f"<answer>{name}</answer>" for name in NAMES), UNKNOWN, MISSING]
    drawn: list[str] = []
    for _ in range(count):
        seen = Counter(drawn)
        unseen = len(kinds) - len(seen)
        new = (concentration + discount * len(seen)) / unseen if unseen else 0.0
        drawn += rng.choices(kinds, [seen[kind] - discount if kind in seen else new for kind in kinds])
    return drawn


@pytest.mark.parametrize(
    "rules",
    [
        {"num_options": 5, "truth": "Ant"},
        {"num_options": 3, "truth": "Ant", "skip_easy": False},
        {"num_options": 2},
        {"num_options": "auto", "truth": "Bee"},
    ],
    ids=str,
)
def test_what_stops_at_a_confidence_stays_unchanged_at_least_so_often(rules: dict[str, Any]) -> None:
    rng = random.Random(0)
    looks: list[tuple[float, bool]] = []
    for number in range(200):
        completions = _drawn(rng.choice(URNS), 20, rng)
        final = _asked(count_votes(completions, CLASSES), CLASSES, rules)
        for samples in (8, 14):
            votes = count_votes(completions[:samples], CLASSES)
            found = probability_unchanged(votes, 20 - samples, CLASSES, draws=100, seed=number, **rules)
            looks.append((found, _asked(votes, CLASSES, rules) == final))
    for confidence in (0.0, 0.5, 0.7, 0.8, 0.9):
        stopped = [(found, same) for found, same in looks if found >= confidence]
        stated, kept = fmean(found for found, _ in stopped), fmean(same for _, same in stopped)
        # Two looks at one image are not independent: the error is that of half as many.
        error = (stated * (1 - stated) / (len(stopped) / 2)) ** 0.5
        assert kept >= stated - 2.5 * error
        assert confidence > 0 or kept <= stated + 2.5 * error + 0.02
    assert len([found for found, _ in looks if found >= 0.8]) > 20


# ---------------------------------------------------------------- what it says


VOTES = Votes({"Ant": 5, "Bee": 2}, {"Kiwi": 1})


def test_when_nothing_remains_nothing_changes() -> None:
    assert probability_unchanged(VOTES, 0, CLASSES, seed=0) == 1.0


def test_equal_arguments_give_equal_results_in_any_order_of_calls() -> None:
    first = probability_unchanged(VOTES, 12, CLASSES, seed="x")
    random.seed(5)
    probability_unchanged(VOTES, 12, CLASSES, seed="y")
    assert probability_unchanged(VOTES, 12, CLASSES, seed="x") == first


def test_global_randomness_is_left_alone() -> None:
    random.seed(3)
    state = random.getstate()
    probability_unchanged(VOTES, 12, CLASSES, seed=0)
    assert random.getstate() == state


def test_more_answers_to_come_make_a_change_likelier() -> None:
    found = [probability_unchanged(VOTES, remaining, CLASSES, truth="Ant", seed=0) for remaining in (1, 6, 40)]
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] > 0.3


def test_scattered_answers_promise_more_change_than_agreeing_ones() -> None:
    """Both lists of options are short, so that any new class would join: the votes say how likely one is."""
    agreeing, scattered = Votes({"Ant": 8}), Votes({"Ant": 2}, unanswered=1)
    arguments: dict[str, Any] = {"truth": "Bee", "seed": 0}
    assert probability_unchanged(agreeing, 12, CLASSES, **arguments) > probability_unchanged(
        scattered, 12, CLASSES, **arguments
    )


def test_an_easy_image_may_turn_hard_where_its_options_stay() -> None:
    """An unknown or a missing answer undoes the verdict, but brings no option."""
    arguments: dict[str, Any] = {"truth": "Ant", "ranking": ["Ant", "Bee"], "seed": 0}
    assert probability_unchanged(Votes({"Ant": 14}), 6, CLASSES, **arguments) < 0.9
    assert probability_unchanged(Votes({"Ant": 14}), 6, CLASSES, skip_easy=False, **arguments) == 201 / 202


def test_a_ranking_that_no_vote_can_change_leaves_the_verdict_alone() -> None:
    arguments: dict[str, Any] = {"truth": "Ant", "ranking": ["Dog", "Emu"], "seed": 0}
    assert probability_unchanged(VOTES, 12, CLASSES, **arguments) == 201 / 202


def test_no_answers_at_all_can_still_be_asked_about() -> None:
    assert 0 < probability_unchanged(Votes({}), 20, CLASSES, seed=0) < 0.5


def test_a_list_whose_classes_were_all_seen_ends() -> None:
    votes = Votes({"Ant": 2, "Bee": 1}, {"Kiwi": 1}, 1)
    assert probability_unchanged(votes, 50, ClassNames(["Ant", "Bee"]), seed=0) == 201 / 202


def test_stopping_compares_with_the_confidence() -> None:
    found = probability_unchanged(VOTES, 6, CLASSES, truth="Ant", seed=0)
    assert should_stop(VOTES, 6, found, CLASSES, truth="Ant", seed=0)
    assert not should_stop(VOTES, 6, found + 1e-9, CLASSES, truth="Ant", seed=0)


def test_full_confidence_waits_for_the_last_answer() -> None:
    surest: dict[str, Any] = {"ranking": ["Dog", "Emu"], "seed": 0}
    assert not should_stop(VOTES, 1, 1.0, CLASSES, **surest)
    assert should_stop(VOTES, 0, 1.0, CLASSES, **surest)


@pytest.mark.parametrize("confidence", [0, -0.1, 1.1, "0.9", None, True, float("nan")])
def test_what_is_no_confidence_is_refused(confidence: Any) -> None:
    with pytest.raises(SetupError, match="stop_confidence"):
        should_stop(VOTES, 6, confidence, CLASSES, seed=0)


def test_impossible_rules_are_refused_as_by_the_question() -> None:
    with pytest.raises(SetupError, match="num_options"):
        probability_unchanged(VOTES, 6, CLASSES, num_options=1, seed=0)
    with pytest.raises(SetupError, match="truth 'Yak'"):
        probability_unchanged(VOTES, 6, CLASSES, truth="Yak", seed=0)
