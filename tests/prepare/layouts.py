"""Tiny data sets in the layouts of the official ones, with their quirks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

BIRDS = (
    "001.Black_footed_Albatross",
    "002.Laysan_Albatross",
    "003.Sooty_Albatross",
    "004.Groove_billed_Ani",
    "005.Crested_Auklet",
)
FLOWERS = ("pink primrose", "hard-leaved pocket orchid", "prince of wales feathers", "cape flower", "watercress")
# Ids are alphabetical ignoring case; cats are written with a capital, dogs are not.
PETS = ("Abyssinian", "american_bulldog", "basset_hound", "Bengal", "Maine_Coon")
CATS = ("Abyssinian", "Bengal", "Maine_Coon")
CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Audi 100 Wagon 1994", "Ram C/V Cargo Van Minivan 2012")
MUSHROOMS = ("chanterelle", "death_cap", "fly agaric", "morel")
# (group, products), as the official paths spell them
GROCERIES = (
    ("Fruit/Apple", ("Golden-Delicious", "Granny-Smith")),
    ("Fruit/Avocado", ("Avocado",)),
    ("Fruit/Melon", ("Cantaloupe", "Honeydew-Melon")),
    ("Vegetables/Aubergine", ("Aubergine",)),
    ("Packages/Yoghurt", ("Arla-Natural-Yoghurt", "Yoggi-Vanilla-Yoghurt")),
)
VARIANTS = ("707-320", "727-200", "Embraer Legacy 600", "F-16A/B", "Yak-42")


def paint(path: Path, number: int, size: tuple[int, int] = (12, 9)) -> None:
    """A picture of one of 16 million shades."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = (number * 7919 + 17) % 2**24
    # PNG whatever the suffix says: it keeps the shade, and no reader goes by the suffix.
    Image.new("RGB", size, (shade >> 16, shade >> 8 & 255, shade & 255)).save(path, "PNG")


def cub(folder: Path, trained: int = 10, tested: int = 3, names: Sequence[str] = BIRDS) -> Path:
    """CUB_200_2011; the words of a file's stem are Title Case where its folder's are not."""
    images, labels, split, boxes = [], [], [], []
    number = 0
    for label, name in enumerate(names, 1):
        stem = "_".join(word.title() for word in name.partition(".")[2].split("_"))
        for index in range(trained + tested):
            number += 1
            image = f"{name}/{stem}_{index:04d}_{number}.jpg"
            paint(folder / "images" / image, number)
            images.append(f"{number} {image}")
            labels.append(f"{number} {label}")
            split.append(f"{number} {int(index < trained)}")
            boxes.append(f"{number} 60.0 27.0 325.0 304.0")
    _write_lines(folder / "images.txt", images)
    _write_lines(folder / "image_class_labels.txt", labels)
    _write_lines(folder / "train_test_split.txt", split)
    _write_lines(folder / "bounding_boxes.txt", boxes)
    _write_lines(folder / "classes.txt", [f"{label} {name}" for label, name in enumerate(names, 1)])
    return folder


def flowers(folder: Path, per_class: int = 10, *, setid: bool = False, names: Sequence[str] = FLOWERS) -> Path:
    """oxford_flowers without CoOp's split; the classes of the images are mixed, as they are in the official set."""
    labels = [index % len(names) + 1 for index in range(per_class * len(names))]
    for number in range(1, len(labels) + 1):
        paint(folder / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    (folder / "cat_to_name.json").write_text(json.dumps({str(n): name for n, name in enumerate(names, 1)}))
    if setid:
        numbers = np.arange(1, len(labels) + 1, dtype=np.uint16)
        parts = {"trnid": numbers[:15], "valid": numbers[15:30], "tstid": numbers[30:]}
        savemat(folder / "setid.mat", {name: part[np.newaxis] for name, part in parts.items()})
    return folder


def pets(folder: Path, trained: int = 10, tested: int = 4, names: Sequence[str] = PETS) -> Path:
    """oxford-iiit-pet; list.txt has a header of comments."""
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    number = 0
    breeds = {True: 0, False: 0}
    for label, name in enumerate(names, 1):
        breeds[name in CATS] += 1
        for index in range(1, trained + tested + 1):
            number += 1
            paint(folder / "images" / f"{name}_{index}.jpg", number)
            line = f"{name}_{index} {label} {1 if name in CATS else 2} {breeds[name in CATS]}"
            lists["trainval" if index <= trained else "test"].append(line)
    for file, lines in lists.items():
        _write_lines(folder / "annotations" / f"{file}.txt", lines)
    header = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids", "#SPECIES: 1:Cat 2:Dog"]
    _write_lines(folder / "annotations" / "list.txt", [*header, *lists["trainval"], *lists["test"]])
    return folder


def cars(folder: Path, trained: int = 10, tested: int = 4, names: Sequence[str] = CARS) -> Path:
    """stanford_cars: the labels of the test images lie outside the devkit."""
    cell = np.empty((1, len(names)), dtype=object)
    cell[0] = [np.array([name]) for name in names]
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": cell})
    for part, count, file in (
        ("cars_train", trained, "devkit/cars_train_annos.mat"),
        ("cars_test", tested, "cars_test_annos_withlabels.mat"),
    ):
        total = count * len(names)
        fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
        annotations = np.empty((1, total), dtype=[(field, "O") for field in fields])
        for index in range(total):
            image = f"{index + 1:05d}.jpg"
            paint(folder / part / image, index + (1000 if part == "cars_test" else 0))
            annotations[0, index] = (39, 116, 569, 375, index % len(names) + 1, image)
        savemat(folder / file, {"annotations": annotations})
    return folder


def aircraft(folder: Path, per_part: int = 4, names: Sequence[str] = VARIANTS, **levels: Sequence[str]) -> Path:
    """The folder `data` of fgvc-aircraft-2013b; ``family`` and ``manufacturer`` are those of the variants."""
    number = 0
    lists: dict[str, list[str]] = {}
    for part in ("train", "val", "test"):
        for name in names:
            for _ in range(per_part):
                number += 1
                paint(folder / "images" / f"{34000 + number:07d}.jpg", number)
                lists.setdefault(part, []).append(f"{34000 + number:07d} {name}")
    lists["trainval"] = [*lists["train"], *lists["val"]]
    for level, values in levels.items():
        of = dict(zip(names, values, strict=True))
        for part, lines in lists.items():
            labelled = [f"{image} {of[name]}" for image, _, name in (line.partition(" ") for line in lines)]
            _write_lines(folder / f"images_{level}_{part}.txt", labelled)
    for part, lines in lists.items():
        _write_lines(folder / f"images_variant_{part}.txt", lines)
    _write_lines(folder / "variants.txt", names)
    return folder


def grocery(folder: Path, trained: int = 10, tested: int = 4, size: tuple[int, int] = (12, 9)) -> Path:
    """The folder `dataset` of GroceryStoreDataset, whose validation part is small."""
    classes, number = ["Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),Iconic (str)"], 0
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for group, (path, products) in enumerate(GROCERIES):
        for product in products:
            label = len(classes) - 1
            classes.append(f"{product},{label},{path.partition('/')[2]},{group},/iconic/{product}.jpg")
            where = path if path.endswith(product) else f"{path}/{product}"
            for part, count in (("train", trained), ("val", 1), ("test", tested)):
                for index in range(count):
                    number += 1
                    image = f"{part}/{where}/{product}_{index + 1:03d}.jpg"
                    paint(folder / image, number, size)
                    lists[part].append(f"{image}, {label}, {group}")
    for part, lines in lists.items():
        _write_lines(folder / f"{part}.txt", lines)
    _write_lines(folder / "classes.csv", classes)
    return folder


def zhou(path: Path, images: Mapping[str, Sequence[tuple[str, int, str]]]) -> None:
    """One of CoOp's split files."""
    path.write_text(json.dumps({part: [list(entry) for entry in entries] for part, entries in images.items()}))


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
