"""Which images are shown as examples, and what is shown of them."""

from pathlib import Path

from divek_verl.records import FailureReason
from divek_verl.report.examples import answer_bars, choose_examples
from divek_verl.report.reading import read_run
from divek_verl.report.validation import Pair, image_pairs

from .fabricated import make_record
from .parsing import page_of

EVEN, ONE_SIDED = {"Chad": 4, "Romania": 4}, {"Chad": 7, "Romania": 1}


def make_pair(image: str, before: bool, after: bool, votes: dict[str, int], truth: str = "Chad") -> Pair:
    options = [truth, "Romania"]
    one, other = (
        make_record(image, truth, step=step, votes=votes, options=options, answer="A", choices=["A" if right else "B"])
        for step, right in ((0, before), (9, after))
    )
    return Pair(one, other)


def images(pairs: list[Pair]) -> str:
    return "".join(pair.before.image_id for pair in choose_examples(pairs))


def test_the_examples_are_one_learned_one_confusable_and_one_still_wrong() -> None:
    pairs = [
        make_pair("a", True, True, ONE_SIDED),
        make_pair("b", True, True, EVEN),
        make_pair("c", False, False, ONE_SIDED),
        make_pair("d", False, True, ONE_SIDED),
        make_pair("e", False, True, EVEN),
        make_pair("f", False, False, EVEN),
    ]
    outcomes = [pair.outcome for pair in choose_examples(pairs)]
    assert outcomes == ["Wrong before, right after", "Right both times", "Still wrong"]
    assert images(pairs) == images(pairs[::-1]) == "ebf"


def test_a_kind_that_no_image_shows_gives_its_place_away() -> None:
    pairs = [make_pair(name, True, True, EVEN) for name in "abcd"]
    assert images(pairs) == "bac"
    assert len(images(pairs[:2])) == 2


def test_an_image_that_was_wrong_all_along_comes_before_one_that_became_wrong() -> None:
    became, stayed = make_pair("a", True, False, EVEN), make_pair("b", False, False, ONE_SIDED)
    learned, right = make_pair("c", False, True, EVEN), make_pair("d", True, True, EVEN)
    assert images([became, stayed, learned, right])[-1] == "b"
    assert images([became, learned, right])[-1] == "a"


def test_a_class_is_shown_twice_only_if_there_is_no_other() -> None:
    pairs = [
        make_pair("a", False, True, EVEN),
        make_pair("b", True, True, EVEN),
        make_pair("c", True, True, {"Mali": 7, "Guinea": 1}, truth="Mali"),
    ]
    assert images(pairs)[:2] == "ac"


def test_an_example_shows_picture_votes_options_and_completion_before_and_after(run_dir: Path) -> None:
    page = page_of(run_dir)
    (first, *_) = choose_examples(image_pairs(read_run(run_dir)))
    pictures = [str(image["src"]) for image in page.having("img")]
    assert [src.startswith("data:image/jpeg;base64,") for src in pictures] == [True] * 3
    assert first.after is not None and first.outcome == "Wrong before, right after"
    for record in (first.before, first.after):
        assert " ".join(record.completions[0].split()) in page.text
    assert "Before · step 0 ✗ wrong" in page.text and "After · step 30 ✓ right" in page.text


def test_the_bars_add_up_to_all_samples() -> None:
    votes = {f"class {number}": 20 - number for number in range(12)}
    record = make_record(truth="class 0", votes=votes, unknown={"Atlantis": 3}, unanswered=2)
    bars = answer_bars(record)
    assert sum(bar.count for bar in bars) == record.samples
    assert [bar.kind for bar in bars] == ["truth", *["other"] * 6, "rest", "none"]
    assert bars[-2].label == "6 other answers"


def test_a_picture_that_is_not_there_is_shown_as_such(run_dir: Path) -> None:
    for picture in run_dir.glob("*.png"):
        picture.write_bytes(b"torn")
    assert page_of(run_dir).text.count("The picture is missing or cannot be read on this machine.") == 3


def test_a_validation_image_without_a_question_is_wrong() -> None:
    for record, outcome in (
        (make_record(failure=FailureReason.UNREADABLE_IMAGE.value), "Wrong"),
        (make_record(choices=[None]), "Wrong"),
        (make_record(answer="A", choices=["A"], rollout_failures={"rollout_timeout": 1}), "Wrong"),
        (make_record(answer="A", choices=["A", "A"], rollout_failures={"rollout_timeout": 1}), "Right"),
    ):
        assert Pair(record, None).outcome == outcome
