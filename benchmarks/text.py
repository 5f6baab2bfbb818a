"""Is all handling of a model's text linear?

    python benchmarks/text.py

runs every function that looks at a completion or at a server's words on hostile texts of a quarter and of a whole
megabyte. Prints the slowest text of each function: seconds for a megabyte, and how many times longer than for a quarter
of it. Linear work takes 4 times as long, quadratic work 16 times. Each function must stay under 0.5 seconds.
"""

import itertools
import random
import time
from collections.abc import Callable

import typer
from rich.console import Console
from rich.table import Table

from divek_verl.answers import has_format, parse_answer, parse_option, parse_reasoning
from divek_verl.engines.base import says_overlong
from divek_verl.engines.client import said
from divek_verl.evaluation.judge import parse_verdict
from divek_verl.files import dump
from divek_verl.labels import ClassNames, canonical
from divek_verl.reward import compute_score
from divek_verl.votes import count_votes

LIMIT_S = 0.5
MEGABYTE = 1_000_000
CLASSES = ClassNames(["Common Gull", "Sooty Tern", "Black-footed Albatross"], {"Common Gull": ["Mew Gull"]})
UNITS = {
    **{
        unit: unit
        for unit in ("a", " ", "\n", ".", "a. ", ", a ", "or a ", "(", "*", "<", "'s", "- ", "a's'", "[", "{")
    },
    **{
        unit: unit
        for unit in ("<think>", "<think ", "</think>", "<answer>", "<answer ", "</answer>", "<answer>B</answer>")
    },
    "accents": "\u0301\u0323",
    "marks": "\u0591\u05b0",
    "marks between quotes": "\u05b1\u05b0'",
    "half-width marks": "\uff9e\u0591",
    "invisible": "\u200b",
    "fillers": "\u3164",
    "ligatures": "\ufdfa",
    "lone surrogates": "\ud800",
}
FUNCTIONS: dict[str, Callable[[str], object]] = {
    "canonical": canonical,
    "ClassNames.match": CLASSES.match,
    "parse_answer": parse_answer,
    "parse_reasoning": parse_reasoning,
    "parse_option": lambda text: parse_option(text, 5),
    "parse_option, in an element": lambda text: parse_option(f"<answer>B. {text}</answer>", 5),
    "parse_option, option": lambda text: parse_option(f"<answer>option {text}</answer>", 5),
    "has_format": lambda text: has_format(f"<think>{text}</think><answer>{text}</answer>", len(text)),
    "compute_score": lambda text: compute_score(
        "divek/birds/base", f"<think>x</think><answer>{text}</answer>", "Common Gull", {"classes": CLASSES}
    ),
    "count_votes": lambda text: count_votes([f"<answer>{text}</answer>"], CLASSES),
    "parse_verdict": parse_verdict,
    "said": lambda text: said(text, "sk-secret", "http://me:password@host/v1"),
    "says_overlong": says_overlong,
    "dump": dump,
}


def texts(length: int) -> dict[str, str]:
    """Hostile texts of ``length`` characters."""
    mixed = random.Random(0).choices([*UNITS.values()], k=length)
    repeated = {name: (unit * (length // len(unit) + 1))[:length] for name, unit in UNITS.items()}
    return {**repeated, "a mix of all": "".join(itertools.islice(itertools.chain.from_iterable(mixed), length))}


def seconds(function: Callable[[str], object], text: str) -> float:
    started = time.perf_counter()
    function(text)
    return time.perf_counter() - started


def measure(length: int) -> list[tuple[str, str, float, float]]:
    """For each function its slowest text: name, text, seconds, and the ratio to a quarter of the length."""
    whole, quarter = texts(length), texts(length // 4)
    found = []
    for name, function in FUNCTIONS.items():
        taken = {text: seconds(function, whole[text]) for text in whole}
        slowest = max(taken, key=lambda text: taken[text])
        short = min(seconds(function, quarter[slowest]) for _ in range(3))
        found.append((name, slowest, taken[slowest], taken[slowest] / short if short else 0.0))
    return found


def main(length: int = typer.Option(MEGABYTE, min=8, help="Characters of each text.")) -> None:
    """Print the slowest text of each function; exit status 1 if a function is above the limit."""
    found = measure(length)
    table = Table("function", "slowest text", "seconds", "times a quarter")
    for name, text, taken, ratio in found:
        table.add_row(name, repr(text), f"{taken:.3f}", f"{ratio:.1f}")
    Console().print(table)
    raise typer.Exit(int(any(taken > LIMIT_S for *_, taken, _ in found)))


if __name__ == "__main__":
    typer.run(main)
