"""The demo's flags: look-alike national flags, one drawing style and half of the classes held out."""

import random
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from divek_verl.demo import flags
from divek_verl.demo.augment import render
from divek_verl.prepare.classes import Classes
from divek_verl.prepare.examples import Example, Split
from divek_verl.prepare.folder import new_folder
from divek_verl.prepare.write import write_set

Drawings = Sequence[flags.Drawing]


def draw(folder: Path, name: str, drawings: Drawings, count: int, seed: int) -> Iterator[Example]:
    """Writes `count` augmented pictures of one class for the split `name`, its drawings in turn."""
    for index, drawing in enumerate(islice(cycle(drawings), count)):
        image_id = f"{name}/{drawing.country.replace(' ', '_')}-{index:03d}-{drawing.style}"
        image = Path("images", f"{image_id}.png")
        path = folder / image
        path.parent.mkdir(parents=True, exist_ok=True)
        render(drawing.image, random.Random(f"{seed}-{image_id}")).save(path)
        yield Example(image=image.as_posix(), truth=drawing.country, image_id=image_id)


def draw_split(folder: Path, name: str, side: str, drawings: Sequence[Drawings], per_class: int, seed: int) -> Split:
    """The split `name` with `per_class` pictures of each class."""
    progress = tqdm(drawings, desc=f"draw {name}", unit="class")
    examples = [example for each in progress for example in draw(folder, name, each, per_class, seed)]
    return Split(name, side, examples)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write, replaced if it holds a prepared set.")],
    seed: Annotated[int, typer.Option(help="Seed of the augmentation.")] = 0,
    cache: Annotated[Path, typer.Option(help="Folder of fetched packages.")] = flags.DEFAULT_CACHE,
    train_per_class: Annotated[int, typer.Option(min=1, help="Training images of each base class.")] = 40,
    val_per_class: Annotated[int, typer.Option(min=1, help="Validation images of each class.")] = 8,
) -> None:
    """Prepare the flags of the demo."""
    classes = Classes(tuple(flags.names()))
    training = flags.load_drawings(cache, flags.TRAIN_STYLES)
    validation = flags.load_drawings(cache, flags.VALIDATION_STYLES)
    plan = (
        ("train", "base", [training[name] for name in classes.base], train_per_class),
        ("val_base", "base", [validation[name] for name in classes.base], val_per_class),
        ("val_new", "new", [validation[name] for name in classes.new], val_per_class),
    )
    with new_folder(out) as folder:
        splits = [draw_split(folder, *entry, seed) for entry in plan]
        write_set(folder, "flags", classes, splits)
