"""From a source to the parquet files of a setting: base-to-novel, few-shot, or all classes."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
    """Which classes are trained on: half of them, all with few images, or all.

    PRETRAIN_SHOTS is BASE_TO_NOVEL with images of all classes set apart in a file of their own, for a warm start.
    """

    BASE_TO_NOVEL = "base-to-novel"
    FEW_SHOT = "few-shot"
    ALL = "all"
    PRETRAIN_SHOTS = "pretrain-shots"


# The settings that hold classes out.
BASE_TO_NEW = (Setting.BASE_TO_NOVEL, Setting.PRETRAIN_SHOTS)


class EvalSplit(str, Enum):
    """Which images validate: those of the method's published results, or the official test images."""

    REFERENCE = "reference"
    TEST = "test"


@dataclass(frozen=True)
class Plan:
    """How a source becomes a set. Each field is an option of every command."""

    setting: Annotated[
        Setting,
        typer.Option(
            help="Train on half of the classes, on all with few images, or on all; "
            "pretrain-shots: on half, with images of all set apart."
        ),
    ] = Setting.BASE_TO_NOVEL
    eval_split: Annotated[EvalSplit, typer.Option(help="Validate on the reference's images or on the test part.")] = (
        EvalSplit.REFERENCE
    )
    shots: Annotated[
        int, typer.Option(min=1, help="Images of each class that few-shot trains on or pretrain-shots sets apart.")
    ] = 4
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0
    val_fraction: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of training images that validates if there is no val part.")
    ] = VAL_FRACTION
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images per file, for a trial.")] = None


@dataclass(frozen=True)
class Planned:
    """The files to write.

    `held_out`: images of held-out classes that are in none of them; `unused`: images in none of them by kind, such as
    "train images of new classes".
    """

    classes: Classes
    splits: Sequence[Split]
    held_out: Sequence[str]
    unused: Counter[str]


def plan_splits(source: Source, plan: Plan) -> Planned:
    """The parquet files of a source. Base and new classes are halves of those with a training image (CoOp's rule)."""
    seed = f"{plan.seed}-{source.dataset}"
    parts = dict(source.parts)
    if "val" not in parts:
        parts |= divide(parts["train"], {"val": plan.val_fraction}, "train", f"{seed}-val")
    labels = sorted({item.label for item in parts["train"]})
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
    if plan.setting in BASE_TO_NEW:
        if min(len(base), len(new)) < 2:
            raise SetupError(
                f"{source.dataset} has {len(base)} base and {len(new)} new classes with training images, and a "
                "question needs two of a side: use --setting all or few-shot, or add classes."
            )
        held_out = set(new)
        train = parts["train"]
        apart = []
        if plan.setting is Setting.PRETRAIN_SHOTS:
            # By name, since labels depend on which classes are held out.
            apart = few_shots(train, plan.shots, lambda label: f"{seed}-pretrain-{source.classes.all[label]}")
        taken = set(apart)
        rest = [item for item in train if item not in taken]
        if short := sorted(set(base) - {item.label for item in rest}):
            raise SetupError(
                f"{source.classes.all[short[0]]} has no training image beside the {plan.shots} of --shots: lower it."
            )
        wanted = [
            ("train", "base", rest, base),
            ("val_base", "base", parts[base_part], base),
            ("val_new", "new", parts[new_part], new),
            *([("pretrain", "all", apart, labels)] if apart else []),
        ]
    else:
        held_out = set()
        train = parts["train"]
        if plan.setting is Setting.FEW_SHOT:
            train = few_shots(train, plan.shots, lambda label: f"{seed}-shots-{label}")
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
    kind = {**dict.fromkeys(base, " of base classes"), **dict.fromkeys(new, " of new classes")} if held_out else {}
    unused = Counter(
        f"{part} images{kind.get(item.label, '')}"
        for part, items in parts.items()
        for item in items
        if item.image not in shown
    )
    return Planned(classes, splits, sorted(unseen), unused)


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


def few_shots(items: Sequence[Item], shots: int, seed_of: Callable[[int], str]) -> list[Item]:
    """`shots` images of each class, drawn with a seed for its label."""
    return [
        item
        for label, group in by_label(items).items()
        for item in random.Random(seed_of(label)).sample(group, min(shots, len(group)))
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
