"""Stanford Cars: 196 makes, models and years, with an official division into training and test."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from divek_verl.prepare.official import Official, checked_path, read_coop_split
from divek_verl.prepare.source import Classes, Item, Part, Source
from divek_verl.prompts import Wording

CARS = Official(
    name="cars",
    title="Stanford Cars",
    topic="Cars",
    wording=Wording("car", "make and model"),
    url="https://ai.stanford.edu/~jkrause/cars/car_dataset.html (its files moved: see the DATASETS.md of CoOp)",
    folders=("stanford_cars", "StanfordCars", "cars"),
    markers=("cars_train",),
)


def read(data_root: Path, seed: int = 0) -> Source:
    """The official folder: `cars_train/`, `cars_test/`, `devkit/` and `cars_test_annos_withlabels.mat`."""
    folder = CARS.find(data_root)
    followed = read_coop_split(CARS, folder, folder, display=year_first)
    if followed is not None:
        return replace(followed, classes=_with_year_last(followed.classes))
    devkit = folder / "devkit"
    meta = CARS.mat(devkit / "cars_meta.mat")
    if "class_names" not in meta:
        raise CARS.damaged(devkit / "cars_meta.mat", "holds no class names")
    classes = Classes(tuple(year_first(str(name)) for name in np.atleast_1d(meta["class_names"]).ravel()))
    # The labels of the test images are published apart from the devkit.
    test = folder / "cars_test_annos_withlabels.mat"
    parts: dict[Part, list[Item]] = {
        "train": _items(devkit / "cars_train_annos.mat", "cars_train", len(classes.all)),
        "test": _items(test, "cars_test", len(classes.all)),
    }
    CARS.need(folder / "cars_test")
    return Source(CARS.name, folder, _with_year_last(classes), parts, "the official training and test images")


def year_first(name: str) -> str:
    """`AM General Hummer SUV 2000` as `2000 AM General Hummer SUV`; a name without a year at its end stays."""
    *words, last = name.split()
    return " ".join([last, *words]) if len(last) == 4 and last.isdigit() and words else " ".join(name.split())


def _with_year_last(classes: Classes) -> Classes:
    """`AM General Hummer SUV 2000`, as the devkit writes it, names `2000 AM General Hummer SUV` too."""
    names = [name.partition(" ") for name in classes.all if name[:4].isdigit()]
    return classes.with_aliases(*((f"{year} {name}", f"{name} {year}") for year, _, name in names))


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
