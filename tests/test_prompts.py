import pytest

from divek_verl import prompts
from divek_verl.errors import SetupError

DATASETS = ["cub", "flowers", "pets", "cars", "aircraft", "flags", "mushrooms"]
NAMES = ["Sooty Tern", "{braces}", "F/A-18"]
OPTIONS = "A. Sooty Tern\nB. {braces}"


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("build", ["open", "choice"])
def test_both_questions_ask_for_reasoning_and_an_answer_and_hold_no_picture(dataset: str, build: str) -> None:
    text = prompts.open_question(dataset, NAMES) if build == "open" else prompts.multiple_choice(dataset, OPTIONS)
    assert "<think> </think>" in text
    assert "<answer> </answer>" in text
    assert "<image>" not in text


@pytest.mark.parametrize("dataset", DATASETS)
def test_prompts_are_short(dataset: str) -> None:
    for text in (prompts.open_question(dataset, []), prompts.multiple_choice(dataset, "")):
        assert 45 <= len(text.split()) <= 70


def test_the_class_list_is_one_line_at_the_end() -> None:
    assert prompts.open_question("cub", NAMES).splitlines()[-1].endswith("Sooty Tern, {braces}, F/A-18")


def test_the_options_are_at_the_end() -> None:
    assert prompts.multiple_choice("cub", OPTIONS).endswith("\n" + OPTIONS)


@pytest.mark.parametrize(
    ("dataset", "thing", "kind"),
    [
        ("cub", "bird", "species"),
        ("flowers", "flower", "species"),
        ("pets", "pet", "breed"),
        ("cars", "car", "make and model"),
        ("aircraft", "aircraft", "make and model"),
        ("flags", "flag", "country"),
        ("mushrooms", "main object", "category"),
    ],
)
def test_the_nouns_are_those_of_the_data_set(dataset: str, thing: str, kind: str) -> None:
    for text in (prompts.open_question(dataset, []), prompts.multiple_choice(dataset, "")):
        assert f"the {thing} in the image" in text
        assert kind in text


def test_both_questions_share_their_first_sentences() -> None:
    """What they share after the picture can be served from the prefix cache."""
    open_text, choice_text = prompts.open_question("cub", NAMES), prompts.multiple_choice("cub", OPTIONS)
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
    [
        "",
        "divek",
        "divek/flags",
        "divek//base",
        "divek/flags/novel",
        "divek/a/b/base",
        "flags/base",
        "x/y/all",
    ],
)
def test_any_other_data_source_is_refused(data_source: str) -> None:
    with pytest.raises(SetupError, match="data source"):
        prompts.parse_data_source(data_source)
