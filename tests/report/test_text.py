"""Untrusted text is inert and visible."""

import json
from pathlib import Path

import pytest

from divek_verl.templates import visible

from .fabricated import read_lines, write_lines
from .parsing import page_of

MARKUP = "<script>alert(1)</script></template><img src=x onerror=alert(1)>"
HOSTILE = f"{MARKUP}\u202egpj.exe\u2066\x00\"'{{{{ 7*7 }}}}"


@pytest.fixture
def hostile_dir(run_dir: Path) -> Path:
    """Every text of the records, the names of metrics among them, is hostile."""
    lines = read_lines(run_dir / "questions.jsonl")
    for line in lines:
        line |= {"truth": HOSTILE, "votes": {HOSTILE: 3, f"{HOSTILE}2": 3}, "unknown": {f"{HOSTILE}3": 2}}
        line |= {"options": [HOSTILE, f"{HOSTILE}2"], "answer": "A", "completions": [HOSTILE], "image": HOSTILE}
        line |= {"image_id": f"{HOSTILE}{line['image_id']}", "data_source": f"divek/{HOSTILE}/base"}
        line |= {"rollout_failures": {HOSTILE: 1}}
    lines[1] |= {"skip": HOSTILE, "failure": HOSTILE}
    write_lines(run_dir / "questions.jsonl", lines)
    metrics = read_lines(run_dir / "metrics.jsonl")
    metrics[-1]["data"] |= {f"divek/skips/{HOSTILE}": 1.0, f"val-core/{HOSTILE}/acc/mean@1": 1.0}
    write_lines(run_dir / "metrics.jsonl", metrics)
    (run_dir / "summary.json").write_text(json.dumps({HOSTILE: HOSTILE}), encoding="utf-8")
    return run_dir


def test_hostile_text_is_inert(hostile_dir: Path) -> None:
    page = page_of(hostile_dir)
    assert len(page.having("script")) == 6 and not page.having("img") and not page.having("template")
    assert not [own for _, own in page.elements if any(name.startswith("on") for name in own)]
    assert MARKUP in page.text and MARKUP not in page.source
    assert "{{ 7*7 }}" in page.text
    names = [trace["name"] for figure in page.data["figures"] for trace in figure["data"]]
    names += [label for matrix in page.data["matrices"] for label in matrix["labels"]]
    assert any("&lt;script&gt;" in name for name in names) and not any("<" in name for name in names)


def test_marks_that_turn_or_hide_text_are_shown(hostile_dir: Path) -> None:
    page = page_of(hostile_dir)
    assert r"\u202egpj.exe\u2066\x00" in page.text
    without_plotly = page.source.replace(page.programs[0], "")
    assert not [mark for mark in "\u202e\u2066\x00" if mark in without_plotly]


def test_visible_keeps_plain_text_and_other_scripts() -> None:
    for text in ("São Tomé\n\tand Príncipe", "日本", "مصر", "Ελλάδα", ""):
        assert visible(text) == text
    assert visible("a\u200bb\u2028\ud800") == r"a\u200bb\u2028\ud800"
