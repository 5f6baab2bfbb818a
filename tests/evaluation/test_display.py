"""Results on the terminal and as a page that runs nothing: every number is there, and outside text is only text."""

import io
from pathlib import Path

import chromium
import pytest
from PIL import Image
from report.parsing import Page
from rich.console import Console

from divek_verl.evaluation.display import render, show, write_page
from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.measures import MEASURES
from divek_verl.records import sentence_of

from .fabricated_results import results


def shown(*, width: int = 260, **changes: object) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(results(**changes), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_averages_differences_failures_the_judge_and_the_markup_of_a_name_are_shown() -> None:
    text = shown()
    rows = ("micro average", "macro average", "flags, harmonic mean", "5 data sets, harmonic mean", "[bold]")
    numbers = ("60.0", "[50.0, 70.0]", "(55.0, 65.0)", "60.0 +5.0?", "3.25", "50.0 +2.5?", "62.5 ± 1.2")
    numbers += ("+12.5", "[+5.0, +20.0]", "(+7.5, +17.5)", "0.003", "0.006")
    remarks = (
        "another seed of this run: runs/c",
        "also different: num_options: 3 -> 5",
        "left out: 1 images only here, 2 only there",
        "divek/flags/base: 1 of 160 images failed, open question: unreadable_image",
        "... and 2 more in results.json",
        "10 pairs, 3 same, 5 different, 2 unjudged (2 timeout), 1000 + 100 tokens, cost 0.2500",
    )
    for part in (*rows, *numbers, *remarks):
        assert part in text


def test_a_measure_without_observations_shows_none() -> None:
    greedy = MEASURES["one_step_greedy"].title
    older = results()
    for each in (*older.groups, *older.harmonic_means, *older.over_data_sets):
        del each.averages["one_step_greedy"]
    console = Console(file=io.StringIO(), width=260, color_system=None)
    show(older, console)
    assert isinstance(console.file, io.StringIO)
    text, page = console.file.getvalue(), Page(render(older)).text
    assert text.count("none") == 8 and text.count(greedy) >= 2  # two averages of four rows
    assert page.count("none") == results_page().count("none") + 8
    assert f"not compared, because not all have it: {greedy}" in text
    assert "Not compared, because not all have it" in page and greedy in page.partition("Not compared")[2]


def results_page() -> str:
    return Page(render(results())).text


def test_neither_control_marks_nor_a_judge_that_was_not_asked_are_shown() -> None:
    text = shown(judge=None)
    assert "\u202e" not in text and "judge" not in text


def test_a_narrow_terminal_cuts_no_source_and_no_number() -> None:
    text = shown(width=80)
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert all(len(line) <= 80 and line.rstrip().endswith("│") for line in rows)
    assert "…" not in text
    first_cells = "".join(line.split("│")[1].strip() for line in rows)
    assert "divek/flags/base" in first_cells and "divek/flags/new" in first_cells
    assert not any("…" in line.split("│")[1] for line in rows)


# --------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(results()))


def test_every_measure_of_every_data_source_is_shown(page: Page) -> None:
    for measure in MEASURES.values():
        assert measure.title in page.text and measure.meaning in page.text
    sources = ("divek/flags/base", "divek/flags/new", "flags, harmonic mean")
    for shown in (*sources, "60.0", "50.0 – 70.0", "3.25", "231.5"):
        assert shown in page.text


def test_what_is_unjudged_the_comparison_and_the_failures_are_shown(page: Page) -> None:
    assert "+ 5.0 unjudged" in page.text
    assert "50.0 + 2.5 unjudged" in page.text and "60.0 + 1.5 unjudged" in page.text
    for part in (
        "+12.5",
        "0.0022",
        "0.003",
        "0.006",
        "± 1.2 over runs",
        "(55.0 – 65.0)",
        "Other seeds of this run: runs/c",
    ):
        assert part in page.text
    assert "num_options: 3 -> 5" in page.text
    assert "10 pairs that the class list could not decide: 3 same, 5 different, 2 unjudged (2 timeout)" in page.text
    assert page.text.count("unreadable_image") == 12
    assert sum(found.get("title") == sentence_of("unreadable_image") for _, found in page.elements) == 12


def test_nothing_runs_and_nothing_is_loaded(page: Page) -> None:
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "template", "base"}
    attributes = {name for _, found in page.elements for name in found}
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "action")}
    policies = [found for tag, found in page.elements if tag == "meta" and "http-equiv" in found]
    assert policies[0]["content"] is not None and "default-src 'none'" in policies[0]["content"]


def test_hostile_text_is_shown_as_text_with_its_marks_written_out(page: Page) -> None:
    assert '<script>alert(1)</script>\\u202e[bold]"&</template>' in page.text
    assert "\u202e" not in page.text


def test_an_evaluation_with_little_to_say_has_a_page_too() -> None:
    few = results(judge=None, comparison=None, failures=[], second_step=[], harmonic_means=[], base_url="http://x/v1")
    page = Page(render(few))
    assert "Judge" not in page.text and "Failed images" not in page.text and "http://x/v1" in page.text


def test_a_wrong_answer_is_shown_with_its_picture_and_leads_to_its_question(tmp_path: Path) -> None:
    Image.new("RGB", (320, 200), "red").save(tmp_path / "flag.png")
    place = {"step": 0, "split": "val", "data_source": "divek/flags/new", "image": str(tmp_path / "flag.png")}
    wrong = EvaluationRecord(**place, image_id="a b", truth="Chad", chosen="Romania")
    right = EvaluationRecord(**place, image_id="c", truth="Mali", chosen="Mali", two_step=1.0, consistency=1.0)
    page = Page(render(results(), [wrong, right]))
    (picture,) = [found for tag, found in page.elements if tag == "img"]
    assert str(picture["src"]).startswith("data:image/webp;base64,")
    assert "Chad answered: Romania" in page.text and "answered: Mali" not in page.text
    links = [found["href"] for tag, found in page.elements if tag == "a"]
    assert "report.html#image=a+b&source=divek%2Fflags%2Fnew" in links
    assert any(str(link).startswith("report.html#class=") for link in links)
    assert all(str(link).startswith("report.html#") for link in links)


def test_it_is_written_whole(tmp_path: Path) -> None:
    write_page(results(), tmp_path / "results.html")
    assert (tmp_path / "results.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["results.html"]


@pytest.mark.skipif(chromium.EXECUTABLE is None, reason=chromium.MISSING)
@pytest.mark.parametrize("width", [1160, 600, 320])
def test_no_data_source_is_cut_in_two_and_the_page_stays_within_the_window(width: int, tmp_path: Path) -> None:
    write_page(results(), tmp_path / "results.html")
    with chromium.launched() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto((tmp_path / "results.html").as_uri())
        lines = page.locator("tbody th").evaluate_all(chromium.LINES_OF_EACH_SOURCE)
        assert len(lines) >= 8 and set(lines) == {1}
        assert page.evaluate("document.documentElement.scrollWidth") <= width
