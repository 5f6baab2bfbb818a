"""Oxford Flowers 102: 102 flower species, in CoOp's split, the official one or a seeded one."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from divek_verl.prepare.official import Official, read_coop_split
from divek_verl.prepare.source import Classes, Item, Part, Source, tidy
from divek_verl.prepare.splits import divide
from divek_verl.prompts import Wording

FLOWERS = Official(
    name="flowers",
    title="Oxford Flowers 102",
    topic="Flowers",
    wording=Wording("flower", "species"),
    url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ (class names and split: the DATASETS.md of CoOp)",
    folders=("oxford_flowers", "flowers-102", "flowers102"),
    markers=("jpg",),
)
# Other names of a flower in one list or another.
VARIANTS = (
    ("prince of wales feathers", "plumed celosia"),
    ("cape flower", "guernsey lily"),
    ("watercress", "nasturtium"),
    ("barbeton daisy", "barberton daisy"),
    ("lotus lotus", "lotus"),
)
# The shares of CoOp's split; the test part takes the rest.
SHARES: dict[Part, float] = {"train": 0.5, "val": 0.2}
OFFICIAL_PARTS: dict[Part, str] = {"train": "trnid", "val": "valid", "test": "tstid"}


def read(data_root: Path, seed: int = 0) -> Source:
    """The official folder: `jpg/`, `imagelabels.mat`, `setid.mat`, and from CoOp `cat_to_name.json` and a split."""
    folder = FLOWERS.find(data_root)
    root = FLOWERS.need(folder / "jpg")
    source = read_coop_split(FLOWERS, folder, root) or _official(folder, root, seed)
    # The reference validates new classes on the test images.
    return replace(source, classes=source.classes.with_aliases(*VARIANTS), new_part="test")


def _official(folder: Path, root: Path, seed: int) -> Source:
    path = folder / "cat_to_name.json"
    names = FLOWERS.json(path)
    try:
        classes = Classes(tuple(tidy(names[str(number)]) for number in range(1, len(names) + 1)))
    except (KeyError, TypeError, AttributeError):
        raise FLOWERS.damaged(path, 'does not name its classes "1", "2", "3", ...') from None
    labels = _numbers(folder / "imagelabels.mat", "labels")
    if labels.min() < 1 or labels.max() > len(classes.all):
        raise FLOWERS.damaged(folder / "imagelabels.mat", f"holds labels beyond the {len(classes.all)} class names")
    items = [Item(f"image_{number:05d}.jpg", int(label) - 1) for number, label in enumerate(labels, 1)]
    if (folder / "setid.mat").exists():
        parts: dict[Part, list[Item]] = {}
        for part, key in OFFICIAL_PARTS.items():
            numbers = _numbers(folder / "setid.mat", key)
            if beyond := [number for number in numbers if not 1 <= number <= len(items)]:
                raise FLOWERS.damaged(folder / "setid.mat", f"names image {beyond[0]} of {len(items)}")
            parts[part] = [items[number - 1] for number in numbers]
        return Source(FLOWERS.name, root, classes, parts, "the official parts of setid.mat")
    parts = divide(items, SHARES, "test", f"{seed}-{FLOWERS.name}")
    return Source(FLOWERS.name, root, classes, parts, f"half, a fifth and the rest of each class by seed {seed}")


def _numbers(path: Path, key: str) -> np.ndarray:
    content = FLOWERS.mat(path)
    try:
        return np.atleast_1d(content[key]).astype(int).ravel()
    except (KeyError, ValueError, TypeError):
        raise FLOWERS.damaged(path, f"holds no numbers named {key!r}") from None
