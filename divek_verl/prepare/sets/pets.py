"""Oxford-IIIT Pet: 37 breeds of cats and dogs, with an official division into training and test."""

from pathlib import Path

from divek_verl.prepare.official import Official, checked_path, read_coop_split
from divek_verl.prepare.source import Classes, Item, Part, Source, tidy
from divek_verl.prompts import Wording

PETS = Official(
    name="pets",
    title="Oxford-IIIT Pet",
    topic="Cats and dogs",
    wording=Wording("pet", "breed"),
    url="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    folders=("oxford-iiit-pet", "oxford_pets", "oxford-iiit-pets"),
    markers=("annotations", "split_zhou_*.json"),
)
LISTS: dict[Part, str] = {"train": "trainval.txt", "test": "test.txt"}


def read(data_root: Path, seed: int = 0) -> Source:
    """The official folder: `images/` and `annotations/` with `trainval.txt` and `test.txt`."""
    folder = PETS.find(data_root)
    root = PETS.need(folder / "images")
    followed = read_coop_split(PETS, folder, root, display=lambda name: tidy(name).lower())
    if followed is not None:
        return followed
    names: dict[int, str] = {}
    parts: dict[Part, list[Item]] = {part: [] for part in LISTS}
    for part, items in parts.items():
        for where, line in PETS.lines(folder / "annotations" / LISTS[part]):
            # name, class from 1, species (1 cat, 2 dog), breed within the species
            name, *numbers = line.split()
            if not numbers or not numbers[0].isdigit() or "_" not in name:
                raise PETS.damaged(where, "is not an image and its class")
            label = int(numbers[0]) - 1
            breed = tidy(name.rpartition("_")[0]).lower()
            if names.setdefault(label, breed) != breed:
                raise PETS.damaged(where, f"calls class {label + 1} both {names[label]!r} and {breed!r}")
            items.append(Item(checked_path(where, f"{name}.jpg"), label))
    labels = sorted(names)
    if labels != list(range(len(labels))):
        raise PETS.damaged(folder / "annotations", "does not number its classes 1, 2, 3, ...")
    classes = Classes(tuple(names[label] for label in labels))
    return Source(PETS.name, root, classes, parts, "the official training and test images")
