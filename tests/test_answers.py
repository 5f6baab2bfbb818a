import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.answers import has_format, parse_answer, parse_option, parse_reasoning

_FRAGMENTS = [
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    "<ANSWER>",
    "</Answer >",
    "B",
    " ",
    "\n",
    "(",
    "a.",
    ", C",
]
HOSTILE = st.lists(st.sampled_from(_FRAGMENTS) | st.text(max_size=5)).map("".join)
LONG = 100_000
INVISIBLE = ["\u200b", "\ufeff\u2060", "\u00ad", "\u3164", "\u2800", "\u034f", "\ufe0f", "\x07", "\U000e0041", "\ue000"]


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer>Sooty Tern</answer>", "Sooty Tern"),
        ("<think>Hm.</think>\n<answer>\n Sooty Tern \n</answer> Done.", "Sooty Tern"),
        ("<answer>A</answer> no, <answer>B</answer>", "B"),
        ("<ANSWER>B</Answer>", "B"),
        ("<answer >B</answer\n>", "B"),
        ("<think>the <answer> tag</think><answer>B</answer>", "B"),  # the last opening tag before the end
        ("<answer>A<answer>B</answer>C</answer>", "B"),  # nested: the innermost
        ("<answer>B</answer></answer>", "B"),
        ("<answer>A</answer> wait <answer>B", "A"),  # cut off at the length limit: not an element
        ("<answer>A</answer><answer></answer>", ""),
        ("<answer> \n </answer>", ""),
        ("<answer>a <b> c</answer>", "a <b> c"),
        ("<answer>line one\nline two</answer>", "line one\nline two"),
        ("", None),
        ("Sooty Tern", None),
        ("<answer>Sooty Tern", None),
        ("Sooty Tern</answer>", None),
        ("</answer>B<answer>", None),
        ("<answers>B</answers>", None),
        ("<answer/>", None),
    ],
)
def test_the_answer_is_the_last_complete_element(completion: str, answer: str | None) -> None:
    assert parse_answer(completion) == answer


@given(HOSTILE, st.text().filter(lambda text: "<" not in text))
def test_whatever_comes_before_the_last_element_counts(before: str, answer: str) -> None:
    assert parse_answer(f"{before}<answer>{answer}</answer>") == answer.strip()


@pytest.mark.parametrize(
    "answer",
    [
        *["B", "b", "(B)", "[B]", "(b)", "B.", "B)", "B:", "**B**", "*B*", "__B__", "`B`", '"B"', " B\n"],
        *["B. Sooty Albatross", "B: Sooty Albatross", "B) Sooty Albatross", "B.Sooty Albatross", "b. sooty albatross"],
        *["(B) Sooty Albatross", "[B] Sooty Albatross", "(B). Sooty Albatross", "B - Sooty Albatross"],
        *["**B. Sooty Albatross**", "**B.** Sooty Albatross", "**B**. Sooty Albatross", "**(B)** Sooty Albatross"],
        *["option B", "Option B", "OPTION (B)", "option [b]", "Option: B", "Option B. Sooty Albatross", "**Option B**"],
        *["Answer: B", "answer B", "choice B"],
    ],
)
def test_accepted_forms_of_an_option(answer: str) -> None:
    assert parse_option(f"<think>A or C?</think><answer>{answer}</answer>", 5) == 1


@pytest.mark.parametrize(
    "name",
    [
        *[
            "F/A-18",
            "C-130",
            "DC-10",
            "E-170",
            "Boeing 747-400",
            "Ram C/V Cargo Van Minivan 2012",
            "Model C",
            "Class A.",
        ],
        *["Infiniti G Coupe IPL 2012", "Mercedes-Benz C-Class Sedan 2012", "Brandt's Cormorant", "D'Arcy's Bird"],
        *["Antigua and Barbuda", "Trinidad & Tobago", "U.S. Virgin Islands", "St. Kitts and Nevis", "Congo, Republic"],
        *["Sooty Albatross, a seabird", "Sooty Albatross (the dark one)", "Albatross, not a gull"],
    ],
)
def test_letters_within_the_name_of_an_option_are_no_second_option(name: str) -> None:
    assert parse_option(f"<answer>B. {name}</answer>", 5) == 1


@pytest.mark.parametrize(
    "answer",
    [
        *["A bird", "a bird", "I can't say", "It's D, not B.", "The answer is B", "Neither", "Boeing", "a.k.a. gull"],
        *[
            "e.g. a gull",
            "B or C",
            "A B",
            "AB",
            "A, B",
            "A/B",
            "A & B",
            "A|B",
            "A and B",
            "(A or B)",
            "[A, B]",
            "(A)(B)",
        ],
        *[
            "B) C)",
            "A. B",
            "A: B",
            "B. or C.",
            "B. Not C",
            "A\nB",
            "**B** or **C**",
            "option A or B",
            "options A and B",
        ],
        *["A. Sooty Albatross B. Laysan Albatross", "A. Sooty Albatross\nB. Laysan Albatross", "B. Sooty, not C"],
        *["A. Sooty Albatross or B. Laysan Albatross", "(A) Sooty (B) Laysan", "F", "(Z)", "F. Sooty Albatross"],
        *["B-52", "C-130", "B 52", "1", "2.", "B?", "", " ", ".", "**", "\u0412", "\uff22"],
    ],
)
def test_no_option_for_prose_several_letters_or_letters_beyond(answer: str) -> None:
    assert parse_option(f"<answer>{answer}</answer>", 5) is None


@pytest.mark.parametrize(
    "completion", ["", "B", "(B)", "The answer is B.", "<answer>B", "<think>B</think>", "B</answer>"]
)
def test_no_option_without_an_answer_element(completion: str) -> None:
    assert parse_option(completion, 5) is None


def test_the_last_element_decides_even_when_it_names_no_option() -> None:
    assert parse_option("<answer>B</answer><answer>none</answer>", 5) is None
    assert parse_option("<answer>A</answer><answer>C</answer>", 5) == 2


@given(st.integers(2, 26))
def test_letters_count_up_to_the_number_of_options(num_options: int) -> None:
    letters = [chr(ord("A") + index) for index in range(26)]
    parsed = [parse_option(f"<answer>{letter}</answer>", num_options) for letter in letters]
    assert parsed == [*range(num_options), *[None] * (26 - num_options)]


@given(HOSTILE, st.integers(2, 26))
def test_any_completion_gives_an_option_in_range_or_none(completion: str, num_options: int) -> None:
    option = parse_option(completion, num_options)
    assert option is None or 0 <= option < num_options


@pytest.mark.parametrize(
    "completion",
    [
        "<think>It is dark.</think><answer>B</answer>",
        "<think>It is\ndark.</think>\n\n<answer>\nB\n</answer>",
        "<think>1 < 2 and <b>bold</b></think> <answer>B</answer>",
        "<think>.</think><answer>B</answer>",
    ],
)
def test_the_format_is_one_think_and_one_answer(completion: str) -> None:
    assert has_format(completion)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "B",
        "<answer>B</answer>",
        "<think>x</think>",
        "<think>x</think>B",
        "<think>x<answer>B</answer>",
        "<think>x</think><answer>B",
        "<answer>B</answer><think>x</think>",
        "<think>x</think> so <answer>B</answer>",
        "Well. <think>x</think><answer>B</answer>",
        "<think>x</think><answer>B</answer> Done.",
        "\n<think>x</think><answer>B</answer>",
        "<think>x</think><answer>B</answer>\n",
        "<think>x<think>y</think></think><answer>B</answer>",
        "<think>x</think><think>y</think><answer>B</answer>",
        "<think>x</think><answer>A</answer><answer>B</answer>",
        "<think>x</think><answer><answer>B</answer></answer>",
        "<think>x <answer>A</answer></think><answer>B</answer>",
        "<think>x</think><answer>B</think></answer>",
        "<think>x</think><answer>B <ANSWER></answer>",
        "<Think>x</Think><Answer>B</Answer>",
        "<think >x</think><answer>B</answer>",
        # an element with nothing to see
        "<think></think><answer></answer>",
        "<think></think><answer>B</answer>",
        "<think>x</think><answer> \n </answer>",
        *[f"<think>{blank}</think><answer>B</answer>" for blank in INVISIBLE],
        *[f"<think>x</think><answer>{blank}</answer>" for blank in INVISIBLE],
    ],
)
def test_anything_else_breaks_the_format(completion: str) -> None:
    assert not has_format(completion)


def test_the_bar_counts_visible_characters() -> None:
    completion = "<think>a b\u200b\u0301.</think><answer>B</answer>"
    assert [has_format(completion, count) for count in (1, 3, 4)] == [True, True, False]


@pytest.mark.parametrize(
    ("completion", "reasoning"),
    [
        ("<think> It is dark. </think><answer>B</answer>", "It is dark."),
        ("<THINK >a<think>b</Think >c</think>", "a<think>b"),
        ("</think><think>a", None),
        ("B", None),
    ],
)
def test_the_reasoning_is_the_first_think_element(completion: str, reasoning: str | None) -> None:
    assert parse_reasoning(completion) == reasoning


@given(HOSTILE)
def test_a_completion_in_format_has_an_answer(completion: str) -> None:
    assert isinstance(has_format(completion), bool)
    if has_format(completion):
        assert parse_answer(completion) is not None


@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "<answer",
        "<answer ",
        "<answer>",
        "</answer>",
        "<think>",
        "<think",
        "</think>",
        " ",
        "\n",
        "a.",
        "a. ",
        ", ",
        "(",
        "or a ",
        ".",
        "*",
        "a ",
    ],
)
def test_long_completions_are_read_in_linear_time(unit: str) -> None:
    """A regular expression that backtracks would not return within the timeout of the suite."""
    body = unit * (LONG // len(unit))
    for completion in (body, f"<think>{body}</think><answer>B. {body}</answer>", f"<answer>option {body}</answer>"):
        parse_answer(completion)
        parse_option(completion, 5)
        has_format(completion, LONG)
        parse_reasoning(completion)
