"""The page: one file that runs nothing and loads nothing, in which no text from outside is more than text."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from divek_verl.evaluation.measuring import TITLES
from divek_verl.evaluation.page import render, write_page

from .fabricated_results import results


class Parsed(HTMLParser):
    """Tags and their attributes, and all visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> Parsed:
    return Parsed(render(results()))


def test_every_measure_of_every_data_source_is_shown(page: Parsed) -> None:
    for title in TITLES.values():
        assert title in page.text
    for shown in (
        "divek/flags/base",
        "divek/flags/new",
        "flags, harmonic mean",
        "60.0",
        "50.0 – 70.0",
        "3.25",
        "231.5",
    ):
        assert shown in page.text


def test_what_is_unjudged_the_comparison_and_the_failures_are_shown(page: Parsed) -> None:
    assert "+ 5.0 unjudged" in page.text
    assert "50.0 + 2.5 unjudged" in page.text and "60.0 + 1.5 unjudged" in page.text
    assert "+12.5" in page.text and "0.0022" in page.text
    assert "num_options: 3 -> 5" in page.text
    assert "10 pairs that the class list could not: 3 same, 5 different, 2 unjudged (2 timeout)" in page.text
    assert page.text.count("unreadable_image") == 12


def test_nothing_runs_and_nothing_is_loaded(page: Parsed) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "template", "base"}
    attributes = {name for _, found in page.tags for name in found}
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "href", "action")}
    policies = [found for tag, found in page.tags if tag == "meta" and "http-equiv" in found]
    assert policies[0]["content"] is not None and "default-src 'none'" in policies[0]["content"]


def test_hostile_text_is_shown_as_text_with_its_marks_written_out(page: Parsed) -> None:
    assert '<script>alert(1)</script>\\u202e[bold]"&</template>' in page.text
    assert "\u202e" not in page.text


def test_an_evaluation_with_little_to_say_has_a_page_too() -> None:
    page = Parsed(
        render(
            results(judge=None, comparison=None, failures=[], second_step=[], harmonic_means=[], base_url="http://x/v1")
        )
    )
    assert "Judge" not in page.text and "Failed images" not in page.text and "http://x/v1" in page.text


def test_it_is_written_whole(tmp_path: Path) -> None:
    write_page(results(), tmp_path / "results.html")
    assert (tmp_path / "results.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["results.html"]
