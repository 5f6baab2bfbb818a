"""Mining in waves: when to stop sampling an image because more answers would hardly change its question.

The sequential test asks, after each wave, how likely the question stays what it is until all K answers are there. It
takes the answers for draws from a Polya urn (a Chinese restaurant process with a discount): the more often an answer
came, the likelier it comes again, and a new one comes with a probability that grows with the urn's concentration and
with how many different ones came before. Unknown and missing answers are kinds of their own. Which urn is not known:
several are weighted by how well each explains the answers so far. The rest of the answers is drawn many times, and the
questions that come out are compared.

Answers of one image are exchangeable, whatever the policy, as those of an urn are; that any class which did not come
yet is as likely as any other, and that one of these urns fits, are assumptions. Where the policy is surer or less sure
than they allow, so is the test: a policy that has never seen the classes makes it too sure. With K=20 and five options
little can be decided early: a new class joins a question that is not full, and the fifth place is a matter of one vote.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any, Literal

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.question import (
    display_name,
    is_easy,
    listed,
    listed_counts,
    most_options,
    select_options,
    smallest_set,
)
from divek_verl.votes import Votes

# (concentration, discount): from a policy that says one thing to one that says nearly anything, always with a tail of
# rare answers. Without a discount, the demo model changed its question oftener than the test said.
URNS = tuple(product((0.1, 0.3, 1.0, 3.0, 10.0), (0.25, 0.5)))
DRAWS = 200


def check_waves(waves: Sequence[int] | None, num_samples: int) -> tuple[int, ...]:
    """The sizes of the waves; None is one wave of all.

    Raises:
        SetupError: a size is no whole number of 1 or more, or they do not add up to ``num_samples``.
    """
    if waves is None:
        return (num_samples,)
    sizes = () if isinstance(waves, str) else tuple(waves)
    if not sizes or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise SetupError(f"The waves are {waves!r}: give a list of whole numbers of 1 or more, such as [8, 6, 6].")
    if sum(sizes) != num_samples:
        raise SetupError(
            f"The waves {list(sizes)} hold {sum(sizes)} answers, but num_samples is {num_samples}: make them add up."
        )
    return sizes


def should_stop(votes: Votes, remaining: int, confidence: float, classes: ClassNames, **question: Any) -> bool:
    """Whether the question stays the same with a probability of at least ``confidence``.

    ``question`` holds the further arguments of ``probability_unchanged``. A confidence of 1 never stops early.

    Raises:
        SetupError: ``confidence`` is not above 0 and at most 1.
    """
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 < confidence <= 1:
        raise SetupError(f"stop_confidence is {confidence!r}: set a probability above 0 and at most 1.")
    return probability_unchanged(votes, remaining, classes, **question) >= confidence


def probability_unchanged(
    votes: Votes,
    remaining: int,
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
    urns: Sequence[tuple[float, float]] = URNS,
    draws: int = DRAWS,
) -> float:
    """How likely the votes so far give the question that they give with ``remaining`` more answers.

    Two questions are one when they have the same set of options, in any order, or are both skipped as easy. The
    arguments from ``truth`` to ``ranking`` are those of ``build_question``; a ``ranking`` is taken to stay as it is,
    so leave it out for a source that ranks by votes. Fillers are not compared: an option that takes the place of a
    filler is a change. ``urns`` are pairs of a concentration above 0 and a discount from 0 to below 1.

    The result is ``(same + 1) / (draws + 2)``, so that 200 draws never claim certainty; 1.0 when nothing remains.
    Equal arguments give equal results.

    Raises:
        SetupError: the truth is not in ``classes``, or an option count or share is out of its range.
    """
    if remaining <= 0:
        return 1.0
    rules = _Rules(
        truth=None if truth is None else display_name(truth, classes),
        skip_easy=skip_easy,
        most=most_options(num_options, auto_share, auto_max_options),
        share=auto_share if num_options == "auto" else None,
        least=min_options,
        ranking=None if ranking is None else listed(ranking, classes),
    )
    answers = _Answers(votes, classes)
    now = rules.outcome(answers.counts, votes.total)
    rng = random.Random(f"{seed}-waves")
    chosen = rng.choices(urns, answers.weights(urns), k=draws)
    total = votes.total + remaining
    same = sum(rules.outcome(answers.continued(remaining, urn, rng), total) == now for urn in chosen)
    return (same + 1) / (draws + 2)


@dataclass(frozen=True)
class _Rules:
    """What ``build_question`` goes by, with names as in the class list; ``share`` is None for a fixed option count."""

    truth: str | None
    skip_easy: bool
    most: int
    share: float | None
    least: int
    ranking: list[str] | None

    def outcome(self, counts: dict[str, int], total: int) -> frozenset[str] | None:
        """The options before they are filled up and shuffled; None for an image that is skipped as easy."""
        if self.skip_easy and is_easy(counts, self.truth, total):
            return None
        shown = self.most if self.share is None else smallest_set(counts.values(), self.share, self.least)
        preferred = list(counts) if self.ranking is None else self.ranking
        return frozenset(select_options(preferred, self.truth, shown, self.most)[0])


class _Answers:
    """The answers so far, by kind: a class of the list, an unknown name, none at all."""

    def __init__(self, votes: Votes, classes: ClassNames) -> None:
        self.counts = listed_counts(votes, classes)
        # Numbers, because any text may be the name of a class.
        others = {0: votes.answered - sum(self.counts.values()), 1: votes.unanswered}
        self._kinds: tuple[str | int, ...] = (*classes.names, *others)
        self._by_kind: dict[str | int, int] = {kind: count for kind, count in others.items() if count}
        self._by_kind.update(self.counts)
        self._balls = [kind for kind, count in self._by_kind.items() for _ in range(count)]
        self._firsts = [number == 0 for count in self._by_kind.values() for number in range(count)]
        self._tied = [(count, list(names)) for count, names in groupby(self.counts, key=self.counts.__getitem__)]

    def weights(self, urns: Sequence[tuple[float, float]]) -> list[float]:
        """How likely each urn gives these answers, up to a factor that all share."""
        logs = [self._log_likelihood(*urn) for urn in urns]
        return [math.exp(log - max(logs)) for log in logs]

    def _log_likelihood(self, concentration: float, discount: float) -> float:
        """Of the partition of the answers into kinds, which kinds apart (Pitman and Yor's sampling formula)."""
        new = sum(math.log(concentration + number * discount) for number in range(len(self._by_kind)))
        again = sum(math.lgamma(count - discount) - math.lgamma(1 - discount) for count in self._by_kind.values())
        return new + again + math.lgamma(concentration) - math.lgamma(concentration + len(self._balls))

    def continued(self, remaining: int, urn: tuple[float, float], rng: random.Random) -> dict[str, int]:
        """Counts of the listed classes after ``remaining`` more answers, ranked by count, then first seen."""
        concentration, discount = urn
        counts = {name: self.counts[name] for name in self._first_seen(rng)}
        balls, firsts, seen = list(self._balls), list(self._firsts), set(self._by_kind)
        for number in range(len(balls), len(balls) + remaining):
            point = rng.random() * (number + concentration)
            place = int(point)
            # The first ball of each kind gives up the discount, a part of its place, to kinds not seen yet.
            new = place >= number or (firsts[place] and point - place < discount)
            ball = self._unseen(seen, rng) if new else balls[place]
            balls.append(ball)
            firsts.append(new)
            if isinstance(ball, str):
                counts[ball] = counts.get(ball, 0) + 1
        return dict(sorted(counts.items(), key=_most_first))

    def _unseen(self, seen: set[str | int], rng: random.Random) -> str | int:
        """A kind that is not in ``seen``, which it joins; any kind when all are."""
        # Not rng.choice, which takes several times as long.
        kind = self._kinds[int(rng.random() * len(self._kinds))]
        while kind in seen and len(seen) < len(self._kinds):
            kind = self._kinds[int(rng.random() * len(self._kinds))]
        seen.add(kind)
        return kind

    def _first_seen(self, rng: random.Random) -> list[str]:
        """The classes in an order in which they may have been seen first.

        Votes tell this order for equal counts alone. Among exchangeable answers, a class with ``count`` answers comes
        up as if after an exponential waiting time of that rate.
        """
        times: list[tuple[float, str]] = []
        for count, names in self._tied:
            times += zip(sorted([rng.expovariate(count) for _ in names]), names, strict=True)
        times.sort()
        return [name for _, name in times]


def _most_first(item: tuple[str, int]) -> int:
    return -item[1]
