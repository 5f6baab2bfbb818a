"""A data set as a reader finds it: class names, labelled images, and the parts that they are divided into."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from divek_verl.labels import ClassNames, canonical

Part = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Classes:
    """The classes of a data set in label order: first base (trained on), then new (held out)."""

    all: tuple[str, ...]
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    num_base: int | None = None

    @property
    def base(self) -> tuple[str, ...]:
        """The first `num_base`, by default half rounded up: the split of the base-to-novel literature (CoOp)."""
        return self.all[: (len(self.all) + 1) // 2 if self.num_base is None else self.num_base]

    @property
    def new(self) -> tuple[str, ...]:
        return self.all[len(self.base) :]

    def of(self, side: str) -> ClassNames:
        """The class list of "base", "new" or "all", with the aliases of its classes."""
        names = {"base": self.base, "new": self.new, "all": self.all}[side]
        return ClassNames(names, aliases={name: self.aliases[name] for name in names if name in self.aliases})

    def only(self, labels: Sequence[int]) -> "Classes":
        names = tuple(self.all[label] for label in labels)
        num_base = None if self.num_base is None else sum(label < self.num_base for label in labels)
        return Classes(names, {name: self.aliases[name] for name in names if name in self.aliases}, num_base)

    def with_aliases(self, *groups: Sequence[str]) -> "Classes":
        """The classes with more spellings: if one name of a group is a class, the others become its aliases.

        A spelling is left out if it is itself a class, or if two classes would claim it.
        """
        class_of = {canonical(name): name for name in self.all}
        spellings = {name: list(others) for name, others in self.aliases.items()}
        for group in groups:
            found = {class_of[key] for key in map(canonical, group) if key in class_of}
            if len(found) == 1:
                spellings.setdefault(found.pop(), []).extend(name for name in group if canonical(name) not in class_of)
        # One spelling for each canonical form of a class, the first.
        unique = {name: {canonical(other): other for other in reversed(others)} for name, others in spellings.items()}
        claims = Counter(key for forms in unique.values() for key in forms)
        aliases = {
            name: [other for key, other in reversed(unique.get(name, {}).items()) if claims[key] == 1]
            for name in self.all
        }
        return replace(self, aliases={name: others for name, others in aliases.items() if others})

    def to_json(self) -> dict[str, object]:
        aliases = {name: list(spellings) for name, spellings in self.aliases.items()}
        return {"base": list(self.base), "new": list(self.new), "all": list(self.all), "aliases": aliases}


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image: its path from the image root, and the index of its class in label order."""

    image: str
    label: int


@dataclass(frozen=True)
class Source:
    """A data set as it was found on disk; ``dataset`` is the key in ``data_source``.

    ``root`` is the folder that image paths start from; None if the images were written into the set itself. Without a
    "val" part, a share of "train" validates. ``division`` says who divided the images. ``new_part`` validates held-out
    classes where validation follows the reference.
    """

    dataset: str
    root: Path | None
    classes: Classes
    parts: Mapping[Part, Sequence[Item]]
    division: str
    new_part: Part = "val"

    def with_new(self, new: Collection[int]) -> "Source":
        """The source with the classes of these labels held out: labels change, so that base comes first."""
        order = sorted(range(len(self.classes.all)), key=lambda label: (label in new, label))
        labels = {old: label for label, old in enumerate(order)}
        classes = replace(
            self.classes, all=tuple(self.classes.all[old] for old in order), num_base=len(order) - len(new)
        )
        parts = {part: [Item(item.image, labels[item.label]) for item in items] for part, items in self.parts.items()}
        return replace(self, classes=classes, parts=parts)


def tidy(name: str) -> str:
    """A class name as people write it: underscores become spaces, and a full stop at the end goes."""
    return " ".join(name.replace("_", " ").split()).rstrip(". ")
