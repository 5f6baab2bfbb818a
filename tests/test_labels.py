import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames, canonical
from divek_verl.reward import compute_score
from divek_verl.votes import count_votes


@pytest.mark.parametrize(
    "spellings",
    [
        ["Black-footed Albatross", "black_footed albatross", "Black footed  Albatross.", "BLACK\tFOOTED\nALBATROSS"],
        ["Black\u2010footed", "Black\u2011footed", "Black\u2013footed", "Black \u2014 footed", "Black\u2212footed"],
        [
            "Brandt's Cormorant",
            "Brandt\u2019s Cormorant",
            "brandt cormorant",
            "BRANDT'S CORMORANT",
            "Brandt`s Cormorant",
        ],
        ["Brandt\u00b4s_Cormorant", "Brandt\u02bcs Cormorant", "Brandt Cormorant"],
        ["James's Flamingo", "James\u2019s Flamingo", "James' Flamingo", "James\u2019 Flamingo", "James Flamingo"],
        ["Chuck-will's-widow", "Chuck will Widow", "chuck_will_widow"],
        ["F/A-18", "f a 18", "F/A\u201318", "F_A_18"],
        ["Ram C/V Cargo Van", "ram c-v cargo van"],
        ["Côte d'Ivoire", "Cote d\u2019Ivoire", "COTE DIVOIRE", "Co\u0302te d'Ivoire"],
        ["São Tomé", "sao tome"],
        ["Smørrebrød", "smorrebrod"],
        ["Straße", "STRASSE"],
        ['"Green Globe"', "\u201cGreen Globe\u201d", "'Green Globe'", "\u00abGreen Globe\u00bb", "green globe"],
        [
            "  Sooty Albatross . ",
            "Sooty Albatross",
            "Sooty Albatross...",
            "Sooty\u00a0Albatross",
            "Sooty\u200b Albatross",
        ],
        ["\uff33ooty", "Sooty"],
    ],
)
def test_spellings_of_one_class_have_one_form(spellings: list[str]) -> None:
    assert len({canonical(spelling) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C-130", "C-13"),
        ("707-320", "707 32"),
        ("737-200", "737-2 00"),
        ("A1/23", "A12/3"),
        ("Swallows", "Swallow"),
        ("Rose", "Desert rose"),
        ("Model 1.5", "Model 15"),
        ("Sooty Tern", "Sooty Albatross"),
        ("\u304b", "\u304c"),  # a voicing mark tells two Japanese letters apart; it is no accent
    ],
)
def test_different_classes_stay_apart(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


def test_canonical_is_lower_case_words_with_single_spaces() -> None:
    assert canonical(" Brandt's_Cormorant. ") == "brandt cormorant"


@pytest.mark.parametrize("nothing", ["", " ", ".", "...", "-", "_/-", "'", "\u201d", "\u200b", "'.'", "\u0301"])
def test_names_of_nothing_but_separators_are_empty(nothing: str) -> None:
    assert canonical(nothing) == ""


# Dense in the characters that canonical treats specially, so that their combinations come up.
_HOSTILE = st.text(
    st.sampled_from("aAsS '\"\u2019\u00b4`._-/\u2013\u0301\u0345\u05b0\u0591\u0149\u0130ßø\u2026\u200b½1")
)


@given(st.text() | _HOSTILE)
def test_canonical_is_idempotent(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@pytest.mark.parametrize(
    "unit", ["\u0591\u05b0", "\u0301\u0323", "\uff9e\u0591", "\u05b1\u05b0'", "\ufdfa", "\u200b", " ", "a "]
)
def test_only_short_texts_are_normalized(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library sorts runs of marks in quadratic time: a minute for 128,000 characters."""
    lengths = []

    def counted(form: str, text: str) -> str:
        lengths.append(len(text))
        return normalize(form, text)

    normalize = unicodedata.normalize
    monkeypatch.setattr("divek_verl.labels.unicodedata.normalize", counted)
    text = canonical("Rose" + unit * 50_000)
    assert max(lengths, default=0) <= 20_000
    assert canonical(text) == text
    assert (text == "rose") == (unit in ("\u0301\u0323", " "))
    assert canonical("Ros\u00e9" + " " * 500 + "Tulip") == "rose tulip"


def test_canonical_is_idempotent_on_every_character_between_letters() -> None:
    for code in range(0x30000):
        text = canonical(f"a{chr(code)}b")
        assert canonical(text) == text, hex(code)


@given(st.text(st.characters(categories=["L", "N", "Zs"])))
def test_case_and_outer_white_space_never_count(text: str) -> None:
    assert canonical(f" {text}\n") == canonical(text)
    assert canonical(text.upper()) == canonical(text.casefold()) == canonical(text)


def test_match_gives_the_display_name_of_any_spelling() -> None:
    classes = ClassNames(["Black-footed Albatross", "Brandt's Cormorant"])
    assert classes.match("black_footed albatross.") == "Black-footed Albatross"
    assert classes.match("Brandt Cormorant") == "Brandt's Cormorant"


@pytest.mark.parametrize("text", ["desert-rose", "ros", "a rose", "rose bush", "", "."])
def test_match_is_never_a_substring(text: str) -> None:
    assert ClassNames(["Rose", "Tulip"]).match(text) is None


@pytest.mark.parametrize(
    "answer",
    [
        "Species name: rose",
        "the species is Rose.",
        "Species: Rose",
        "The answer is: rose",
        "Make and model: ROSE",
        "rose",
    ],
)
def test_an_answer_may_begin_with_what_it_names(answer: str) -> None:
    classes = ClassNames(["Rose", "Model: T", "T"])
    assert classes.match_answer(answer) == "Rose"
    assert classes.match_answer("Model: T") == "Model: T"  # a class of the list is never shortened
    votes, truth = count_votes([f"<answer>{answer}</answer>"], classes), {"classes": classes}
    assert votes.counts == {"Rose": 1}
    graded = compute_score("divek/a/all", f"<answer>{answer}</answer>", "Rose", truth, open_questions=True)
    assert graded["acc"] == 1.0


@pytest.mark.parametrize(
    "answer", ["Species name: rose bush", "a photo of a rose", "species rose", "Not species: rose", "the breed isrose"]
)
def test_an_answer_is_never_searched_for_a_name(answer: str) -> None:
    assert ClassNames(["Rose", "Tulip"]).match_answer(answer) is None


def test_a_class_list_is_an_ordered_collection() -> None:
    classes = ClassNames(name for name in ["Zebra", "Ant"])
    assert classes.names == ("Zebra", "Ant")
    assert list(classes) == ["Zebra", "Ant"]
    assert len(classes) == 2
    assert "zebra" in classes
    assert "Cat" not in classes
    assert 7 not in classes


@pytest.mark.parametrize(
    "aliases",
    [
        {"Common Gull": ["Mew Gull", "Larus canus"]},
        {"common_gull": ("Mew Gull", "Larus canus")},
        {"Mew Gull": "Common Gull", "Larus canus": "common gull"},
    ],
)
def test_aliases_in_either_form_name_their_class(aliases: dict[str, str | list[str]]) -> None:
    classes = ClassNames(["Common Gull", "Herring Gull"], aliases)
    assert classes.match("mew-gull") == "Common Gull"
    assert classes.aliases == {"Common Gull": ("Mew Gull", "Larus canus")}
    assert classes.names == ("Common Gull", "Herring Gull")


def test_an_alias_that_is_only_another_spelling_of_its_class_is_harmless() -> None:
    assert ClassNames(["Common Gull"], {"Common Gull": ["common-gull"]}).match("COMMON GULL") == "Common Gull"


@pytest.mark.parametrize(
    ("names", "aliases", "message"),
    [
        ([], None, "empty"),
        ("Rose", None, "list of names"),
        (["Rose", ""], None, "no letter or digit"),
        (["Rose", " . "], None, "no letter or digit"),
        (["Rose", "Desert\nrose"], None, "line break"),
        (["Rose", None], None, "not text"),
        (["Rose", "rose."], None, "one and the same"),
        (["Brandt's Cormorant", "Brandt Cormorant"], None, "one and the same"),
        (["Rose", "Tulip"], {"Rose": ["tulip"]}, "already names 'Tulip'"),
        (["Rose", "Tulip"], {"Rose": ["Bloom"], "Tulip": ["bloom"]}, "already names 'Rose'"),
        (["Rose", "Tulip"], {"Lily": ["Bloom"]}, "no class of the list"),
        (["Rose", "Tulip"], {"Bloom": "Lily"}, "no class of the list"),
        (["Rose", "Tulip"], {"Rose": [""]}, "no letter or digit"),
    ],
)
def test_an_ambiguous_class_list_is_refused(names: list[str], aliases: dict[str, list[str]], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        ClassNames(names, aliases)


def test_a_class_list_travels_between_processes() -> None:
    classes = pickle.loads(pickle.dumps(ClassNames(["Rose", "Tulip"], {"Rose": ["Rosa"]})))
    assert classes.match("rosa") == "Rose"
