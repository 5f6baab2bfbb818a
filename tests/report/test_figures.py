"""The charts as plotly.js gets them."""

import json
from pathlib import Path

from .fabricated import SIDES, read_lines
from .parsing import page_of


def test_the_charts_hold_the_logged_values(run_dir: Path) -> None:
    figures = json.loads(page_of(run_dir).scripts[0])
    logged = {line["step"]: line["data"] for line in read_lines(run_dir / "metrics.jsonl") if line["step"]}
    (reward,) = figures[0]["data"]
    assert reward["x"] == list(logged)
    assert reward["y"] == [data["critic/score/mean"] for data in logged.values()]
    assert [trace["name"] for trace in figures[1]["data"]] == ["divek/flags/base", "divek/flags/new"]


def test_a_data_source_has_one_colour_and_all_charts_one_x_axis(run_dir: Path) -> None:
    figures = json.loads(page_of(run_dir).scripts[0])
    traces = [trace for figure in figures for trace in figure["data"]]
    for slot, side in enumerate(SIDES):
        assert {trace["meta"] for trace in traces if trace["name"] == f"divek/flags/{side}"} == {slot}
        assert [t["name"] for t in traces if t["meta"] == slot and not t["name"].startswith("divek/")] == []
    assert {tuple(figure["layout"]["xaxis"]["range"]) for figure in figures} == {(-0.6, 30.6)}
