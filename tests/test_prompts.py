import pytest

from divek_verl import prompts
from divek_verl.errors import SetupError
from divek_verl.prompts import Wording

BIRD = Wording("bird", "species")
WORDINGS = [BIRD, Wording("car", "make and model"), Wording()]
NAMES = ["Sooty Tern", "{braces}", "F/A-18"]
OPTIONS = "A. Sooty Tern\nB. {braces}"


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("build", ["open", "choice"])
def test_both_questions_ask_for_reasoning_and_an_answer_and_hold_no_picture(wording: Wording, build: str) -> None:
    text = prompts.open_question(wording, NAMES) if build == "open" else prompts.multiple_choice(wording, OPTIONS)
    assert "<think> </think>" in text
    assert "<answer> </answer>" in text
    assert "<image>" not in text


@pytest.mark.parametrize("wording", WORDINGS)
def test_prompts_are_short(wording: Wording) -> None:
    for text in (prompts.open_question(wording, ["x"]), prompts.multiple_choice(wording, "")):
        assert 45 <= len(text.split()) <= 70


def test_the_class_list_is_one_line_at_the_end() -> None:
    assert prompts.open_question(BIRD, NAMES).splitlines()[-1].endswith("Sooty Tern, {braces}, F/A-18")


def test_the_options_are_at_the_end() -> None:
    assert prompts.multiple_choice(BIRD, OPTIONS).endswith("\n" + OPTIONS)


@pytest.mark.parametrize("wording", WORDINGS)
def test_both_questions_use_the_nouns_of_the_wording(wording: Wording) -> None:
    for text in (prompts.open_question(wording, ["x"]), prompts.multiple_choice(wording, "")):
        assert f"the {wording.thing} in the image and decide its most likely {wording.kind}." in text


def test_the_generic_wording_names_no_domain() -> None:
    assert (Wording().thing, Wording().kind) == ("main object", "category")


@pytest.mark.parametrize("noun", ["", "  ", "bird\nspecies"])
def test_a_noun_is_one_line_of_text(noun: str) -> None:
    for make in (lambda: Wording(thing=noun), lambda: Wording(kind=noun)):
        with pytest.raises(SetupError, match="is no noun: give one line of text"):
            make()


def test_both_questions_share_their_first_sentences() -> None:
    """What they share after the picture can be served from the prefix cache."""
    open_text, choice_text = prompts.open_question(BIRD, NAMES), prompts.multiple_choice(BIRD, OPTIONS)
    shared = open_text.split("Then give")[0]
    assert choice_text.startswith(shared)


def test_the_picture_comes_before_the_text() -> None:
    assert prompts.user_prompt("Which bird?") == [{"role": "user", "content": "<image>Which bird?"}]


@pytest.mark.parametrize("text", ["a <image> b", "<video>"])
def test_a_second_picture_in_the_text_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="remove it"):
        prompts.user_prompt(text)


@pytest.mark.parametrize("side", ["base", "new", "all"])
def test_a_data_source_names_data_set_and_side(side: str) -> None:
    assert prompts.parse_data_source(f"divek/flags/{side}") == ("flags", side)


@pytest.mark.parametrize(
    "data_source",
    ["", "divek", "divek/flags", "divek//base", "divek/flags/novel", "divek/a/b/base", "flags/base", "x/y/all"],
)
def test_any_other_data_source_is_refused(data_source: str) -> None:
    with pytest.raises(SetupError, match="data source"):
        prompts.parse_data_source(data_source)


def test_a_new_text_keeps_earlier_messages_and_needs_no_picture() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?"}]
    assert prompts.with_text(messages, "Which?") == [
        messages[0],
        {"role": "user", "content": [{"type": "text", "text": "Which?"}]},
    ]
