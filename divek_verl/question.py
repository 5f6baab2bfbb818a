"""From votes to a multiple-choice question: options, right letter and text."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.votes import Votes

MAX_OPTIONS = len(ascii_uppercase)
# 0.55 * 20 is a little more than 11: rounding must not ask for one vote more.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Question:
    """A multiple-choice question about one image.

    ``options`` are display names in the order of their letters, and ``answer`` is the index of the truth among them
    (None if no truth was given). ``truth_injected``: the truth is an option only because it was given.
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
    """No question, and why: ``easy`` where the policy already answers the truth."""

    reason: str


@dataclass(frozen=True)
class QuestionRules:
    """How votes become a question; training, validation, ``divek eval`` and ``divek predict`` share one object.

    Attributes:
        num_options: options of a question, 2 to 26. ``"auto"``: the smallest set of top classes that holds
            ``auto_share`` of the votes which name a class of the list, at most ``auto_max_options``.
        min_options: fewer options are filled up from the class list, as far as it and ``num_options`` allow.
        skip_easy: whether an easy image gets ``Skip("easy")`` instead of a question; needs a truth.
        easy_share: an image is easy if the truth has at least this share, in (0, 1], of the votes that name a class
            of the list; there must be at least one such vote.
        few_class_fillers: with a truth, this many fillers join a question if at most one wrong class was named, as far
            as the list and ``num_options`` allow. The paper's code adds 2.

    Raises:
        SetupError: an option count is outside 2 to 26, a share outside (0, 1], or ``few_class_fillers`` below 0.
    """

    num_options: int | Literal["auto"] = 5
    min_options: int = 2
    auto_share: float = 0.9
    auto_max_options: int = 10
    skip_easy: bool = True
    easy_share: float = 1.0
    few_class_fillers: int = 0

    def __post_init__(self) -> None:
        for name in ("num_options", "min_options", "auto_max_options"):
            count = getattr(self, name)
            if name == "num_options" and count == "auto":
                continue
            if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= MAX_OPTIONS:
                or_auto = ' or "auto"' if name == "num_options" else ""
                raise SetupError(f"{name} is {count!r}; set a whole number from 2 to {MAX_OPTIONS}{or_auto}.")
        for name in ("auto_share", "easy_share"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
                raise SetupError(f"{name} is {share!r}; set a share of the votes above 0 and at most 1.")
        if self.few_class_fillers < 0:
            raise SetupError(f"few_class_fillers is {self.few_class_fillers}; set a whole number of at least 0.")

    @property
    def most_options(self) -> int:
        """The largest number of options that a question can have."""
        return self.auto_max_options if self.num_options == "auto" else self.num_options

    def is_easy(self, votes: Votes, classes: ClassNames, truth: str) -> bool:
        """Whether ``truth`` has ``easy_share`` of the votes that name a class of the list; False without such votes."""
        counts = listed_counts(votes, classes)
        wanted = self.easy_share * sum(counts.values()) - _ROUNDING
        return bool(counts) and counts.get(display_name(truth, classes), 0) >= wanted

    def build(
        self,
        votes: Votes,
        classes: ClassNames,
        *,
        truth: str | None = None,
        seed: int | str,
        ranking: Sequence[str] | None = None,
    ) -> Question | Skip:
        """The question whose options are the most frequent answers (DiVE-k, option mining).

        With a ``truth``, it is always an option: where its votes do not suffice, it replaces the lowest-voted
        option of a full list and joins a shorter one. The order depends on ``seed`` and the number of options
        alone, on any machine and in any process.

        ``"auto"`` cuts a tie at its edge where the ranking cuts it. A truth outside the set joins it as one more
        option, and replaces the lowest-voted only at ``auto_max_options``. Fewer than ``1 / (1 - auto_share)``
        votes keep every class that they name, and no votes leave ``min_options`` fillers. Questions of different
        length have different chance levels.

        ``ranking``, names in order of preference, replaces the votes' ranking (see option_sources.py); names
        outside ``classes`` are ignored. ``skip_easy`` and ``"auto"`` still look at the votes, and
        ``truth_injected`` says that the truth would not be an option by this ranking.

        Raises:
            SetupError: for fewer than two classes, a truth that is not in ``classes``, or a seed of None.
        """
        if len(classes) < 2:
            raise SetupError(f"A question needs two classes, the class list holds {len(classes)}; add classes.")
        if seed is None:
            raise SetupError(
                "The seed of a question is None; give a number or a string, so that it can be built again."
            )
        if truth is not None:
            truth = display_name(truth, classes)
            if self.skip_easy and self.is_easy(votes, classes, truth):
                return Skip("easy")
        most, counts = self.most_options, listed_counts(votes, classes)
        shown = most if self.num_options != "auto" else min(most, self._covering(list(counts.values())))
        preferred = list(counts) if ranking is None else _listed(ranking, classes)
        options = preferred[:shown]
        injected = truth is not None and truth not in options
        if truth is not None and injected:
            options = [*options[: most - 1], truth]
        wanted = self.min_options
        if truth is not None and len(set(preferred) - {truth}) <= 1:
            wanted = max(wanted, len(options) + self.few_class_fillers)
        missing = min(wanted, most, len(classes)) - len(options)
        if missing > 0:
            others = [name for name in classes.names if name not in options]
            # A generator of its own keeps the order the same whether or not anything was filled up.
            options += random.Random(f"{seed}-filler").sample(others, missing)
        random.Random(f"{seed}-order").shuffle(options)
        return Question(tuple(options), None if truth is None else options.index(truth), injected)

    def _covering(self, counts: Sequence[int]) -> int:
        """How many of the ranked ``counts`` hold ``auto_share`` of their sum, at least ``min_options``."""
        wanted = self.auto_share * sum(counts) - _ROUNDING
        held = number = 0
        while held < wanted:
            held += counts[number]
            number += 1
        return max(number, self.min_options)


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
    easy_share: float = 1.0,
    few_class_fillers: int = 0,
    ranking: Sequence[str] | None = None,
) -> Question | Skip:
    """``QuestionRules(...).build(...)`` in one call."""
    rules = QuestionRules(
        num_options, min_options, auto_share, auto_max_options, skip_easy, easy_share, few_class_fillers
    )
    return rules.build(votes, classes, truth=truth, seed=seed, ranking=ranking)


def question_seed(seed: int, data_source: str, image_id: str, step: int | None = None) -> str:
    """The seed of one image's question: training adds its ``step`` to reshuffle, validation keeps one order."""
    return f"{seed}-{data_source}-{image_id}" + ("" if step is None else f"-{step}")


def listed_counts(votes: Votes, classes: ClassNames) -> dict[str, int]:
    """Votes by class of the list, as ranked: votes mined with another list must not bring its classes in."""
    counts: dict[str, int] = {}
    for name, count in votes.counts.items():
        match = classes.match(name)
        if match is not None:
            counts[match] = counts.get(match, 0) + count
    return counts


def display_name(truth: str, classes: ClassNames) -> str:
    """The name of the truth in the class list, however it is spelled.

    Raises:
        SetupError: it is not in the list.
    """
    name = classes.match(truth)
    if name is None:
        raise SetupError(f"The truth {truth!r} is not in the class list; correct the row or the list.")
    return name


def _listed(names: Sequence[str], classes: ClassNames) -> list[str]:
    """The classes that ``names`` name, in their order, each once, by display name."""
    matches = (classes.match(name) for name in names)
    return list(dict.fromkeys(name for name in matches if name is not None))
