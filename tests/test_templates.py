"""The environment of all pages."""

import jinja2
import pytest
from markupsafe import Markup

from divek_verl.templates import environment, label, visible


def test_text_is_escaped_and_its_marks_are_written_out() -> None:
    page = environment().from_string("{{ name }}").render(name="<script>\u202e\u200b")
    assert page == "&lt;script&gt;\\u202e\\u200b"


def test_markup_of_the_package_is_not_escaped() -> None:
    assert environment().from_string("{{ own }}").render(own=Markup("<b>\u202e</b>")) == "<b>\u202e</b>"


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ missing }}").render()


def test_a_page_brings_its_own_filters() -> None:
    assert environment(twice=lambda text: text * 2).from_string("{{ 'ab'|twice }}").render() == "abab"


def test_visible_keeps_plain_text_and_other_scripts() -> None:
    for text in ("São Tomé\n\tand Príncipe", "日本", "مصر", "Ελλάδα", ""):
        assert visible(text) == text
    assert visible("a\u200bb\u2028\ud800") == r"a\u200bb\u2028\ud800"


def test_a_label_is_visible_and_short() -> None:
    assert label("Chad\u202e") == r"Chad\u202e"
    assert label("x" * 500) == "x" * 119 + "…"
