"""From a source to the parquet files of a setting: base-to-novel, few-shot, or all classes."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import fsum
from typing import Annotated, TypeVar

import typer

from divek_verl.errors import SetupError
from divek_verl.prepare.rows import Example, Split
from divek_verl.prepare.source import Classes, Item, Part, Source

VAL_FRACTION = 0.2

T = TypeVar("T")


class Setting(str, Enum):
    """Which classes are trained on: half of them, all with few images, or all."""

    BASE_TO_NOVEL = "base-to-novel"
    FEW_SHOT = "few-shot"
    ALL = "all"


class EvalSplit(str, Enum):
    """Which images validate: those of the method's published results, or the official test images."""

    REFERENCE = "reference"
    TEST = "test"


@dataclass(frozen=True)
class Plan:
    """How a source becomes a set. Each field is an option of every command."""

    setting: Annotated[Setting, typer.Option(help="Classes to train on: half, all with few images, or all.")] = (
        Setting.BASE_TO_NOVEL
    )
    eval_split: Annotated[EvalSplit, typer.Option(help="Validate on the reference's images or on the test part.")] = (
        EvalSplit.REFERENCE
    )
    shots: Annotated[int, typer.Option(min=1, help="Training images of each class with --setting few-shot.")] = 4
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0
    val_fraction: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of training images that validates if there is no val part.")
    ] = VAL_FRACTION
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images per file, for a trial.")] = None


@dataclass(frozen=True)
class Planned:
    """The files to write. `held_out`: images of held-out classes that are in none of them."""

    classes: Classes
    splits: Sequence[Split]
    held_out: Sequence[str]


def plan_splits(source: Source, plan: Plan) -> Planned:
    """The parquet files of a source. Base and new classes are halves of those with a training image (CoOp's rule)."""
    seed = f"{plan.seed}-{source.dataset}"
    parts = dict(source.parts)
    if "val" not in parts:
        parts |= divide(parts["train"], {"val": plan.val_fraction}, "train", f"{seed}-val")
    labels = sorted({item.label for item in parts["train"]})
    if plan.setting is Setting.BASE_TO_NOVEL and 2 <= len(labels) < 4:
        raise SetupError(
            f"{source.dataset} has {len(labels)} classes with training images, of which one half would hold a single "
            "one: use --setting all or few-shot, or add classes."
        )
    if len(labels) < 2:
        raise SetupError(f"{source.dataset} has {len(labels)} classes with training images: a question needs two.")
    on_test = plan.eval_split is EvalSplit.TEST
    # The parts that validate base (or all) classes and new classes.
    validating: tuple[Part, Part] = ("test", "test") if on_test else ("val", source.new_part)
    for part in validating:
        if not parts.get(part):
            other = EvalSplit.REFERENCE if on_test else EvalSplit.TEST
            raise SetupError(f"{source.dataset} has no {part} part: use --eval-split {other.value}.")
    base_part, new_part = validating
    classes = source.classes.only(labels)
    base, new = labels[: len(classes.base)], labels[len(classes.base) :]
    if plan.setting is Setting.BASE_TO_NOVEL:
        held_out = set(new)
        wanted = [
            ("train", "base", parts["train"], base),
            ("val_base", "base", parts[base_part], base),
            ("val_new", "new", parts[new_part], new),
        ]
    else:
        held_out = set()
        train = parts["train"]
        if plan.setting is Setting.FEW_SHOT:
            train = few_shots(train, plan.shots, f"{seed}-shots")
        wanted = [("train", "all", train, labels), ("val", "all", parts[base_part], labels)]
    splits = []
    for name, side, items, shown_labels in wanted:
        allowed = set(shown_labels)
        drawn = at_most([item for item in items if item.label in allowed], plan.limit, f"{seed}-{name}")
        # In label order, so that the files do not depend on the order in which a folder was listed.
        chosen = sorted(drawn, key=lambda item: (item.label, item.image))
        examples = [Example(item.image, source.classes.all[item.label], item.image) for item in chosen]
        splits.append(Split(name, side, examples))
    shown = {example.image for split in splits for example in split.examples}
    unseen = {item.image for items in parts.values() for item in items if item.label in held_out} - shown
    return Planned(classes, splits, sorted(unseen))


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
    return [
        item
        for label, group in by_label(items).items()
        for item in random.Random(f"{seed}-{label}").sample(group, min(shots, len(group)))
    ]


def at_most(elements: Sequence[T], limit: int | None, seed: str) -> list[T]:
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
