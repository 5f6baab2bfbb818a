"""Labelled pictures on their way into parquet files."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image: its path (from the image root, or absolute), class name and identity."""

    image: str
    truth: str
    image_id: str


@dataclass(frozen=True)
class Split:
    """The examples of one parquet file `name`, all asked about the classes of one `side`."""

    name: str
    side: str
    examples: Sequence[Example]

    @property
    def stage(self) -> str:
        return "train" if self.name == "train" else "val"
