"""From votes to a multiple-choice question: options, right letter and text."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

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


def skipped_as_easy(votes: Votes, classes: ClassNames, truth: str) -> bool:
    """Whether ``build_question`` skips an image in training because all of its votes are right already."""
    return build_question(votes, classes, truth=truth, seed=0) == Skip("easy")


def build_question(
    votes: Votes,
    classes: ClassNames,
    *,
    truth: str | None = None,
    num_options: int | Literal["auto"] = 5,
    skip_easy: bool = True,
    seed: int | str,
    min_options: int = 2,
    auto_share: float = 0.9,
    auto_max_options: int = 10,
    ranking: Sequence[str] | None = None,
) -> Question | Skip:
    """The question whose options are the policy's own most frequent answers (DiVE-k, option mining).

    With a ``truth``, it is always an option: where its votes do not suffice, it replaces the lowest-voted
    option of a full list and joins a shorter one. Fewer than ``min_options`` are filled up from ``classes``, as
    far as the list and ``num_options`` allow.
    The shuffle depends on ``seed`` and the number of options alone, on any machine and in any process.
    ``Skip("easy")`` needs every completion, the unanswered ones included, to answer the truth.

    ``num_options="auto"`` shows the smallest set of top classes that holds ``auto_share`` of the votes which name a
    class of the list, at least ``min_options`` and at most ``auto_max_options`` of them. Unknown and missing answers
    are no votes for it; a tie at the edge is cut where the ranking cuts it. A truth outside the set joins it, as one
    more option, and replaces the lowest-voted only at ``auto_max_options``. The rule has limits: fewer than
    ``1 / (1 - auto_share)`` votes keep every class that they name, none at all leave ``min_options`` fillers, and
    questions of different length have different chance levels.

    ``ranking``, names in order of preference, takes the place of the votes' ranking (see option_sources.py): the first
    of them become options, those outside ``classes`` never. ``skip_easy`` and ``"auto"`` still look at the votes;
    ``truth_injected`` says that the truth would not be an option by this ranking.

    Raises:
        SetupError: for fewer than two classes, option counts outside 2 to 26, ``auto_share`` outside (0, 1], a truth
            not in ``classes``.
    """
    most = most_options(num_options, auto_share, auto_max_options)
    _check(classes, min_options, seed)
    truth = None if truth is None else display_name(truth, classes)
    counts = listed_counts(votes, classes)
    if skip_easy and is_easy(counts, truth, votes.total):
        return Skip("easy")
    shown = smallest_set(counts.values(), auto_share, min_options) if num_options == "auto" else most
    preferred = list(counts) if ranking is None else listed(ranking, classes)
    options, truth_injected = select_options(preferred, truth, shown, most)
    options = _filled_up(options, min(min_options, most), classes, seed)
    random.Random(f"{seed}-order").shuffle(options)
    return Question(tuple(options), None if truth is None else options.index(truth), truth_injected)


def most_options(num_options: int | str, auto_share: float, auto_max_options: int) -> int:
    """The most options that a question may have.

    Raises:
        SetupError: an option count is outside 2 to 26, the share outside (0, 1].
    """
    if num_options != "auto":
        _check_count("num_options", num_options, ' or "auto"')
        return int(num_options)
    _check_count("auto_max_options", auto_max_options)
    if isinstance(auto_share, bool) or not isinstance(auto_share, int | float) or not 0 < auto_share <= 1:
        raise SetupError(f"auto_share is {auto_share!r}; set a share of the votes above 0 and at most 1.")
    return auto_max_options


def listed(names: Iterable[str], classes: ClassNames) -> list[str]:
    """The classes of the list that ``names`` name, in their order, each once, by display name."""
    matches = (classes.match(name) for name in names)
    return list(dict.fromkeys(name for name in matches if name is not None))


def listed_counts(votes: Votes, classes: ClassNames) -> dict[str, int]:
    """Votes by class of the list, as ranked: votes mined with another list must not bring its classes in."""
    counts: dict[str, int] = {}
    for name, count in votes.counts.items():
        match = classes.match(name)
        if match is not None:
            counts[match] = counts.get(match, 0) + count
    return counts


def is_easy(counts: Mapping[str, int], truth: str | None, total: int) -> bool:
    """Whether each of ``total`` completions, one or more, answers the truth."""
    return truth is not None and total > 0 and counts.get(truth) == total


def smallest_set(counts: Iterable[int], share: float, least: int) -> int:
    """How many of the ranked ``counts`` hold ``share`` of their sum, at least ``least``."""
    counts = list(counts)
    # 0.55 * 20 is a little more than 11: rounding must not ask for one vote more.
    wanted = share * sum(counts) - 1e-9
    held = number = 0
    while held < wanted:
        held += counts[number]
        number += 1
    return max(number, least)


def select_options(preferred: Sequence[str], truth: str | None, shown: int, most: int) -> tuple[list[str], bool]:
    """The first ``shown`` of ``preferred`` and the truth, at most ``most`` names; whether the truth was put there."""
    options = list(preferred[: min(shown, most)])
    if truth is None or truth in options:
        return options, False
    return [*options[: most - 1], truth], True


def _check_count(name: str, count: object, alternative: str = "") -> None:
    if not isinstance(count, int) or not 2 <= count <= MAX_OPTIONS:
        raise SetupError(f"{name} is {count!r}; set a whole number from 2 to {MAX_OPTIONS}{alternative}.")


def _check(classes: ClassNames, min_options: int, seed: int | str) -> None:
    if len(classes) < 2:
        raise SetupError(f"A question needs two classes, the class list holds {len(classes)}; add classes.")
    _check_count("min_options", min_options)
    if seed is None:
        raise SetupError("The seed of a question is None; give a number or a string, so that it can be built again.")


def display_name(truth: str, classes: ClassNames) -> str:
    """The name of the truth in the class list, however it is spelled.

    Raises:
        SetupError: it is not in the list.
    """
    name = classes.match(truth)
    if name is None:
        raise SetupError(f"The truth {truth!r} is not in the class list; correct the row or the list.")
    return name


def _filled_up(options: list[str], least: int, classes: ClassNames, seed: int | str) -> list[str]:
    """A generator of its own keeps the shuffle the same whether or not anything was filled."""
    missing = min(least, len(classes)) - len(options)
    if missing <= 0:
        return options
    others = [name for name in classes.names if name not in options]
    return options + random.Random(f"{seed}-filler").sample(others, missing)
