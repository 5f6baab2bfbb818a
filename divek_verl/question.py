"""From votes to a multiple-choice question: options, right letter and text."""

import random
from dataclasses import dataclass
from string import ascii_uppercase

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.votes import Votes

MAX_OPTIONS = len(ascii_uppercase)


@dataclass(frozen=True)
class Question:
    """A multiple-choice question about one image.

    Attributes:
        options: display names in the order of their letters.
        answer: index of the truth among the options; None when no truth was given.
        truth_injected: whether the truth is an option only because it was given, not for its votes.
    """

    options: tuple[str, ...]
    answer: int | None
    truth_injected: bool

    @property
    def text(self) -> str:
        """One line an option, ``A. name``."""
        lettered = zip(ascii_uppercase, self.options, strict=False)
        return "\n".join(f"{letter}. {name}" for letter, name in lettered)

    @property
    def letter(self) -> str | None:
        """The letter of the truth, ``A`` for the first option; None when no truth was given."""
        return None if self.answer is None else ascii_uppercase[self.answer]


@dataclass(frozen=True)
class Skip:
    """No question, and why: ``easy`` where every sample already answers the truth."""

    reason: str


def build_question(
    votes: Votes,
    classes: ClassNames,
    *,
    truth: str | None = None,
    num_options: int = 5,
    skip_easy: bool = True,
    seed: int | str,
) -> Question | Skip:
    """The question whose options are the policy's own most frequent answers (DiVE-k, option mining).

    With a ``truth``, it is always an option: where its votes do not suffice, it replaces the lowest-voted
    option of a full list and joins a shorter one. Fewer than two are filled up to two from ``classes``.
    The shuffle depends on ``seed`` and the number of options alone, on any machine and in any process.
    ``Skip("easy")`` needs every completion, the unanswered ones included, to answer the truth.

    Raises:
        SetupError: for fewer than two classes, ``num_options`` outside 2 to 26, a truth not in ``classes``.
    """
    _check(classes, num_options, seed)
    truth = None if truth is None else _display_name(truth, classes)
    voted = _most_voted(votes, classes)
    if skip_easy and voted == [truth] and sum(votes.counts.values()) == votes.total:
        return Skip("easy")
    options = voted[:num_options]
    truth_injected = truth is not None and truth not in options
    if truth is not None and truth_injected:
        options = [*options[: num_options - 1], truth]
    options = _filled_up_to_two(options, classes, seed)
    random.Random(f"{seed}-order").shuffle(options)
    return Question(tuple(options), None if truth is None else options.index(truth), truth_injected)


def _check(classes: ClassNames, num_options: int, seed: int | str) -> None:
    if len(classes) < 2:
        raise SetupError(f"A question needs two classes, the class list holds {len(classes)}; add classes.")
    if not isinstance(num_options, int) or not 2 <= num_options <= MAX_OPTIONS:
        raise SetupError(f"num_options is {num_options!r}; set a whole number from 2 to {MAX_OPTIONS}.")
    if seed is None:
        raise SetupError("The seed of a question is None; give a number or a string, so that it can be built again.")


def _display_name(truth: str, classes: ClassNames) -> str:
    name = classes.match(truth)
    if name is None:
        raise SetupError(f"The truth {truth!r} is not in the class list; correct the row or the list.")
    return name


def _most_voted(votes: Votes, classes: ClassNames) -> list[str]:
    """Ranked classes of the list, each once: votes mined with another list must not bring its classes in."""
    matches = dict.fromkeys(map(classes.match, votes.counts))
    return [name for name in matches if name is not None]


def _filled_up_to_two(options: list[str], classes: ClassNames, seed: int | str) -> list[str]:
    """A generator of its own keeps the shuffle the same whether or not anything was filled."""
    if len(options) >= 2:
        return options
    others = [name for name in classes.names if name not in options]
    return options + random.Random(f"{seed}-filler").sample(others, 2 - len(options))
