"""The classes of a data set, and which of them are trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from divek_verl.labels import ClassNames


@dataclass(frozen=True)
class Classes:
    """The classes of a data set in label order, split into base (trained on) and new (held out)."""

    all: tuple[str, ...]
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def base(self) -> tuple[str, ...]:
        """The first half, rounded up: the split of the base-to-novel literature (CoOp and after)."""
        return self.all[: (len(self.all) + 1) // 2]

    @property
    def new(self) -> tuple[str, ...]:
        return self.all[len(self.base) :]

    def of(self, side: str) -> ClassNames:
        """Class list of "base", "new" or "all", with the aliases of its classes."""
        names = {"base": self.base, "new": self.new, "all": self.all}[side]
        return ClassNames(names, aliases={name: self.aliases[name] for name in names if name in self.aliases})

    def to_json(self) -> dict[str, Any]:
        sides = {"base": list(self.base), "new": list(self.new), "all": list(self.all)}
        aliases = {name: list(spellings) for name, spellings in self.aliases.items()}
        return {**sides, "aliases": aliases}
