"""Which classes are confused, and the confusion matrix computed by hand."""

from pathlib import Path

from divek_verl.report.confusions import CLASSES_SHOWN, confusions, group_confused, matrices
from divek_verl.report.reading import read_run
from divek_verl.report.validation import Pair, image_pairs

from .fabricated import SAMPLES, make_record, read_records, write_records
from .parsing import page_of


def test_confusions_are_shares_of_all_samples_on_pictures_of_the_class(run_dir: Path) -> None:
    shown = {(c.truth, c.answer): c for c in confusions(image_pairs(read_run(run_dir)))}
    records = read_records(run_dir)
    for step, when in ((0, "before"), (30, "after")):
        chad = [record for record in records if (record.split, record.step, record.truth) == ("val", step, "Chad")]
        answered_romania = sum(record.votes.get("Romania", 0) for record in chad)
        assert answered_romania and getattr(shown["Chad", "Romania"], when) == answered_romania / (len(chad) * SAMPLES)
    assert all(truth != answer for truth, answer in shown)


def test_the_matrix_by_hand() -> None:
    before = [
        make_record("1", "Chad", votes={"Chad": 4, "Romania": 2}, unanswered=2),
        make_record("2", "Chad", votes={"Romania": 8}),
        make_record("3", "Mali", unknown={"Atlantis": 3}, unanswered=1),
    ]
    after = [
        make_record("1", "Chad", votes={"Chad": 8}),
        make_record("2", "Chad", votes={"Chad": 8}),
        make_record("3", "Mali", votes={"Mali": 4}),
    ]
    (matrix,) = matrices("run", [Pair(*two) for two in zip(before, after, strict=True)])
    assert matrix.columns == ["Chad", "Romania", "Mali", "another class", "no class"]
    assert matrix.before == [
        [4 / 16, 10 / 16, 0.0, 0.0, 2 / 16],
        [None] * 5,  # no picture of Romania
        [0.0, 0.0, 0.0, 0.0, 1.0],
    ]
    assert matrix.after == [[1.0, 0.0, 0.0, 0.0, 0.0], [None] * 5, [0.0, 0.0, 1.0, 0.0, 0.0]]


def test_each_data_source_has_its_own_matrix_and_one_validation_has_no_after() -> None:
    pairs = [Pair(make_record(votes={"Chad": 1}, data_source=f"divek/flags/{side}"), None) for side in ("base", "new")]
    both = matrices("run", pairs)
    assert [matrix.source for matrix in both] == ["divek/flags/base", "divek/flags/new"]
    assert all(matrix.after is None and matrix.before == [[1.0, 0.0, 0.0]] for matrix in both)


def test_confused_classes_stand_side_by_side_the_most_confused_first() -> None:
    records = [
        make_record(truth="a", votes={"x": 1, "a": 9}),
        make_record(truth="b", votes={"y": 5}),
        make_record(truth="y", votes={"z": 3}),
        make_record(truth="c", votes={"c": 9}),
    ]
    assert group_confused(records) == ["b", "y", "z", "a", "x", "c"]
    assert group_confused(records[::-1]) == ["b", "y", "z", "a", "x", "c"]


def test_beyond_the_classes_shown_votes_count_as_another_class() -> None:
    pairs = [
        Pair(make_record(truth=f"t{number}", votes={f"t{number}": 1, f"u{number}": 1}), None)
        for number in range(CLASSES_SHOWN)
    ]
    weak = Pair(make_record(truth="t0", votes={"w": 1}), None)
    (matrix,) = matrices("run", [*pairs, *pairs, weak])
    assert len(matrix.classes) == CLASSES_SHOWN and matrix.num_classes == 2 * CLASSES_SHOWN + 1
    assert matrix.before[matrix.classes.index("t0")][-2] == 0.2


def test_a_run_without_confusions_still_shows_its_matrix(run_dir: Path) -> None:
    """The page's script draws every matrix that it is given, so its place must be there."""
    write_records(run_dir, [make_record(votes={"Chad": 8}, step=step) for step in (0, 30)])
    page = page_of(run_dir)
    assert page.data["matrices"] and page.having("select", id="matrix-choice")
    assert "No sample named a wrong class." in page.text
