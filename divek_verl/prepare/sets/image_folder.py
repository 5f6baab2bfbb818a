"""Any folder of images: each sub-folder is a class."""

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from divek_verl.errors import SetupError
from divek_verl.images import FORMATS
from divek_verl.labels import canonical
from divek_verl.prepare.folder import printable
from divek_verl.prepare.source import Classes, Item, Part, Source, tidy

# If "train" is among the sub-folders, and all others are listed here, they hold parts instead of classes.
PART_FOLDERS: dict[str, Part] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read(data_root: Path, name: str | None = None) -> Source:
    """`ROOT/<class>/...`, or `ROOT/{train,val,test}/<class>/...`; `name` is by default the folder's, as a key."""
    root = data_root.expanduser()
    if not root.is_dir():
        raise SetupError(f"{root} is no folder: give --data-root one with a sub-folder of images for each class.")
    folders = _sub_folders(root)
    if "train" in folders and set(folders) <= set(PART_FOLDERS):
        listed = [(PART_FOLDERS[folder], f"{folder}/") for folder in folders]
        division = "the folders train, val and test"
    else:
        listed, division = [("train", "")], "all images of the folder"
    classes = sorted({folder for _, prefix in listed for folder in _sub_folders(root / prefix)})
    if not classes:
        raise SetupError(f"{root} has no sub-folder: put the images of each class into one of its own.")
    parts: dict[Part, list[Item]] = {}
    for part, prefix in listed:
        for label, folder in enumerate(classes):
            parts.setdefault(part, []).extend(Item(image, label) for image in find_images(root, f"{prefix}{folder}"))
    for folder in classes:
        if any("\ud800" <= letter <= "\udfff" for letter in folder):
            raise SetupError(f"{printable(root / folder)} has a name that is not UTF-8: rename the folder.")
    names = Classes(tuple(tidy(folder) for folder in classes))
    return Source(name or key_of(root.resolve().name), root, names, parts, division)


def find_images(root: Path, folder: str) -> Iterator[str]:
    """The paths from `root` of all images below a folder, by suffix. Links are followed, loops are not."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    inside = (root / folder).resolve()
    # A link to a folder above would bring in other classes, without end.
    seen = {str(above) for above in (root.resolve(), inside, *inside.parents)}
    for path, folders, files in os.walk(root / folder, followlinks=True):
        real = {inner: os.path.realpath(Path(path, inner)) for inner in sorted(folders) if not inner.startswith(".")}
        folders[:] = [inner for inner, target in real.items() if target not in seen]
        seen.update(real.values())
        for file in sorted(files):
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in suffixes:
                yield Path(path, file).relative_to(root).as_posix()


def key_of(name: str) -> str:
    """A data set's key from any name: `My Mushrooms (2)` becomes `my-mushrooms-2`."""
    return "-".join(canonical("".join(c if c.isalnum() else " " for c in name)).split()) or "images"


def _sub_folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
