"""The confusion matrix, by hand."""

from typing import Any

from divek_verl.report.lines import RecordedVisit
from divek_verl.report.matrix import CLASSES_SHOWN, look_alikes_together, matrices
from divek_verl.report.pairs import Pair


def visit(truth: str, votes: dict[str, int], **changes: Any) -> RecordedVisit:
    place: dict[str, Any] = {"step": 0, "split": "val", "data_source": "divek/flags/base", "image_id": truth}
    return RecordedVisit(**{**place, "truth": truth, "votes": votes, **changes})


def test_the_matrix_by_hand() -> None:
    before = [
        visit("Chad", {"Chad": 4, "Romania": 2}, unanswered=2),
        visit("Chad", {"Romania": 8}),
        visit("Mali", {}, unknown={"Atlantis": 3}, unanswered=1),
    ]
    after = [visit("Chad", {"Chad": 8}), visit("Chad", {"Chad": 8}), visit("Mali", {"Mali": 4})]
    (matrix,) = matrices("run", [Pair(*two) for two in zip(before, after, strict=True)])
    assert matrix.columns == ["Chad", "Romania", "Mali", "another class", "no class"]
    assert matrix.before == [
        [4 / 16, 10 / 16, 0.0, 0.0, 2 / 16],
        [None] * 5,  # no picture of Romania
        [0.0, 0.0, 0.0, 0.0, 1.0],
    ]
    assert matrix.after == [[1.0, 0.0, 0.0, 0.0, 0.0], [None] * 5, [0.0, 0.0, 1.0, 0.0, 0.0]]


def test_one_validation_has_no_after() -> None:
    (matrix,) = matrices("run", [Pair(visit("Chad", {"Chad": 1}), None)])
    assert matrix.after is None and matrix.before == [[1.0, 0.0, 0.0]]


def test_each_data_source_has_its_own() -> None:
    pairs = [Pair(visit("Chad", {"Chad": 1}, data_source=f"divek/flags/{side}"), None) for side in ("base", "new")]
    assert [matrix.source for matrix in matrices("run", pairs)] == ["divek/flags/base", "divek/flags/new"]


def test_look_alikes_stand_side_by_side_the_most_confused_first() -> None:
    visits = [
        visit("a", {"x": 1, "a": 9}),
        visit("b", {"y": 5}),
        visit("y", {"z": 3}),
        visit("c", {"c": 9}),
    ]
    assert look_alikes_together(visits) == ["b", "y", "z", "a", "x", "c"]
    assert look_alikes_together(visits[::-1]) == ["b", "y", "z", "a", "x", "c"]


def test_beyond_the_classes_shown_votes_count_as_another_class() -> None:
    pairs = [Pair(visit(f"t{number}", {f"t{number}": 1, f"u{number}": 1}), None) for number in range(CLASSES_SHOWN)]
    weak = Pair(visit("t0", {"w": 1}), None)
    (matrix,) = matrices("run", [*pairs, *pairs, weak])
    assert len(matrix.classes) == CLASSES_SHOWN and matrix.classes_in_all == 2 * CLASSES_SHOWN + 1
    assert matrix.before[matrix.classes.index("t0")][-2] == 0.2
