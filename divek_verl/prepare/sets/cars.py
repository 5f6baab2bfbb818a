"""Stanford Cars: 196 makes, models and years, with an official division into training and test."""

from pathlib import Path

import numpy as np

from divek_verl.prepare.classes import Classes
from divek_verl.prepare.locate import Official, checked_path
from divek_verl.prepare.names import year_first
from divek_verl.prepare.source import Item, Part, Source
from divek_verl.prepare.zhou import read_zhou
from divek_verl.prompts import Wording

DATASET = "cars"
CARS = Official(
    "Stanford Cars",
    Wording("car", "make and model"),
    "https://ai.stanford.edu/~jkrause/cars/car_dataset.html (its files moved: see the DATASETS.md of CoOp)",
    ("stanford_cars", "StanfordCars", "cars"),
    markers=("cars_train",),
)


def read(data_root: Path, seed: int = 0) -> Source:
    """The official folder: `cars_train/`, `cars_test/`, `devkit/` and `cars_test_annos_withlabels.mat`."""
    folder = CARS.find(data_root)
    followed = read_zhou(CARS, folder, DATASET, folder, display=year_first)
    if followed is not None:
        return followed
    devkit = folder / "devkit"
    classes = _classes(devkit / "cars_meta.mat")
    # The labels of the test images are given away apart from the devkit.
    test = folder / "cars_test_annos_withlabels.mat"
    parts: dict[Part, list[Item]] = {
        "train": _items(devkit / "cars_train_annos.mat", "cars_train", len(classes.all)),
        "test": _items(test, "cars_test", len(classes.all)),
    }
    CARS.need(folder / "cars_test")
    return Source(DATASET, folder, classes, parts, "the official training and test images")


def _classes(path: Path) -> Classes:
    content = CARS.mat(path)
    try:
        names = np.atleast_1d(content["class_names"])
        return Classes(tuple(year_first(str(name)) for name in names.ravel()))
    except (KeyError, ValueError):
        raise CARS.damaged(path, "holds no class names") from None


def _items(path: Path, folder: str, num_classes: int) -> list[Item]:
    content = CARS.mat(path)
    try:
        annotations = np.atleast_1d(content["annotations"]).ravel()
        items = [Item(f"{folder}/{each['fname']}", int(each["class"]) - 1) for each in annotations]
    except (KeyError, ValueError, TypeError, IndexError):
        raise CARS.damaged(path, "holds no annotations with fname and class") from None
    for item in items:
        checked_path(path, item.image)
        if not 0 <= item.label < num_classes:
            raise CARS.damaged(path, f"gives {item.image} the class {item.label + 1} of {num_classes}")
    return items
