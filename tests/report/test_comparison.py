"""Several runs on one page."""

from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.measures import MEASURES
from divek_verl.report import read_run, write_comparison
from divek_verl.report.comparison import compared_charts, compared_tables, name_runs, paired_differences
from divek_verl.report.reading import Run

from .fabricated import SIDES, fabricate_run, make_record, read_logged, write_logged
from .parsing import Page


@pytest.fixture
def folders(run_dir: Path, tmp_path: Path) -> list[Path]:
    return [run_dir, fabricate_run(tmp_path / "other-run", seed="other")]


@pytest.fixture
def runs(folders: list[Path]) -> dict[str, Run]:
    return {folder.name: read_run(folder) for folder in folders}


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    assert name_runs([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert name_runs([Path("/x/seed-0/run"), Path("/x/seed-1/run")]) == ["seed-0/run", "seed-1/run"]
    assert name_runs([Path("/x/run"), Path("/x/run")]) == ["run (1)", "run (2)"]


def test_the_curves_of_all_runs_are_in_one_chart(runs: dict[str, Run]) -> None:
    charts, styles = compared_charts(runs)
    by_title = {chart.title: chart for chart in charts}
    assert by_title["Reward"].series == {name: run.series("critic/score/mean") for name, run in runs.items()}
    two_step = by_title["Validation: two-step accuracy"].series
    assert list(two_step) == [f"{run} · divek/flags/{side}" for run in runs for side in ("base", "new")]
    assert [styles[name].colour for name in two_step] == [0, 0, 1, 1]
    assert [styles[name].dash for name in two_step] == [0, 1, 0, 1]
    assert set(by_title["Skipped images"].series) == set(runs)
    few = (MEASURES["one_step"].title, MEASURES["consistency"].title)
    assert list(by_title["Votes on training images"].series) == [f"{run} · {label}" for run in runs for label in few]


def test_a_run_that_did_not_record_a_measure_has_no_line(folders: list[Path]) -> None:
    logged = read_logged(folders[1])
    for _, data in logged:
        data.pop("critic/score/mean", None)
    write_logged(folders[1], logged)
    charts, _ = compared_charts({folder.name: read_run(folder) for folder in folders})
    assert list(charts[0].series) == ["flags-run"]


def test_the_final_tables_stand_side_by_side(runs: dict[str, Run]) -> None:
    tables = compared_tables(runs)
    assert list(tables) == ["divek/flags/base", "divek/flags/new"]
    for source, rows in tables.items():
        assert list(rows) == list(runs) and {row.source for row in rows.values()} == {source}


def test_runs_are_compared_on_the_images_that_both_validated_last(runs: dict[str, Run]) -> None:
    last = runs["other-run"].validation["divek/flags/base"][30]
    del last[min(last)]
    table = paired_differences(runs)
    assert list(table) == ["divek/flags/base", "divek/flags/new", "flags, harmonic mean"]
    assert {(name, measure) for rows in table.values() for name, row in rows.items() for measure in row} == {
        ("other-run", measure) for measure in MEASURES
    }
    assert [rows["other-run"]["two_step"].images for rows in table.values()] == [19, 20, 39]
    first = runs["flags-run"].validation["divek/flags/base"][30]
    before, after = (
        [records[image].accuracy for image in last]
        for records in (first, runs["other-run"].validation["divek/flags/base"][30])
    )
    found = table["divek/flags/base"]["other-run"]["two_step"]
    assert found.difference == pytest.approx((sum(after) - sum(before)) / 19)
    assert found.low <= found.difference <= found.high and found.p_value <= found.p_holm


def test_a_difference_is_tested_by_class_and_corrected_for_the_whole_table() -> None:
    """Four classes of many images that all moved are four observations: of 16 exchanges, 2 are as extreme."""
    runs = {name: Run(name) for name in ("wrong", "right", "wrong too")}
    for name, run in runs.items():
        records = [
            make_record(f"{truth} {number}", truth, answer="A", choices=["A" if name == "right" else "B"])
            for truth in SIDES["base"]
            for number in range(50)
        ]
        run.validation["divek/flags/base"] = {0: {record.image_id: record for record in records}}
    rows = paired_differences(runs)["divek/flags/base"]
    assert list(rows) == ["right", "wrong too"]
    right, same = rows["right"]["two_step"], rows["wrong too"]["two_step"]
    assert (right.difference, same.difference) == (1, 0) and same.p_value == 1
    assert right.p_value == pytest.approx(2 / 16, abs=0.03)
    assert right.p_holm == 1, "twice six measures were tested"
    assert right.low < 1 and same.low < 0 < same.high, "no interval is without width"


def test_a_measure_that_one_run_did_not_record_is_not_compared(runs: dict[str, Run]) -> None:
    for record in runs["other-run"].validation["divek/flags/new"][30].values():
        record.one_step_greedy = None
    table = paired_differences(runs)
    assert "one_step_greedy" not in table["divek/flags/new"]["other-run"]
    assert "one_step_greedy" in table["divek/flags/base"]["other-run"]


def test_the_page_holds_both_runs(folders: list[Path], tmp_path: Path) -> None:
    page = Page(write_comparison(folders, tmp_path / "both.html").read_text(encoding="utf-8"))
    assert "2 runs compared" in page.text
    assert "Against flags-run" in page.text and "flags, harmonic mean" in page.text
    assert page.data["questions"]["runs"] == ["flags-run", "other-run"]
    assert {matrix["run"] for matrix in page.data["matrices"]} == {"flags-run", "other-run"}
    for run in ("flags-run", "other-run"):
        assert page.text.count(run) >= 4  # heading, two rows of the table, its problems


def test_a_run_named_twice_and_a_folder_without_records_are_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is named twice"):
        write_comparison([run_dir, run_dir / "."])
    with pytest.raises(SetupError, match="holds neither"):
        write_comparison([run_dir, tmp_path])
