"""What a reader of an official folder brings: classes, images and the parts that they are divided into."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from divek_verl.prepare.classes import Classes

Part = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image: its path from the image root, and the place of its class in label order."""

    image: str
    label: int


@dataclass(frozen=True)
class Source:
    """A data set as it was found on disk.

    Attributes:
        dataset: the key in `data_source`.
        root: the folder that image paths start from; None for images that were written into the set itself.
        classes: all classes in label order.
        parts: the images of each part; a part that the data set does not have is missing, "val" being taken from
            "train" then.
        division: who divided the images into parts, in words.
        new_part: the part that held-out classes are validated on, where validation follows the reference.
    """

    dataset: str
    root: Path | None
    classes: Classes
    parts: Mapping[Part, Sequence[Item]]
    division: str
    new_part: Part = "val"
