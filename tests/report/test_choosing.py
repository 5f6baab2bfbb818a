"""Which images are shown as examples."""

from divek_verl.report.choosing import choose_examples
from divek_verl.report.lines import RecordedVisit
from divek_verl.report.pairs import Pair

EVEN, ONE_SIDED = {"Chad": 4, "Romania": 4}, {"Chad": 7, "Romania": 1}


def make_pair(name: str, before: bool, after: bool, votes: dict[str, int], truth: str = "Chad") -> Pair:
    def visit(step: int, right: bool) -> RecordedVisit:
        return RecordedVisit(
            step=step,
            split="val",
            data_source="divek/flags/base",
            image_id=name,
            truth=truth,
            votes=votes,
            options=[truth, "Romania"],
            answer="A",
            choices=["A" if right else "B"],
        )

    return Pair(visit(0, before), visit(9, after))


def test_the_examples_are_one_learnt_one_confusable_and_one_still_wrong() -> None:
    pairs = [
        make_pair("a", True, True, ONE_SIDED),
        make_pair("b", True, True, EVEN),
        make_pair("c", False, False, ONE_SIDED),
        make_pair("d", False, True, ONE_SIDED),
        make_pair("e", False, True, EVEN),
        make_pair("f", False, False, EVEN),
    ]
    chosen = choose_examples(pairs)
    assert [pair.name[1] for pair in chosen] == ["e", "b", "f"]
    outcomes = [pair.outcome for pair in chosen]
    assert outcomes == ["Wrong before, right after", "Right both times", "Still wrong"]
    assert choose_examples(pairs[::-1]) == chosen


def test_a_kind_that_no_image_shows_gives_its_place_away() -> None:
    pairs = [make_pair(name, True, True, EVEN) for name in "abcd"]
    assert [pair.name[1] for pair in choose_examples(pairs)] == ["b", "a", "c"]
    assert len(choose_examples(pairs[:2])) == 2


def test_an_image_that_was_wrong_all_along_comes_before_one_that_became_wrong() -> None:
    became, stayed = make_pair("a", True, False, EVEN), make_pair("b", False, False, ONE_SIDED)
    learnt, right = make_pair("c", False, True, EVEN), make_pair("d", True, True, EVEN)
    assert choose_examples([became, stayed, learnt, right])[-1] == stayed
    assert choose_examples([became, learnt, right])[-1] == became


def test_a_class_is_shown_twice_only_where_there_is_no_other() -> None:
    pairs = [
        make_pair("a", False, True, EVEN),
        make_pair("b", True, True, EVEN),
        make_pair("c", True, True, {"Mali": 7, "Guinea": 1}, truth="Mali"),
    ]
    assert [pair.before.truth for pair in choose_examples(pairs)][:2] == ["Chad", "Mali"]
