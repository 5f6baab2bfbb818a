"""The Grocery Store Dataset: 81 products in groups of look-alikes, photographed in shops (Klasson et al., WACV 2019).

Photographs and lists are under the MIT licence. No published results of the method fix its base and new classes, so
this project does: groups of several products alternate between base and new in the set's own order, and so do the
products that are a group of their own. Look-alikes therefore stay on one side.
"""

import csv
from collections import Counter
from itertools import count
from pathlib import Path

from divek_verl.prepare.official import PARTS, Official, checked_path
from divek_verl.prepare.source import Classes, Item, Part, Source
from divek_verl.prompts import Wording

GROCERY = Official(
    name="grocery",
    title="the Grocery Store Dataset",
    topic="Groceries",
    wording=Wording("grocery item", "product"),
    url="https://github.com/marcusklasson/GroceryStoreDataset",
    folders=("GroceryStoreDataset", "dataset"),
    markers=("classes.csv",),
)
# Other words for a product; "<product> <group>", such as "Golden Delicious Apple", is added to them.
VARIANTS = (
    ("Aubergine", "Eggplant"),
    ("Zucchini", "Courgette"),
    ("Satsumas", "Satsuma"),
    ("Carrots", "Carrot"),
    ("Red Beet", "Beetroot"),
    ("Honeydew Melon", "Honeydew"),
)


def read(data_root: Path, seed: int = 0) -> Source:
    """The official folder: `classes.csv`, `train.txt`, `val.txt`, `test.txt`, and the folders of the same names."""
    root = GROCERY.find(data_root)
    names, groups = _read_classes(root / "classes.csv")
    parts: dict[Part, list[Item]] = {part: [] for part in PARTS}
    for part, items in parts.items():
        for where, line in GROCERY.lines(root / f"{part}.txt"):
            # path, class, group
            image, *numbers = line.split(", ")
            if not numbers or not numbers[0].isdigit() or int(numbers[0]) >= len(names):
                raise GROCERY.damaged(where, "is not an image and a class of classes.csv")
            items.append(Item(checked_path(where, image), int(numbers[0])))
    spellings = [
        (name, f"{name} {group}", name.replace("Yoghurt", "Yogurt")) for name, group in zip(names, groups, strict=True)
    ]
    classes = Classes(tuple(names)).with_aliases(*VARIANTS, *spellings)
    source = Source(GROCERY.name, root, classes, parts, "the official parts")
    return source.with_new(_new_labels(groups))


def _read_classes(path: Path) -> tuple[list[str], list[str]]:
    """The name and the group of each class; "Arla-Standard-Milk" becomes "Arla Standard Milk"."""
    names: list[str] = []
    groups: list[str] = []
    # name, number, group, number of the group, and files that describe the product
    for row in list(csv.reader(GROCERY.text(path).splitlines()))[1:]:
        if len(row) < 4 or row[1].strip() != str(len(names)):
            raise GROCERY.damaged(path, "does not number its classes 0, 1, 2, ...")
        names.append(row[0].replace("-", " ").strip())
        groups.append(row[2].replace("-", " ").strip())
    return names, groups


def _new_labels(groups: list[str]) -> set[int]:
    """The labels of every second group: among those of several classes, and among those of one."""
    sizes = Counter(groups)
    turns = {True: count(), False: count()}
    turn = {group: next(turns[size > 1]) for group, size in sizes.items()}
    return {label for label, group in enumerate(groups) if turn[group] % 2}
