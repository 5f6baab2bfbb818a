"""Dropping training images whose offline votes are all right already: they cannot teach anything."""

from collections.abc import Callable
from pathlib import Path

from divek_verl.errors import SetupError
from divek_verl.prepare.classes import Classes
from divek_verl.prepare.examples import Example
from divek_verl.prompts import parse_data_source
from divek_verl.question import QuestionRules
from divek_verl.votes_file import class_list_hash, read_votes_file


def easy_by_votes(path: Path, dataset: str, classes: Classes) -> Callable[[str, Example], bool]:
    """Says of a data source and an example whether all its votes in a votes file are on its truth.

    Raises:
        SetupError: the file holds no votes on this data set, or votes that another class list counted.
    """
    file = read_votes_file(path)
    by_key = {mined.key: mined for mined in file.votes if parse_data_source(mined.data_source)[0] == dataset}
    if not by_key:
        raise SetupError(f"{path} holds no votes on {dataset}: give the votes mined on this data set.")
    for source, digest in file.origin.class_lists.items():
        name, side = parse_data_source(source)
        if name == dataset and digest != class_list_hash(classes.of(side)):
            raise SetupError(f"The votes of {path} on {source} were counted by another class list: mine them again.")
    if file.torn or not file.complete:
        print(f"{path} was cut short: {file.torn} torn lines; images without votes are kept")

    def easy(data_source: str, example: Example) -> bool:
        mined = by_key.get((data_source, example.image_id))
        if mined is None:
            return False
        return QuestionRules().is_easy(mined.votes, classes.of(parse_data_source(data_source)[1]), example.truth)

    return easy
