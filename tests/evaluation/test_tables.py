"""Results on the terminal: every number is there, and no text from outside is read as markup."""

import io

from rich.console import Console

from divek_verl.evaluation.tables import show

from .fabricated_results import results


def shown(*, width: int = 260, **changes: object) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(results(**changes), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_averages_intervals_harmonic_means_and_samples() -> None:
    text = shown()
    for part in (
        "divek/flags/base",
        "60.0 [50.0, 70.0]",
        "60.0 [50.0, 70.0] +5.0?",
        "flags, harmonic mean",
        "5 data sets, harmonic mean",
        "3.25",
    ):
        assert part in text
    assert "micro average" in text and "macro average" in text


def test_differences_with_the_test() -> None:
    text = shown()
    assert "+12.5 [+5.0, +20.0]" in text and "0.0022" in text
    assert "50.0 +2.5?" in text
    assert "also different: num_options: 3 -> 5" in text
    assert "left out: 1 images only here, 2 only there" in text


def test_failures_are_counted_and_the_first_of_them_named() -> None:
    text = shown()
    assert "divek/flags/base: 1 of 160 images failed, open question: unreadable_image" in text
    assert "... and 2 more in results.json" in text


def test_the_judge_says_what_it_decided_and_what_that_cost() -> None:
    assert "10 pairs, 3 same, 5 different, 2 unjudged (2 timeout), 1000 + 100 tokens, cost 0.2500" in shown()
    assert "judge" not in shown(judge=None)


def test_markup_and_control_marks_of_a_name_are_shown_as_they_are() -> None:
    text = shown()
    assert "[bold]" in text
    assert "\u202e" not in text


def test_a_narrow_terminal_cuts_no_source_and_no_number() -> None:
    text = shown(width=80)
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert all(len(line) <= 80 and line.rstrip().endswith("│") for line in rows)
    assert "…" not in text
    first_cells = "".join(line.split("│")[1].strip() for line in rows)
    assert "divek/flags/base" in first_cells and "divek/flags/new" in first_cells
    assert not any("…" in line.split("│")[1] for line in rows)
