"""CUB-200-2011: 200 bird species, with an official division into training and test."""

from dataclasses import replace
from pathlib import Path

from divek_verl.prepare.official import Official, checked_path, read_coop_split
from divek_verl.prepare.source import Classes, Item, Source, tidy
from divek_verl.prompts import Wording

CUB = Official(
    name="cub",
    title="CUB-200-2011",
    topic="Birds",
    wording=Wording("bird", "species"),
    url="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    folders=("CUB_200_2011", "cub", "CUB"),
    markers=("images.txt", "split_zhou_*.json"),
)

# Names that the set misspells or shortens, and the names that people write.
VARIANTS = (
    ("Artic Tern", "Arctic Tern"),
    ("Forsters Tern", "Forster Tern"),
    ("Florida Jay", "Florida Scrub Jay"),
    ("Geococcyx", "Roadrunner", "Greater Roadrunner"),
    ("Frigatebird", "Frigate Bird"),
    ("Whip poor Will", "Whippoorwill"),
)


def read(data_root: Path, seed: int = 0) -> Source:
    """The official folder: `images.txt`, `image_class_labels.txt`, `train_test_split.txt`, `classes.txt`, `images/`."""
    folder = CUB.find(data_root)
    root = CUB.need(folder / "images")
    followed = read_coop_split(CUB, folder, root, display=class_name)
    if followed is not None:
        return replace(followed, classes=followed.classes.with_aliases(*VARIANTS))
    names = {int(number): class_name(name) for number, name in _table(folder / "classes.txt").items()}
    labels, trained = _table(folder / "image_class_labels.txt"), _table(folder / "train_test_split.txt")
    if sorted(names) != list(range(1, len(names) + 1)):
        raise CUB.damaged(folder / "classes.txt", "does not number its classes 1, 2, 3, ...")
    train: list[Item] = []
    test: list[Item] = []
    for image_id, image in _table(folder / "images.txt").items():
        where = f"{folder / 'images.txt'}: image {image_id}"
        try:
            label, part = int(labels[image_id]), {"1": train, "0": test}[trained[image_id]]
            names[label]
        except (KeyError, ValueError):
            raise CUB.damaged(where, "has no class or no side in the other files") from None
        part.append(Item(checked_path(where, image), label - 1))
    classes = Classes(tuple(names[number] for number in sorted(names))).with_aliases(*VARIANTS)
    return Source(CUB.name, root, classes, {"train": train, "test": test}, "the official training and test images")


def class_name(folder: str) -> str:
    """`001.Black_footed_Albatross` as `Black footed Albatross`."""
    number, dot, name = folder.partition(".")
    return tidy(name if dot and number.isdigit() else folder)


def _table(path: Path) -> dict[str, str]:
    rows: dict[str, str] = {}
    for where, line in CUB.lines(path):
        key, space, value = line.partition(" ")
        if not space or not key.isdigit():
            raise CUB.damaged(where, "is not an id and a value")
        if key in rows:
            raise CUB.damaged(path, f"holds id {key} twice")
        rows[key] = value.strip()
    return rows
