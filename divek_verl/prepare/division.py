"""Dividing images by class, by seed: into parts, into few shots, into fewer for a trial."""

import random
from collections.abc import Mapping, Sequence
from math import fsum
from typing import TypeVar

from divek_verl.errors import SetupError
from divek_verl.prepare.source import Item, Part

Element = TypeVar("Element")


def divide(items: Sequence[Item], shares: Mapping[Part, float], rest: Part, seed: str) -> dict[Part, list[Item]]:
    """Parts by share of each class; `rest` takes what the others leave.

    Sizes are rounded half to even, as those of the literature are (24.5 becomes 24). A class of two or more images
    gives at least one to each part with a share, as long as one is left for `rest`.
    """
    if not all(0 < share < 1 for share in shares.values()) or fsum(shares.values()) >= 1:
        raise SetupError(f"The shares {dict(shares)} do not divide a whole: give fractions between 0 and 1.")
    parts: dict[Part, list[Item]] = {part: [] for part in (*shares, rest)}
    for label, group in by_label(items).items():
        left = random.Random(f"{seed}-{label}").sample(group, len(group))
        for part, share in shares.items():
            size = min(max(1, round(len(group) * share)), len(left) - 1)
            parts[part] += left[:size]
            left = left[size:]
        parts[rest] += left
    return parts


def few_shots(items: Sequence[Item], shots: int, seed: str) -> list[Item]:
    """At most `shots` images of each class."""
    return [
        item
        for label, group in by_label(items).items()
        for item in random.Random(f"{seed}-{label}").sample(group, min(shots, len(group)))
    ]


def at_most(elements: Sequence[Element], limit: int | None, seed: str) -> list[Element]:
    """`limit` elements in their order, drawn from the whole sequence so that a trial sees many classes."""
    if limit is None or limit >= len(elements):
        return list(elements)
    return [elements[index] for index in sorted(random.Random(seed).sample(range(len(elements)), limit))]


def by_label(items: Sequence[Item]) -> dict[int, list[Item]]:
    """The images of each class, ordered: the order in which a folder was listed must not matter."""
    groups: dict[int, list[Item]] = {}
    for item in sorted(items, key=lambda item: (item.label, item.image)):
        groups.setdefault(item.label, []).append(item)
    return groups


def draw_per_class(keys: Sequence[str], count: int, seed: str) -> set[int]:
    """Places of at most `count` elements of each key."""
    places: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return {
        place
        for key, group in places.items()
        for place in random.Random(f"{seed}-{key}").sample(group, min(count, len(group)))
    }
