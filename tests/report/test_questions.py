"""An example question on the page."""

from pathlib import Path
from typing import Any

from divek_verl.report.choosing import choose_examples
from divek_verl.report.lines import RecordedVisit
from divek_verl.report.pairs import image_pairs
from divek_verl.report.questions import answer_bars
from divek_verl.report.reading import read_run

from .parsing import page_of


def test_an_example_shows_picture_votes_options_and_text_before_and_after(run_dir: Path) -> None:
    page = page_of(run_dir)
    (first, *_) = choose_examples(image_pairs(read_run(run_dir)))
    pictures = [str(image["src"]) for image in page.having("img")]
    assert [src.startswith("data:image/jpeg;base64,") for src in pictures] == [True] * 3
    assert first.after is not None and first.outcome == "Wrong before, right after"
    for visit in (first.before, first.after):
        assert " ".join(visit.completions[0].split()) in page.text
    assert "Before · step 0 ✗ wrong" in page.text and "After · step 30 ✓ right" in page.text


def test_the_bars_add_up_to_all_samples() -> None:
    votes = {f"class {number}": 20 - number for number in range(12)}
    line: dict[str, Any] = {"step": 0, "split": "val", "data_source": "divek/x/base", "image_id": "1"}
    visit = RecordedVisit(**line, truth="class 0", votes=votes, unknown={"Atlantis": 3}, unanswered=2)
    bars = answer_bars(visit)
    assert sum(bar.count for bar in bars) == visit.samples
    assert [bar.kind for bar in bars] == ["truth", *["other"] * 6, "rest", "none"]
    assert bars[-2].label == "6 other answers"


def test_a_picture_that_is_not_there_is_shown_as_such(run_dir: Path) -> None:
    for picture in run_dir.glob("*.png"):
        picture.write_bytes(b"torn")
    assert page_of(run_dir).text.count("The picture is not on this disk or cannot be read.") == 3
