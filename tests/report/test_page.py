"""The page as a whole, of complete and partial records, and of hostile text."""

import json
import re
from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.records import FailureReason
from divek_verl.report.page import csp_hash, problems, write_report
from divek_verl.report.reading import read_run

from .fabricated import make_hostile, read_logged, read_records, write_logged, write_records
from .parsing import page_of

MARKUP = "<script>alert(1)</script></template><img src=x onerror=alert(1)>"
HOSTILE = f"{MARKUP}\u202egpj.exe\u2066\x00\"'{{{{ 7*7 }}}}"


def test_the_page_is_well_formed_and_lies_in_the_run_directory(run_dir: Path) -> None:
    path = write_report(run_dir)
    assert path == run_dir / "report.html" and path.stat().st_size < 15e6
    page = page_of(run_dir)
    assert page.having("html") and "flags-run" in page.text


def test_it_can_be_written_elsewhere_with_the_same_bytes(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    assert write_report(run_dir, out) == out
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    assert out.read_bytes() == write_report(run_dir).read_bytes()


def test_nothing_is_loaded_from_a_network_and_only_the_scripts_of_the_page_may_run(run_dir: Path) -> None:
    page = page_of(run_dir)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    (policy,) = page.having("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in str(policy["content"]) and "http" not in str(policy["content"])
    assert [csp_hash(script) in str(policy["content"]) for script in page.programs] == [True] * 3
    assert "'unsafe-inline'" not in re.findall(r"script-src [^;]*", str(policy["content"]))[0]
    assert set(page.data) == {"figures", "matrices", "questions"}


def test_skips_and_failures_are_counted_by_reason_with_a_sentence(run_dir: Path) -> None:
    records = read_records(run_dir)
    records[0].failure = "unreadable_image"
    records[1].rollout_failures = {"rollout_timeout": 1, "KeyError": 1}
    write_records(run_dir, records)
    easy = sum(record.skip == "easy" for record in records)
    found = {(each.kind, each.reason): (each.training, each.validation) for each in problems(read_run(run_dir))}
    assert easy >= 4 and found == {
        ("skipped", "easy"): (easy, 0),
        ("image failed", "mining_timeout"): (1, 0),
        ("image failed", "unreadable_image"): (0, 1),
        ("rollout failed", "rollout_timeout"): (0, 1),
        ("rollout failed", "KeyError"): (0, 1),
    }
    text = page_of(run_dir).text
    for reason in ("easy", "mining_timeout", "unreadable_image", "rollout_timeout"):
        assert f"{reason} {FailureReason(reason).sentence}" in text


def test_metrics_alone_are_enough(run_dir: Path) -> None:
    (run_dir / "questions.jsonl").unlink()
    page = page_of(run_dir)
    assert "questions.jsonl is missing: no examples" in page.text
    assert page.having("div", **{"class": "chart"}) and not page.having("img")
    found = {problem.reason: problem for problem in problems(read_run(run_dir))}
    assert found["mining_timeout"].training == 1 and found["mining_timeout"].validation is None


def test_a_run_that_recorded_nothing_yet_says_so(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").touch()
    (tmp_path / "metrics.jsonl").touch()
    text = page_of(tmp_path).text
    assert "No validation was recorded." in text and "No validation question was recorded." in text


def test_a_directory_without_records_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"holds neither questions.jsonl nor metrics.jsonl; give the directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_header_says_what_ran_for_how_long_if_it_can_be_read(run_dir: Path) -> None:
    summary, results = run_dir / "summary.json", run_dir / "results.json"
    summary.write_text('{"model": "tiny-vl", "K": 8, "nested": {"left": "out"}}', encoding="utf-8")
    logged = [(step, {"timing_s/step": 130.0}) for step in range(30)]
    write_logged(run_dir, logged)
    assert "flags-run model tiny-vl K 8 1 h 05 min of training steps last step 29" in page_of(run_dir).text
    write_logged(run_dir, logged[:3])
    assert "6.5 min of training steps" in page_of(run_dir).text
    evaluated = {"model": "other", "settings": {"num_samples": 20, "seed": 3}, "versions": {"vllm": "0.24.0"}}
    results.write_text(json.dumps(evaluated), encoding="utf-8")
    for broken in ("{", "[]", "null"):
        summary.write_text(broken, encoding="utf-8")
        assert "flags-run model other num_samples 20 seed 3 vllm 0.24.0" in page_of(run_dir).text
        results.write_text(broken, encoding="utf-8")
        assert "flags-run 6.5 min of" in page_of(run_dir).text
        results.write_text(json.dumps(evaluated), encoding="utf-8")


@pytest.fixture
def hostile_dir(run_dir: Path) -> Path:
    """Every text of the records is hostile, including the names of metrics."""
    records = make_hostile(run_dir, HOSTILE)
    with (run_dir / "questions.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(records[0].to_json() | {"schema": HOSTILE}) + "\n")
    logged = read_logged(run_dir)
    logged[-1][1].update({f"divek/skips/{HOSTILE}": 1.0, f"val-core/{HOSTILE}/acc/mean@1": 1.0})
    write_logged(run_dir, logged)
    (run_dir / "summary.json").write_text(json.dumps({HOSTILE: HOSTILE}), encoding="utf-8")
    return run_dir


def test_hostile_text_is_inert_and_what_it_hides_is_shown(hostile_dir: Path) -> None:
    page = page_of(hostile_dir)
    assert len(page.having("script")) == 6 and not page.having("img") and not page.having("template")
    assert not [own for _, own in page.elements if any(name.startswith("on") for name in own)]
    assert MARKUP in page.text and MARKUP not in page.source
    assert "{{ 7*7 }}" in page.text
    names = [trace["name"] for figure in page.data["figures"] for trace in figure["data"]]
    names += [label for matrix in page.data["matrices"] for label in matrix["labels"]]
    assert any("&lt;script&gt;" in name for name in names) and not any("<" in name for name in names)
    assert r"\u202egpj.exe\u2066\x00" in page.text
    without_plotly = page.source.replace(page.programs[0], "")
    assert not [mark for mark in "\u202e\u2066\x00" if mark in without_plotly]
