"""The page in a real browser: it draws, filters work, hostile text does nothing, light and dark."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import chromium
import pytest

from divek_verl.report import write_comparison, write_report

from .fabricated import Record, fabricate_run, read_lines, write_lines

pytestmark = pytest.mark.skipif(chromium.EXECUTABLE is None, reason=chromium.MISSING)

LINES_OF_THE_FIRST_WORD = """header => {
    const text = document.createTreeWalker(header, NodeFilter.SHOW_TEXT)
    let node = text.nextNode()
    while (!node.data.includes("divek/")) node = text.nextNode()
    const word = document.createRange()
    word.setStart(node, node.data.indexOf("divek/"))
    word.setEnd(node, node.data.trimEnd().length)
    return new Set([...word.getClientRects()].map(rectangle => rectangle.top)).size
}"""
ALERT = "window.hacked = true"
HOSTILE = f"</script></template><script>{ALERT}</script><img src=x onerror='{ALERT}'>\u202egpj"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.launched() as started:
        yield started


@dataclass
class Opened:
    """A page that is open, and what it complained about."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def found(self) -> str:
        return self.page.locator("#found").inner_text()

    def filter(self, **values: str) -> None:
        """Set filters by name: a select by its text, an input by what is typed."""
        for name, value in values.items():
            control = self.page.locator(f"#filters [name={name}]")
            if control.evaluate("control => control.tagName") == "SELECT":
                control.select_option(label=value)
            else:
                control.fill(value)

    def wait_until(self, expression: str, seconds: float = 30.0) -> None:
        """Ask again and again from here: the page's own policy lets it evaluate no text."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)

    def colour(self, selector: str, name: str = "color") -> str:
        return self.page.locator(selector).first.evaluate(f"element => getComputedStyle(element)['{name}']")


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a file in a window of its own; at the end, no page may have complained or asked the network."""
    opened: list[Opened] = []

    def open_file(path: Path, scheme: str = "light") -> Opened:
        context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        one = Opened(context.new_page())
        one.page.set_default_timeout(60_000)
        one.page.on("console", lambda message: one.complaints.append(f"{message.type}: {message.text}"))
        one.page.on("pageerror", lambda error: one.complaints.append(str(error)))
        one.page.on("request", lambda request: one.requests.append(request.url))
        one.page.goto(path.as_uri())
        opened.append(one)
        return one

    yield open_file
    for one in opened:
        assert one.complaints == []
        assert [url for url in one.requests if not url.startswith(("file:", "data:"))] == []
        one.page.context.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate_run(tmp_path_factory.mktemp("chromium") / "flags-run")


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    return write_report(folder)


@pytest.fixture(scope="module")
def visits(folder: Path) -> list[Record]:
    return read_lines(folder / "questions.jsonl")


def of_total(count: int, visits: list[Record]) -> str:
    return f"{count} of {len(visits)} questions"


def test_the_curves_and_the_matrices_are_drawn(report: Path, open_page: Any) -> None:
    page = open_page(report).page
    charts = page.locator(".chart").count()
    assert charts >= 12
    assert page.locator(".chart .main-svg .xaxislayer-above").count() == charts
    assert page.locator("#matrix-before .hm image, #matrix-after .hm image").count() == 2
    page.locator("#matrix-choice").select_option(label="divek/flags/new")
    assert "Guinea" in page.locator("#matrix-before").inner_text()


def test_a_narrow_window_stacks_what_stood_side_by_side(report: Path, open_page: Any) -> None:
    opened = open_page(report)
    page = opened.page
    page.set_viewport_size({"width": 400, "height": 800})
    opened.wait_until("document.querySelector('#matrix-before .main-svg').clientWidth < 400")
    boxes = [page.locator(part).bounding_box() for part in ("#matrix-before", "#matrix-after", "#matrix > .note")]
    for above, below in pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"]
    drawn = page.locator("#matrix-after .main-svg").first.bounding_box()
    assert drawn["y"] + drawn["height"] <= boxes[2]["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("width", [1160, 700, 400])
def test_the_final_table_breaks_no_source_inside_a_word_and_pushes_no_page_wide(
    width: int, report: Path, open_page: Any
) -> None:
    opened = open_page(report)
    opened.page.set_viewport_size({"width": width, "height": 800})
    # The charts follow the window a moment later.
    opened.wait_until(f"document.documentElement.scrollWidth <= {width}", seconds=10)
    sources = opened.page.locator(".scores tbody th")
    assert sources.count() == 2
    for source in sources.all():
        assert source.evaluate(LINES_OF_THE_FIRST_WORD) == 1


def test_the_schemes_differ_and_can_be_read(report: Path, open_page: Any) -> None:
    light, dark = open_page(report, "light"), open_page(report, "dark")
    for selector, name in (("body", "background-color"), ("body", "color"), (".row", "color"), (".chart text", "fill")):
        assert light.colour(selector, name) != dark.colour(selector, name)
    assert brightness(light.colour("body", "background-color")) > 200 > 100 > brightness(light.colour("body"))
    assert brightness(dark.colour("body", "background-color")) < 100 < 200 < brightness(dark.colour("body"))
    light.page.emulate_media(color_scheme="dark")
    light.wait_until("getComputedStyle(document.body).backgroundColor === 'rgb(18, 21, 26)'")


def brightness(colour: str) -> float:
    return sum(float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) / 3


def test_the_list_holds_only_the_rows_in_view(report: Path, open_page: Any, visits: list[Record]) -> None:
    opened = open_page(report)
    assert opened.found == f"{len(visits)} questions"
    assert 0 < opened.page.locator(".row").count() < 30
    assert 0 < opened.page.locator(".row img").count() < 30
    opened.page.locator("#rows").evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
    opened.page.wait_for_selector(f"#row-{len(visits) - 1}")
    assert opened.page.locator(".row").count() < 30


FILTERS: list[tuple[dict[str, str], Callable[[Record], Any]]] = [
    ({"training": "training"}, lambda v: v["split"] == "train"),
    ({"result": "✓ right", "training": "validation"}, lambda v: v["split"] == "val" and is_right(v)),
    ({"result": "✗ wrong"}, lambda v: v["skip"] is None and not is_right(v)),
    ({"result": "no question"}, lambda v: v["skip"] is not None),
    ({"reason": "easy"}, lambda v: v["skip"] == "easy"),
    ({"truth": "put there (injected)"}, lambda v: v["injected"] and v["options"]),
    ({"class": "Chad", "step": "30"}, lambda v: v["truth"] == "Chad" and v["step"] == 30),
    ({"source": "divek/flags/new", "class": "Mali"}, lambda v: v["truth"] == "Mali"),
    ({"image": "MALI_2"}, lambda v: v["image_id"] == "val_mali_2"),
    ({"class": "Chad", "answered": "Andorra"}, lambda v: v["truth"] == "Chad" and "Andorra" in v["unknown"]),
]


def test_filters_leave_what_they_say(report: Path, open_page: Any, visits: list[Record]) -> None:
    opened = open_page(report)
    for filters, passes in FILTERS:
        opened.filter(**filters)
        count = sum(bool(passes(visit)) for visit in visits)
        assert 0 < count < len(visits)
        assert opened.found == of_total(count, visits), filters
        opened.page.locator("#reset").click()
        assert opened.found == f"{len(visits)} questions"
    opened.filter(**{"class": "Atlantis"})
    assert opened.page.locator(".row").count() == 0
    assert "No question passes these filters." in opened.page.locator("#detail").inner_text()


def is_right(visit: Record) -> bool:
    return bool(visit["choices"]) and visit["choices"][0] == visit["answer"]


def test_a_question_shows_picture_votes_options_and_text(report: Path, open_page: Any, visits: list[Record]) -> None:
    opened = open_page(report)
    opened.filter(image="val_chad_0", step="30")
    (visit,) = (v for v in visits if v["image_id"] == "val_chad_0" and v["step"] == 30)
    detail = opened.page.locator("#detail")
    detail.locator("pre").wait_for()
    assert detail.locator("pre").inner_text() == visit["completions"][0]
    assert detail.locator("img.large").evaluate("image => image.complete && image.naturalWidth > 0")
    assert detail.locator(".options li").count() == len(visit["options"])
    assert f"Answers of {sum(visit['votes'].values()) + visit['unanswered'] + sum(visit['unknown'].values())}" in (
        detail.inner_text()
    )
    assert "votes from policy" in " ".join(detail.inner_text().split())


def test_the_visits_to_one_image_lead_to_each_other(report: Path, open_page: Any) -> None:
    opened = open_page(report)
    opened.filter(image="val_chad_0", step="0")
    assert "step 0" in opened.page.locator("#detail small").inner_text()
    opened.page.locator(".history button", has_text="step 30").click()
    assert "step 30" in opened.page.locator("#detail small").inner_text()


def test_the_arrow_keys_move_through_the_list(report: Path, open_page: Any, visits: list[Record]) -> None:
    page = open_page(report).page
    page.locator("#rows").focus()
    for key, selected in (("ArrowDown", 1), ("ArrowUp", 0), ("End", len(visits) - 1), ("Home", 0)):
        page.keyboard.press(key)
        assert page.locator(".row[aria-selected=true]").get_attribute("id") == f"row-{selected}"


def test_a_cell_of_the_matrix_leads_to_its_questions(report: Path, open_page: Any, visits: list[Record]) -> None:
    opened = open_page(report)
    classes = opened.page.evaluate("JSON.parse(document.getElementById('matrices').textContent)")[0]["classes"]
    plot = opened.page.locator("#matrix-before .nsewdrag")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    across = (classes.index("Romania") + 0.5) * box["width"] / (len(classes) + 2)
    down = (classes.index("Chad") + 0.5) * box["height"] / len(classes)
    plot.click(position={"x": across, "y": down})
    opened.wait_until("document.querySelector('#filters [name=answered]').value === 'Romania'")
    wanted = [v for v in visits if v["split"] == "val" and v["truth"] == "Chad"]
    count = sum("Romania" in v["votes"] or "Romania" in v["options"][ord(v["choices"][0]) - ord("A")] for v in wanted)
    assert opened.found == of_total(count, visits)


def test_hostile_names_and_texts_are_inert(tmp_path: Path, open_page: Any) -> None:
    folder = fabricate_run(tmp_path / "hostile")
    lines = read_lines(folder / "questions.jsonl")
    for line in lines:
        line |= {"truth": HOSTILE, "votes": {HOSTILE: 3, f"{HOSTILE}2": 3}, "unknown": {f"{HOSTILE}3": 2}}
        line |= {"options": [HOSTILE, f"{HOSTILE}2"], "answer": "A", "completions": [HOSTILE], "failure": HOSTILE}
        line |= {"image_id": f"{HOSTILE}{line['image_id']}", "data_source": f"divek/{HOSTILE}/base"}
        line |= {"votes_from": HOSTILE, "option_source": HOSTILE}
    write_lines(folder / "questions.jsonl", lines)
    opened = open_page(write_report(folder))
    opened.page.locator("#detail pre").wait_for()
    shown = opened.page.locator("#detail").inner_text()
    assert shown.count(f"<script>{ALERT}</script>") >= 3 and r"\u202egpj" in shown and "\u202e" not in shown
    opened.page.locator("#matrix-before .nsewdrag").hover()
    opened.page.locator(".row").nth(1).click()
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("script").count() == 6
    assert opened.page.locator("img[onerror]").count() == 0


def test_several_runs_are_drawn_over_each_other_and_can_be_filtered(
    folder: Path, tmp_path: Path, open_page: Any, visits: list[Record]
) -> None:
    other = fabricate_run(tmp_path / "other-run", seed="other")
    opened = open_page(write_comparison([folder, other], tmp_path / "both.html"))
    assert opened.page.locator("#chart-0 .scatterlayer .trace").count() == 2
    assert opened.found == f"{2 * len(visits)} questions"
    opened.filter(run="other-run")
    assert opened.found == f"{len(visits)} of {2 * len(visits)} questions"
    assert opened.page.locator("#matrix-choice option").count() == 4
