"""The curves, as plotly.js gets them."""

from pathlib import Path

import pytest

from divek_verl.report.charts import POINTS_SHOWN, charts, thinned
from divek_verl.report.reading import Run, read_run
from divek_verl.trainer.recorder import summarize

from .fabricated import SIDES, make_record, read_logged, write_logged
from .parsing import page_of

# By the recorder's drain and by the replay buffer.
COUNTED_ELSEWHERE = ("divek/distinct_images", "divek/distinct_classes", "divek/refills")


def test_every_metric_of_ours_that_a_chart_draws_is_recorded() -> None:
    asked = make_record(split="train", rewards=[1.0, 2.0], choices=["A", "B"], formats=[1.0, 1.0])
    recorded = summarize([asked], [asked])
    recorded |= dict.fromkeys(COUNTED_ELSEWHERE, 0.0)
    drawn = {metric for chart in charts(Run("run")) for metric in chart.metrics.split(", ")}
    own = {metric for metric in drawn if metric.startswith("divek/") and "<" not in metric}
    assert own and own <= set(recorded)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ({1: 0.5}, "50.0 % (step 1)"),
        ({1: 0.5, 9: 0.75}, "50.0 % (step 1) → 75.0 % (step 9)"),
        ({1: 0.5, 2: 0.5, 3: 0.5}, "50.0 % (step 1)"),
        ({1: 0.5, 2: 0.6, 3: 0.5}, ""),
    ],
)
def test_a_curve_that_a_number_says_is_no_chart(points: dict[int, float], said: str, tmp_path: Path) -> None:
    write_logged(tmp_path, [(step, {"divek/override_share": value}) for step, value in points.items()])
    page = page_of(tmp_path)
    assert len(page.data.get("figures", [])) == (not said)
    assert (said in page.text) and len(page.having("dl", **{"class": "measures flat"})) == bool(said)


def test_the_stages_of_a_step_are_the_longest_and_not_those_within_one() -> None:
    stages = {f"timing_s/{name}": float(n) for n, name in enumerate(("a", "b", "c", "d", "e", "gen", "step", "gen/x"))}
    (chart,) = [c for c in charts(Run("run", metrics={1: stages})) if c.title == "Time of a step by stage"]
    assert list(chart.series) == ["step", "sampling", "e", "d", "c", "b"]


def test_every_curve_says_what_is_healthy() -> None:
    assert all("Healthy: " in chart.note for chart in charts(Run("run")))


def test_a_reason_without_a_skip_in_a_step_has_no_bar_there(run_dir: Path) -> None:
    (skips,) = [chart for chart in charts(read_run(run_dir)) if chart.title == "Skipped images"]
    assert skips.series["mining_timeout"] == {12: 1.0}
    assert set(skips.series) == {"easy", "mining_timeout"}


def test_a_run_without_skips_shows_zeros_and_one_that_did_not_count_them_nothing(tmp_path: Path) -> None:
    for logged, shown in ({"divek/skips/total": 0.0}, True), ({"divek/samples": 8.0}, False):
        write_logged(tmp_path, [(1, logged)])
        (skips,) = [c for c in charts(read_run(tmp_path)) if c.title == "Skipped images"]
        assert skips.recorded == shown


def test_the_charts_hold_the_logged_values(run_dir: Path) -> None:
    figures = page_of(run_dir).data["figures"]
    logged = {step: data for step, data in read_logged(run_dir) if step}
    (reward,) = figures[0]["data"]
    assert reward["x"] == list(logged)
    assert reward["y"] == [data["critic/score/mean"] for data in logged.values()]
    assert [trace["name"] for trace in figures[1]["data"]] == ["divek/flags/base", "divek/flags/new"]


def test_a_data_source_has_one_colour_and_all_charts_one_x_axis(run_dir: Path) -> None:
    figures = page_of(run_dir).data["figures"]
    traces = [trace for figure in figures for trace in figure["data"]]
    for index, side in enumerate(SIDES):
        assert {trace["meta"] for trace in traces if trace["name"] == f"divek/flags/{side}"} == {index}
        assert [t["name"] for t in traces if t["meta"] == index and not t["name"].startswith("divek/")] == []
    assert {tuple(figure["layout"]["xaxis"]["range"]) for figure in figures} == {(-0.6, 30.6)}


def test_a_long_run_is_drawn_with_fewer_points_and_its_last_one() -> None:
    points = {step: float(step) for step in range(1, 4000)}
    drawn = thinned(points)
    assert len(drawn) <= POINTS_SHOWN and list(drawn) == sorted(drawn) and drawn[3999] == 3999.0
    assert thinned({1: 1.0, 2: 2.0}) == {1: 1.0, 2: 2.0}
    assert thinned({}) == {}
