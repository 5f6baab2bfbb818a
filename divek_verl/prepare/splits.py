"""From a source to the parquet files of a setting: base-to-novel, few-shot, or all classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from divek_verl.errors import SetupError
from divek_verl.prepare.classes import Classes
from divek_verl.prepare.division import at_most, divide, few_shots
from divek_verl.prepare.examples import Example, Split
from divek_verl.prepare.source import Item, Part, Source

VAL_FRACTION = 0.2


class Setting(str, Enum):
    """Which classes are trained on: half of them, all with few images, or all."""

    BASE_TO_NOVEL = "base-to-novel"
    FEW_SHOT = "few-shot"
    ALL = "all"


class EvalSplit(str, Enum):
    """Which images validate: those that the published results of the method used, or the official test images."""

    REFERENCE = "reference"
    TEST = "test"


@dataclass(frozen=True)
class Plan:
    """How a source becomes a set. `val_fraction` and `shots` act where the source or the setting needs them."""

    setting: Setting = Setting.BASE_TO_NOVEL
    eval_split: EvalSplit = EvalSplit.REFERENCE
    shots: int = 4
    seed: int = 0
    val_fraction: float = VAL_FRACTION
    limit: int | None = None


@dataclass(frozen=True)
class Planned:
    """The files to write. `held_out`: images of held-out classes that are in none of them."""

    classes: Classes
    splits: Sequence[Split]
    held_out: Sequence[str]


def plan_splits(source: Source, plan: Plan) -> Planned:
    """The parquet files of a source.

    Base classes are the first half, rounded up, of those with a training image, in label order (CoOp's rule).

    Raises:
        SetupError: there are too few classes, or the part that validates is missing.
    """
    parts = with_validation(source, plan)
    labels = sorted({item.label for item in parts["train"]})
    if len(labels) < 2:
        raise SetupError(f"{source.dataset} has {len(labels)} classes with a training image: it needs two or more.")
    classes = _only(source.classes, labels)
    base = frozenset(labels[: len(classes.base)])
    new = frozenset(labels[len(classes.base) :])
    validating = _validating_parts(source, parts, plan)
    seed = f"{plan.seed}-{source.dataset}"
    if plan.setting is Setting.BASE_TO_NOVEL:
        wanted = [
            ("train", "base", _of(parts["train"], base)),
            ("val_base", "base", _of(parts[validating[0]], base)),
            ("val_new", "new", _of(parts[validating[1]], new)),
        ]
    else:
        few = plan.setting is Setting.FEW_SHOT
        train = few_shots(parts["train"], plan.shots, f"{seed}-shots") if few else parts["train"]
        wanted = [("train", "all", list(train)), ("val", "all", _of(parts[validating[0]], base | new))]
    splits = [_split(source, name, side, at_most(items, plan.limit, f"{seed}-{name}")) for name, side, items in wanted]
    shown = {example.image for split in splits for example in split.examples}
    held_out = new if plan.setting is Setting.BASE_TO_NOVEL else frozenset[int]()
    unseen = {item.image for items in parts.values() for item in items if item.label in held_out} - shown
    return Planned(classes, splits, sorted(unseen))


def with_validation(source: Source, plan: Plan) -> dict[Part, Sequence[Item]]:
    """The source's parts; where none is for validation, a part of the training images of each class is."""
    if "val" in source.parts:
        return dict(source.parts)
    seed = f"{plan.seed}-{source.dataset}-val"
    return {**source.parts, **divide(source.parts["train"], {"val": plan.val_fraction}, "train", seed)}


def _validating_parts(source: Source, parts: dict[Part, Sequence[Item]], plan: Plan) -> tuple[Part, Part]:
    """The parts that validate base (or all) and new classes."""
    chosen: tuple[Part, Part] = ("test", "test") if plan.eval_split is EvalSplit.TEST else ("val", source.new_part)
    for part in chosen:
        if not parts.get(part):
            raise SetupError(f"{source.dataset} has no {part} part: use --eval-split {_other(plan.eval_split)}.")
    return chosen


def _other(eval_split: EvalSplit) -> str:
    return (EvalSplit.REFERENCE if eval_split is EvalSplit.TEST else EvalSplit.TEST).value


def _only(classes: Classes, labels: Sequence[int]) -> Classes:
    names = tuple(classes.all[label] for label in labels)
    return Classes(names, {name: classes.aliases[name] for name in names if name in classes.aliases})


def _of(items: Sequence[Item], labels: frozenset[int]) -> list[Item]:
    return [item for item in items if item.label in labels]


def _split(source: Source, name: str, side: str, items: Sequence[Item]) -> Split:
    """Rows in label order, so that the files do not depend on the order in which a folder was listed."""
    names = source.classes.all
    ordered = sorted(items, key=lambda item: (item.label, item.image))
    return Split(name, side, [Example(item.image, names[item.label], item.image) for item in ordered])
