"""The page in a real browser: it draws, filters work, hostile text does nothing, light and dark."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import chromium
import pytest

from divek_verl.records import QuestionRecord
from divek_verl.report import write_comparison, write_report
from divek_verl.templates import environment

from .fabricated import fabricate_run, make_hostile, make_record, read_records, write_logged, write_records

pytestmark = pytest.mark.skipif(chromium.EXECUTABLE is None, reason=chromium.MISSING)

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
        name, _, fragment = str(path).partition("#")
        one.page.goto(Path(name).as_uri() + ("#" + fragment if fragment else ""))
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
def records(folder: Path) -> list[QuestionRecord]:
    return read_records(folder)


def of_total(count: int, records: list[QuestionRecord]) -> str:
    return f"{count} of {len(records)} questions"


def test_the_curves_and_the_matrices_are_drawn(report: Path, open_page: Any) -> None:
    page = open_page(report).page
    charts = page.locator(".chart").count()
    assert charts >= 12
    assert page.locator(".chart .main-svg .xaxislayer-above").count() == charts
    assert page.locator("#matrix-before .hm image, #matrix-after .hm image").count() == 2
    page.locator("#matrix-choice").select_option(label="divek/flags/new")
    assert "Guinea" in page.locator("#matrix-before").inner_text()


def edge_run(folder: Path, kind: str) -> Path:
    """A run in which no sample names a wrong class, or in which nothing was trained."""
    folder.mkdir()
    steps = (0,) if kind == "evaluation only" else (0, 30)
    votes = {"unknown": {"Atlantis": 8}} if kind == "all unknown" else {"votes": {"Chad": 8}}
    records = [make_record(str(n), step=step, **votes) for step in steps for n in range(3)]  # type: ignore[arg-type]
    write_records(folder, records)
    if kind != "evaluation only":
        write_logged(folder, [(step, {"critic/score/mean": step / 30}) for step in range(31)])
    return folder


@pytest.mark.parametrize("kind", ["all unknown", "all right", "evaluation only"])
def test_a_run_without_a_wrong_class_has_all_its_charts(kind: str, tmp_path: Path, open_page: Any) -> None:
    page = open_page(write_report(edge_run(tmp_path / "run", kind))).page
    charts = page.locator(".chart").count()
    assert page.locator(".chart .main-svg .xaxislayer-above").count() == charts
    assert charts == (kind != "evaluation only")  # the reward
    matrices = 1 if kind == "evaluation only" else 2
    assert page.locator("#matrix .hm image").count() == matrices
    assert page.locator("#matrix-after").is_visible() == (matrices == 2)
    assert page.locator(".row").count() == 3 * matrices and page.get_by_text("No sample named a wrong class.").count()


def test_a_chart_that_fails_says_so_and_the_others_are_drawn(report: Path, tmp_path: Path, open_page: Any) -> None:
    source = report.read_text(encoding="utf-8")
    before, marked, rest = source.partition('<script type="application/json" id="figures">[{"data": [')
    (tmp_path / "broken.html").write_text(before + marked.removesuffix("[") + '7, "was": [' + rest, encoding="utf-8")
    page = open_page(tmp_path / "broken.html").page
    assert page.locator("#chart-0").inner_text().startswith("This chart could not be drawn: ")
    assert page.locator(".chart .main-svg .xaxislayer-above").count() == page.locator(".chart").count() - 1
    assert page.locator("#matrix .hm image").count() == 2


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
    assert opened.page.locator(".scores tbody th").evaluate_all(chromium.LINES_OF_EACH_SOURCE) == [1, 1]


def test_on_a_phone_the_navigation_leads_on_and_no_table_is_cut(report: Path, open_page: Any) -> None:
    opened = open_page(report)
    page = opened.page
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator("nav.page a", has_text="Confusions").click()
    opened.wait_until("Math.abs(document.getElementById('confusions').getBoundingClientRect().top - 48) < 8")
    assert page.locator("nav.page").bounding_box()["y"] == 0
    cut = """tables => tables.filter(table => {
        const card = table.closest(".scroll") || table;
        return table.scrollWidth > card.clientWidth && getComputedStyle(card).overflowX !== "auto";
    }).length"""
    assert page.locator("table").evaluate_all(cut) == 0
    inside = "all => all.every(each => each.getBoundingClientRect().right <= 390)"
    assert page.locator(".scores .change").evaluate_all(inside)


def test_a_link_leads_to_a_question_or_to_a_class(report: Path, open_page: Any, records: list[QuestionRecord]) -> None:
    page = open_page(report).page
    page.locator(".row").nth(2).click()
    page.locator("#detail pre").first.wait_for()
    linked = page.locator("#detail a").get_attribute("href")
    about = page.locator("#detail small").first.inner_text()
    other = open_page(Path(f"{report}{linked}"))
    assert (
        other.page.locator("#detail small").first.inner_text() == about and other.found == f"{len(records)} questions"
    )
    other.page.evaluate("location.hash = '#class=Mali&step=30'")
    other.wait_until("document.querySelector('#detail h3').textContent === 'Mali'")
    assert "step 30" in other.page.locator("#detail small").first.inner_text()
    assert other.found == of_total(sum(r.truth == "Mali" for r in records), records)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_contact_sheet_has_the_colours_of_the_scheme(scheme: str, tmp_path: Path, open_page: Any) -> None:
    (tmp_path / "sheet.html").write_text(environment().get_template("sheet.html.j2").render(title="flags", sections={}))
    opened = open_page(tmp_path / "sheet.html", scheme)
    page, text = (brightness(opened.colour("body", name)) for name in ("background-color", "color"))
    assert (page - text > 150) if scheme == "light" else (text - page > 150)


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


def test_the_list_holds_only_the_rows_in_view(report: Path, open_page: Any, records: list[QuestionRecord]) -> None:
    opened = open_page(report)
    assert opened.found == f"{len(records)} questions"
    assert 0 < opened.page.locator(".row").count() < 30
    assert 0 < opened.page.locator(".row img").count() < 30
    opened.page.locator("#rows").evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
    opened.page.wait_for_selector(f"#row-{len(records) - 1}")
    assert opened.page.locator(".row").count() < 30
    # The arrow keys move through it.
    opened.page.locator("#rows").focus()
    for key, selected in (("Home", 0), ("ArrowDown", 1), ("ArrowUp", 0), ("End", len(records) - 1)):
        opened.page.keyboard.press(key)
        assert opened.page.locator(".row[aria-selected=true]").get_attribute("id") == f"row-{selected}"


def is_right(record: QuestionRecord) -> bool:
    return record.accuracy > 0.5


FILTERS: list[tuple[dict[str, str], Callable[[QuestionRecord], object]]] = [
    ({"training": "training"}, lambda r: r.split == "train"),
    ({"result": "✓ right", "training": "validation"}, lambda r: r.split == "val" and is_right(r)),
    ({"result": "✗ wrong"}, lambda r: r.reason is None and not is_right(r)),
    ({"result": "no question"}, lambda r: r.reason is not None),
    ({"reason": "easy"}, lambda r: r.skip == "easy"),
    ({"truth": "yes, injected"}, lambda r: r.injected and r.options),
    ({"votes_from": "store"}, lambda r: r.votes_from == "store"),
    ({"class": "Chad", "step": "30"}, lambda r: r.truth == "Chad" and r.step == 30),
    ({"source": "divek/flags/new", "class": "Mali"}, lambda r: r.truth == "Mali"),
    ({"image": "MALI_2"}, lambda r: r.image_id == "val_mali_2"),
    ({"class": "Chad", "answered": "Andorra"}, lambda r: r.truth == "Chad" and "Andorra" in r.unknown),
]


def test_filters_leave_what_they_say(report: Path, open_page: Any, records: list[QuestionRecord]) -> None:
    opened = open_page(report)
    for filters, passes in FILTERS:
        opened.filter(**filters)
        count = sum(bool(passes(record)) for record in records)
        assert 0 < count < len(records)
        assert opened.found == of_total(count, records), filters
        opened.page.locator("#reset").click()
        assert opened.found == f"{len(records)} questions"
    opened.filter(**{"class": "Atlantis"})
    assert opened.page.locator(".row").count() == 0
    assert "No question matches these filters." in opened.page.locator("#detail").inner_text()


def test_a_question_shows_picture_votes_options_and_text(
    report: Path, open_page: Any, records: list[QuestionRecord]
) -> None:
    opened = open_page(report)
    opened.filter(image="val_chad_0", step="30")
    (record,) = (r for r in records if r.image_id == "val_chad_0" and r.step == 30)
    detail = opened.page.locator("#detail")
    detail.locator("pre").wait_for()
    assert detail.locator("pre").inner_text() == record.completions[0]
    assert detail.locator("img.large").evaluate("image => image.complete && image.naturalWidth > 0")
    assert detail.locator(".options li").count() == len(record.options)
    text = " ".join(detail.inner_text().split())
    assert f"Answers of {record.samples} samples" in text
    for fact in ("policy version 30", "votes from policy", "vote age 0", "options from policy", "options asked for 2"):
        assert fact in text
    # The steps of one image lead to each other.
    for step in ("step 0", "step 30"):
        detail.locator(".history button", has_text=step).click()
        assert step in detail.locator("small").first.inner_text()


def test_a_cell_of_the_matrix_leads_to_its_questions(
    report: Path, open_page: Any, records: list[QuestionRecord]
) -> None:
    opened = open_page(report)
    classes = opened.page.evaluate("JSON.parse(document.getElementById('matrices').textContent)")[0]["classes"]
    plot = opened.page.locator("#matrix-before .nsewdrag")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    across = (classes.index("Romania") + 0.5) * box["width"] / (len(classes) + 2)
    down = (classes.index("Chad") + 0.5) * box["height"] / len(classes)
    plot.click(position={"x": across, "y": down})
    opened.wait_until("document.querySelector('#filters [name=answered]').value === 'Romania'")
    wanted = [r for r in records if r.split == "val" and r.truth == "Chad"]
    count = sum("Romania" in r.votes or "Romania" in r.options[ord(r.choices[0] or "") - ord("A")] for r in wanted)
    assert opened.found == of_total(count, records)


def test_hostile_names_and_texts_are_inert(tmp_path: Path, open_page: Any) -> None:
    folder = fabricate_run(tmp_path / "hostile")
    make_hostile(folder, HOSTILE)
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
    folder: Path, tmp_path: Path, open_page: Any, records: list[QuestionRecord]
) -> None:
    other = fabricate_run(tmp_path / "other-run", seed="other")
    opened = open_page(write_comparison([folder, other], tmp_path / "both.html"))
    assert opened.page.locator("#chart-0 .scatterlayer .trace").count() == 2
    assert opened.found == f"{2 * len(records)} questions"
    opened.filter(run="other-run")
    assert opened.found == f"{len(records)} of {2 * len(records)} questions"
    assert opened.page.locator("#matrix-choice option").count() == 4
