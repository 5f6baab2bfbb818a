"""The self-check of a row's text: its truth is in the class list, and the reward grades its question rightly."""

from string import ascii_uppercase

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.prepare.rows import Row
from divek_verl.question import Question, build_question
from divek_verl.reward import compute_score
from divek_verl.votes import count_votes

NUM_OPTIONS = 5


def check_row(row: Row, classes: ClassNames) -> None:
    """Raises SetupError for a row whose truth is no class of the list, or whose question is graded wrongly."""
    truth = row["reward_model"]["ground_truth"]
    if truth not in classes.names:
        image = row["extra_info"]["image_id"]
        raise SetupError(f"{image} is labelled {truth!r}, no class of {row['data_source']}: mend the label.")
    question = _question(row, classes, truth)
    for letter, name in zip(ascii_uppercase, question.options, strict=False):
        if _accuracy(row, question, letter) != float(name == truth):
            raise SetupError(f"{name!r} is graded wrongly where {truth!r} is right: rename one of the two.")


def _question(row: Row, classes: ClassNames, truth: str) -> Question:
    """A question of the truth and the classes that follow it in the list, answered once each."""
    first = classes.names.index(truth)
    answered = [classes.names[(first + step) % len(classes)] for step in range(min(NUM_OPTIONS, len(classes)))]
    votes = count_votes([f"<answer>{name}</answer>" for name in answered], classes)
    seed = row["extra_info"]["index"]
    question = build_question(votes, classes, truth=truth, num_options=NUM_OPTIONS, skip_easy=False, seed=seed)
    if not isinstance(question, Question):
        raise SetupError(f"No question about {truth!r} can be built ({question.reason}): rename the class.")
    if set(question.options) != set(answered):
        raise SetupError(f"The answer {truth!r} is not read as the class {truth!r}: rename the class.")
    return question


def _accuracy(row: Row, question: Question, letter: str) -> float:
    extra_info = {
        **row["extra_info"],
        "options": list(question.options),
        "num_options": len(question.options),
        "truth": row["reward_model"]["ground_truth"],
    }
    solution = f"<think>self-check</think> <answer>{letter}</answer>"
    return compute_score(row["data_source"], solution, question.letter, extra_info)["acc"]
