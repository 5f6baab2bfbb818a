"""Several runs on one page."""

from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.measures import MEASURES
from divek_verl.report import read_run, write_comparison
from divek_verl.report.comparison import compared_charts, compared_tables, name_runs
from divek_verl.report.reading import Run

from .fabricated import fabricate_run, read_logged, write_logged
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


def test_the_page_holds_both_runs(folders: list[Path], tmp_path: Path) -> None:
    page = Page(write_comparison(folders, tmp_path / "both.html").read_text(encoding="utf-8"))
    assert "2 runs compared" in page.text
    assert page.data["questions"]["runs"] == ["flags-run", "other-run"]
    assert {matrix["run"] for matrix in page.data["matrices"]} == {"flags-run", "other-run"}
    for run in ("flags-run", "other-run"):
        assert page.text.count(run) >= 4  # heading, two rows of the table, its problems


def test_a_run_named_twice_and_a_folder_without_records_are_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is named twice"):
        write_comparison([run_dir, run_dir / "."])
    with pytest.raises(SetupError, match="holds neither"):
        write_comparison([run_dir, tmp_path])
