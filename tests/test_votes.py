import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.votes import Votes, count_votes

CLASSES = ClassNames(["Sooty Tern", "Common Gull", "Brandt's Cormorant"], {"Common Gull": ["Mew Gull"]})


def _answers(*names: str) -> list[str]:
    return [f"<think>Hm.</think><answer>{name}</answer>" for name in names]


def test_spellings_and_aliases_of_one_class_are_counted_together() -> None:
    votes = count_votes(_answers("Brandt Cormorant", "mew gull", "brandt\u2019s_cormorant."), CLASSES)
    assert votes == Votes({"Brandt's Cormorant": 2, "Common Gull": 1})


def test_nothing_disappears() -> None:
    completions = [*_answers("Sooty Tern", "Kiwi", "kiwi", "Kiwi", "", " "), "no element", "<answer>Sooty Tern", ""]
    votes = count_votes(completions, CLASSES)
    assert votes.counts == {"Sooty Tern": 1}
    assert list(votes.unknown.items()) == [("Kiwi", 2), ("kiwi", 1)]
    assert votes.unanswered == 5
    assert (votes.total, votes.answered) == (9, 4)


def test_a_class_is_never_found_by_a_substring() -> None:
    assert count_votes(_answers("the Sooty Tern"), CLASSES).counts == {}


def test_ranking_is_by_count_then_first_seen() -> None:
    votes = count_votes(_answers("Common Gull", "Sooty Tern", "Brandt Cormorant", "Brandt Cormorant"), CLASSES)
    assert votes.ranking == ("Brandt's Cormorant", "Common Gull", "Sooty Tern")
    assert votes.top == "Brandt's Cormorant"


def test_votes_rank_themselves_however_they_are_made() -> None:
    votes = Votes({"a": 1, "b": 3, "c": 0, "d": 3}, {"x": 1, "y": 2})
    assert votes.ranking == ("b", "d", "a")
    assert list(votes.unknown) == ["y", "x"]
    # A class of the list comes before a name outside it.
    assert [each.top_answer for each in (votes, Votes({}, votes.unknown), Votes({}, unanswered=3))] == ["b", "y", None]


def test_one_step_accuracy_is_a_share_of_all_completions() -> None:
    votes = Votes({"Sooty Tern": 2, "Common Gull": 1}, {"Kiwi": 1}, unanswered=4)
    assert votes.one_step_accuracy("Sooty Tern") == 2 / 8
    assert votes.one_step_accuracy("Brandt's Cormorant") == 0.0


def test_without_a_class_list_each_spelling_counts_by_itself() -> None:
    votes = count_votes([*_answers("Sooty Tern", "sooty tern", "Kiwi", "Kiwi", ""), "nothing"], None)
    assert votes == Votes({"Kiwi": 2, "Sooty Tern": 1, "sooty tern": 1}, {}, 2)


def test_no_completions_are_no_votes() -> None:
    votes = count_votes([], CLASSES)
    assert (votes.total, votes.answered, votes.ranking, votes.top) == (0, 0, (), None)
    assert votes.one_step_accuracy("Sooty Tern") == 0.0


@given(st.lists(st.sampled_from([*_answers("Sooty Tern", "Mew Gull", "Kiwi", "Emu", ""), "nothing"])))
def test_json_round_trip_is_exact(completions: list[str]) -> None:
    votes = count_votes(completions, CLASSES)
    restored = Votes.from_json(json.loads(json.dumps(votes.to_json())))
    assert restored == votes
    assert restored.ranking == votes.ranking
    assert list(restored.unknown) == list(votes.unknown)
    assert votes.total == len(completions)


def test_votes_do_not_change() -> None:
    counts = {"a": 1}
    votes = Votes(counts)
    counts["a"] = 9
    assert votes.counts == {"a": 1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        votes.unanswered = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "record",
    [
        {},
        None,
        {"counts": {"a": 1}, "unknown": {}},
        {"counts": ["a"], "unknown": {}, "unanswered": 0},
        {"counts": {"a": -1}, "unknown": {}, "unanswered": 0},
        {"counts": {"a": 1.5}, "unknown": {}, "unanswered": 0},
        {"counts": {"a": 1}, "unknown": {}, "unanswered": None},
    ],
)
def test_a_broken_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(SetupError, match="mine"):
        Votes.from_json(record)
