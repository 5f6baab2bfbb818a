"""The page of an evaluation in a real browser: names stay whole, and only tables scroll sideways."""

from pathlib import Path

import chromium
import pytest

from divek_verl.evaluation.page import write_page

from .fabricated_results import results

pytestmark = pytest.mark.skipif(chromium.EXECUTABLE is None, reason=chromium.MISSING)

LINES_OF_EACH_SOURCE = """headers => headers.filter(each => each.textContent.startsWith("divek/flags/")).map(header => {
    const word = document.createRange()
    word.setStart(header.firstChild, 0)
    word.setEnd(header.firstChild, header.textContent.split(" ")[0].length)
    return new Set([...word.getClientRects()].map(rectangle => rectangle.top)).size
})"""


@pytest.mark.parametrize("width", [1160, 600, 320])
def test_no_data_source_is_cut_in_two_and_the_page_stays_within_the_window(width: int, tmp_path: Path) -> None:
    write_page(results(), tmp_path / "results.html")
    with chromium.launched() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto((tmp_path / "results.html").as_uri())
        lines = page.locator("tbody th").evaluate_all(LINES_OF_EACH_SOURCE)
        assert len(lines) >= 8 and set(lines) == {1}
        assert page.evaluate("document.documentElement.scrollWidth") <= width
