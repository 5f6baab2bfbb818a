"""Which curves are shown."""

from pathlib import Path

from divek_verl.report.charts import charts
from divek_verl.report.reading import read_run

from .fabricated import write_lines


def test_a_reason_without_a_skip_in_a_step_has_no_bar_there(run_dir: Path) -> None:
    (skips,) = [chart for chart in charts(read_run(run_dir)) if chart.title == "Skipped images"]
    assert skips.series["mining_timeout"] == {12: 1.0}
    assert set(skips.series) == {"easy", "mining_timeout"}


def test_a_run_without_skips_shows_zeros_and_one_that_did_not_count_them_nothing(tmp_path: Path) -> None:
    for logged, shown in ({"divek/skips/total": 0.0}, True), ({"divek/samples": 8.0}, False):
        write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "data": logged}])
        (skips,) = [c for c in charts(read_run(tmp_path)) if c.title == "Skipped images"]
        assert skips.recorded == shown
