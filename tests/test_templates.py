"""The environment of all pages."""

import jinja2
import pytest
from markupsafe import Markup

from divek_verl.templates import environment


def test_text_is_escaped_and_its_marks_are_written_out() -> None:
    page = environment().from_string("{{ name }}").render(name="<script>\u202e\u200b")
    assert page == "&lt;script&gt;\\u202e\\u200b"


def test_our_own_markup_stays_as_it_is() -> None:
    assert environment().from_string("{{ own }}").render(own=Markup("<b>\u202e</b>")) == "<b>\u202e</b>"


def test_a_value_that_is_not_there_is_an_error_and_no_gap() -> None:
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ missing }}").render()


def test_a_page_brings_its_own_filters() -> None:
    assert environment(twice=lambda text: text * 2).from_string("{{ 'ab'|twice }}").render() == "abab"
