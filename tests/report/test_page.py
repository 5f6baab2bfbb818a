"""The page as a whole, of whole and of partial records."""

import re
from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.report.page import write_report
from divek_verl.report.problems import problems
from divek_verl.report.reading import read_run
from divek_verl.report.template import csp_hash

from .parsing import page_of


def test_the_page_is_well_formed_and_lies_in_the_run_directory(run_dir: Path) -> None:
    assert write_report(run_dir) == run_dir / "report.html"
    page = page_of(run_dir)
    assert page.having("html") and "flags-run" in page.text


def test_it_can_be_written_elsewhere(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    assert write_report(run_dir, out) == out
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_the_same_records_give_the_same_bytes(run_dir: Path, tmp_path: Path) -> None:
    first = write_report(run_dir, tmp_path / "1.html").read_bytes()
    assert write_report(run_dir, tmp_path / "2.html").read_bytes() == first


def test_nothing_is_loaded_from_a_network(run_dir: Path) -> None:
    page = page_of(run_dir)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    (policy,) = page.having("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in str(policy["content"]) and "http" not in str(policy["content"])


def test_only_the_scripts_of_the_page_may_run(run_dir: Path) -> None:
    page = page_of(run_dir)
    (policy,) = page.having("meta", **{"http-equiv": "Content-Security-Policy"})
    assert [csp_hash(script) in str(policy["content"]) for script in page.programs] == [True] * 3
    assert "'unsafe-inline'" not in re.findall(r"script-src [^;]*", str(policy["content"]))[0]
    assert set(page.data) == {"figures", "matrices", "questions"}


def test_it_stays_below_15_megabytes(run_dir: Path) -> None:
    assert write_report(run_dir).stat().st_size < 15e6


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
    with pytest.raises(SetupError, match="holds neither questions.jsonl nor metrics.jsonl"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_summary_of_the_run_is_shown_if_it_can_be_read(run_dir: Path) -> None:
    summary = run_dir / "summary.json"
    summary.write_text('{"model": "tiny-vl", "nested": {"left": "out"}}', encoding="utf-8")
    assert "model tiny-vl" in page_of(run_dir).text
    for broken in ("{", "[]", "null"):
        summary.write_text(broken, encoding="utf-8")
        assert "Summary of the run" not in page_of(run_dir).text
