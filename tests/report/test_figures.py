"""The charts as plotly.js gets them."""

from pathlib import Path

from divek_verl.report.figures import POINTS_SHOWN, thinned

from .fabricated import SIDES, read_lines
from .parsing import page_of


def test_the_charts_hold_the_logged_values(run_dir: Path) -> None:
    figures = page_of(run_dir).data["figures"]
    logged = {line["step"]: line["data"] for line in read_lines(run_dir / "metrics.jsonl") if line["step"]}
    (reward,) = figures[0]["data"]
    assert reward["x"] == list(logged)
    assert reward["y"] == [data["critic/score/mean"] for data in logged.values()]
    assert [trace["name"] for trace in figures[1]["data"]] == ["divek/flags/base", "divek/flags/new"]


def test_a_data_source_has_one_colour_and_all_charts_one_x_axis(run_dir: Path) -> None:
    figures = page_of(run_dir).data["figures"]
    traces = [trace for figure in figures for trace in figure["data"]]
    for slot, side in enumerate(SIDES):
        assert {trace["meta"] for trace in traces if trace["name"] == f"divek/flags/{side}"} == {slot}
        assert [t["name"] for t in traces if t["meta"] == slot and not t["name"].startswith("divek/")] == []
    assert {tuple(figure["layout"]["xaxis"]["range"]) for figure in figures} == {(-0.6, 30.6)}


def test_a_long_run_is_drawn_with_fewer_points_and_its_last_one() -> None:
    points = {step: float(step) for step in range(1, 4000)}
    drawn = thinned(points)
    assert len(drawn) <= POINTS_SHOWN and list(drawn) == sorted(drawn) and drawn[3999] == 3999.0
    assert thinned({1: 1.0, 2: 2.0}) == {1: 1.0, 2: 2.0}
    assert thinned({}) == {}
