"""The breakdowns of questions, by hand."""

import math
from typing import Any

import pytest
from test_records import asked

from divek_verl.diagnostics import BREAKDOWNS, averages, base_classes, base_names, vote_entropy

FULL: dict[str, Any] = {
    "votes": {"Chad": 2, "Romania": 1},
    "options": ["Romania", "Chad", "Mali"],
    "answer": "B",
    "choices": ["B", "A", None, "A"],
    "rewards": [2.0, 1.0, 0.0, 1.0],
    "formats": [1.0, 1.0, 0.0, 1.0],
}
NO_CHOICE = {"choices": [], "rewards": [], "formats": []}
THIRD, HALF = 1 / 3, 0.5
IS, NOT = (1, 1.0, None), (1, 0.0, None)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("groups", {}, {"mixed": IS, "all right": NOT, "all wrong": NOT}),
        ("groups", {"rewards": [1.0] * 4}, {"mixed": NOT, "all right": NOT, "all wrong": IS}),
        ("groups", {"rewards": [1.0]}, {}),
        ("reward", {}, {"format": (4, 0.75, None), "answer": (1, 0.25, None)}),
        ("chosen_letter", {}, {"A": (1, 2 / 3, 0.0), "B": (1, THIRD, 1.0), "C": (1, 0.0, 0.0)}),
        ("chosen_letter", {"answer": None}, {}),
        ("accuracy_by_position", {}, {"B": (1, 0.25, THIRD)}),
        ("accuracy_by_options", {"rollout_failures": {"x": 1}}, {"3": (1, 0.2, THIRD)}),
        ("accuracy_by_options", NO_CHOICE, {}),
        ("accuracy_by_truth", {}, {"voted for": (1, 0.25, THIRD)}),
        ("accuracy_by_truth", {"votes": {"Romania": 3}}, {"filler": (1, 0.25, THIRD)}),
        ("accuracy_by_truth", {"votes": {"Romania": 3}, "injected": True}, {"injected": (1, 0.25, THIRD)}),
        ("accuracy_by_truth", {"answer": None}, {"not an option": (1, 0.0, 0.0)}),
        ("accuracy_by_fillers", {}, {"with fillers": (1, 0.25, THIRD)}),
        ("accuracy_by_fillers", {"options": ["Romania", "Chad"]}, {"without fillers": (1, 0.25, HALF)}),
        # Once the policy keeps its majority and is right; twice it overrides it and is wrong.
        ("second_step", {}, {"overrides it": (2, 0.0, 1.0), "keeps the majority": (1, 1.0, 1.0)}),
        ("second_step", {"votes": {}}, {}),
        ("second_step", {"choices": ["Z", "none", ""]}, {}),
    ],
)  # fmt: skip
def test_a_breakdown_by_hand(name: str, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    parts = averages(BREAKDOWNS[name], [asked(**{**FULL, **changes})])
    found = {part: (n.count, n.value, None if math.isnan(n.reference) else n.reference) for part, n in parts.items()}
    assert found == expected


def test_parts_are_averaged_and_stand_in_the_order_of_letters_and_numbers() -> None:
    records = [asked(**FULL), asked(**FULL | {"options": [*"abcdefghij"]}), asked(**FULL | {"choices": ["B"]})]
    parts = averages(BREAKDOWNS["accuracy_by_options"], records)
    assert list(parts) == ["3", "10"] and (parts["3"].count, parts["3"].value) == (2, (0.25 + 1.0) / 2)


def test_base_classes_are_those_of_training_and_base_sets_however_they_are_spelled() -> None:
    new = asked(
        split="val", data_source="divek/flags/new", truth="Mali", votes={"Mali": 5}, unknown={"chad": 3, "X": 2}
    )
    base = asked(split="val", data_source="divek/flags/base")
    assert base_classes([base, new, asked(truth="Peru")]) == {"Chad", "Peru"}
    parts = averages(base_names(["CHAD"]), [base, new])
    assert {part: (n.count, n.value) for part, n in parts.items()} == {"divek/flags/new": (1, 0.3)}
    assert averages(base_names([]), [new]) == {}


def test_the_entropy_of_votes_is_in_bits() -> None:
    assert vote_entropy(asked(votes={"a": 4}, unknown={"b": 4})) == 1.0
    assert vote_entropy(asked(votes={"a": 4})) == vote_entropy(asked(votes={})) == 0.0
