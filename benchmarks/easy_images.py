"""How many training images does each rule for easy images drop?

    python benchmarks/easy_images.py runs/demo

applies the rules to the votes of every training visit in a run's ``questions.jsonl``, with the functions that training
uses. The strings of the paper's rule are the classes and the names outside the list: a record does not tell spellings
of one class apart.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from divek_verl.files import read_lines
from divek_verl.labels import ClassNames
from divek_verl.question import QuestionRules
from divek_verl.records import QUESTIONS_FILE, QuestionRecord

# The paper's code looks at so many of the most frequent answers.
PAPERS_ANSWERS = 5


def by_share(share: float) -> Callable[[QuestionRecord], bool]:
    """The rule of ``divek.easy_share``; votes name classes of the list already."""
    rules = QuestionRules(easy_share=share)
    return lambda record: rules.is_easy(record.counted, ClassNames({record.truth, *record.votes}), record.truth)


def by_the_papers_code(record: QuestionRecord) -> bool:
    """The truth is the only class of the list among the most frequent answers."""
    frequent = Counter({**record.votes, **record.unknown}).most_common(PAPERS_ANSWERS)
    return [name for name, _ in frequent if name in record.votes] == [record.truth]


RULES: dict[str, Callable[[QuestionRecord], bool]] = {
    "all K answers are the truth (before 0.2.0)": lambda record: record.one_step == 1.0,
    "easy_share=1.0 (default)": by_share(1.0),
    "easy_share=0.9": by_share(0.9),
    "easy_share=0.8": by_share(0.8),
    "the paper's code": by_the_papers_code,
}


def main(run: Annotated[Path, typer.Argument(help="Run folder with questions.jsonl.")]) -> None:
    """Print the visits that each rule drops."""
    lines, _ = read_lines(run / QUESTIONS_FILE)
    records = [QuestionRecord.from_json(line) for line in lines if line.get("split") == "train"]
    voted = [record for record in records if record.votes_from != "none" and record.samples]
    table = Table("rule", "dropped", "%", title=f"{len(voted)} training visits of {run}")
    for name, is_easy in RULES.items():
        dropped = sum(map(is_easy, voted))
        table.add_row(name, str(dropped), f"{100 * dropped / max(1, len(voted)):.1f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
