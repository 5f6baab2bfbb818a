"""Any folder of images: each sub-folder is a class."""

import os
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from PIL import Image

from divek_verl.errors import SetupError
from divek_verl.images import FORMATS, HEIC_SUFFIXES
from divek_verl.labels import canonical
from divek_verl.prepare.folder import printable
from divek_verl.prepare.source import Classes, Item, Part, Source, tidy

# If "train" is among the sub-folders, and all others are listed here, they hold parts instead of classes.
PART_FOLDERS: dict[str, Part] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Depth(str, Enum):
    """The folders that are classes where folders are nested: the topmost or those that hold the images."""

    TOP = "top"
    LEAF = "leaf"


def read(data_root: Path, name: str | None = None, depth: Depth | None = None) -> Source:
    """`ROOT/<class>/...`, or `ROOT/{train,val,test}/<class>/...`; `name` is by default the folder's, as a key.

    Images below a sub-folder of a class folder are refused unless `depth` says which of the two is the class.
    """
    root = data_root.expanduser()
    if not root.is_dir():
        raise SetupError(f"{root} is no folder: give --data-root one with a sub-folder of images for each class.")
    folders = _sub_folders(root)
    if "train" in folders and set(folders) <= set(PART_FOLDERS):
        listed = [(PART_FOLDERS[folder], f"{folder}/") for folder in folders]
        division = "the folders train, val and test"
    else:
        listed, division = [("train", "")], "all images of the folder"
    above = [root, *(root / prefix for _, prefix in listed if prefix)]
    beside = (path.name for folder in above for path in folder.iterdir() if path.is_file())
    ignored = Counter(_suffix(file) for file in beside if not file.startswith("."))
    # (part, class folder) -> its images
    found: dict[tuple[Part, str], list[str]] = {}
    for part, prefix in listed:
        for top in (f"{prefix}{folder}" for folder in _sub_folders(root / prefix)):
            if depth is not Depth.LEAF:
                found[part, top] = []
            for image in find_images(root, top, ignored):
                inside = Path(image).parent.as_posix()
                if inside != top and depth is None:
                    raise SetupError(
                        f"{printable(root / top)} holds a folder of images ({printable(Path(inside))}): "
                        "with --depth leaf each innermost folder is a class, with --depth top each topmost."
                    )
                found.setdefault((part, inside if depth is Depth.LEAF else top), []).append(image)
    if not found:
        raise SetupError(f"{root} has no sub-folder of images: put the images of each class into one of its own.")
    if ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common())
        print(f"ignored, no image of a class: {kinds}")
    for _, folder in found:
        if any("\ud800" <= letter <= "\udfff" for letter in folder):
            raise SetupError(f"{printable(root / folder)} has a name that is not UTF-8: rename the folder.")
    classes = sorted({Path(folder).name for _, folder in found})
    # By canonical form, and for innermost folders by their part too: the first folder of a class.
    spelled: dict[str, str] = {}
    placed: dict[tuple[Part, str], str] = {}
    for part, folder in found:
        key = canonical(tidy(Path(folder).name))
        other, twin = spelled.setdefault(key, folder), placed.setdefault((part, key), folder)
        if Path(other).name != Path(folder).name or (depth is Depth.LEAF and (other := twin) != folder):
            raise SetupError(f"{root / other} and {root / folder} name one class: rename or merge the folders.")
    parts: dict[Part, list[Item]] = {}
    for (part, folder), images in found.items():
        label = classes.index(Path(folder).name)
        parts.setdefault(part, []).extend(Item(image, label) for image in images)
    names = Classes(tuple(tidy(folder) for folder in classes))
    return Source(name or key_of(root.resolve().name), root, names, parts, division)


def find_images(root: Path, folder: str, ignored: Counter[str]) -> Iterator[str]:
    """The paths from `root` of all images below a folder, by suffix; counts the suffixes of other files in `ignored`.

    Links are followed, loops are not.
    """
    suffixes = {*HEIC_SUFFIXES, *(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)}
    inside = (root / folder).resolve()
    # A link to a folder above would bring in other classes, without end.
    seen = {str(above) for above in (root.resolve(), inside, *inside.parents)}
    for path, folders, files in os.walk(root / folder, followlinks=True):
        real = {inner: os.path.realpath(Path(path, inner)) for inner in sorted(folders) if not inner.startswith(".")}
        folders[:] = [inner for inner, target in real.items() if target not in seen]
        seen.update(real.values())
        for file in sorted(files):
            if file.startswith("."):
                continue
            if (suffix := _suffix(file)) in suffixes:
                yield Path(path, file).relative_to(root).as_posix()
            else:
                ignored[suffix] += 1


def key_of(name: str) -> str:
    """A data set's key from any name: `My Mushrooms (2)` becomes `my-mushrooms-2`."""
    return "-".join(canonical("".join(c if c.isalnum() else " " for c in name)).split()) or "images"


def _sub_folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower() or "without suffix"
