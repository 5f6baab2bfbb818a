"""The split files of CoOp (``split_zhou_*.json``), followed exactly where one lies in the folder."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from divek_verl.errors import SetupError
from divek_verl.prepare.classes import Classes
from divek_verl.prepare.locate import Official, checked_path
from divek_verl.prepare.names import tidy
from divek_verl.prepare.source import Item, Part, Source

PARTS: tuple[Part, ...] = ("train", "val", "test")


def read_zhou(
    official: Official,
    folder: Path,
    dataset: str,
    root: Path,
    *,
    new_part: Part = "val",
    display: Callable[[str], str] = tidy,
) -> Source | None:
    """The source that a split file in `folder` describes; None where there is no such file.

    Each entry is [image path from `root`, label from 0, class name]; `display` makes the name one that people write.
    """
    files = sorted(folder.glob("split_zhou_*.json"))
    if not files:
        return None
    if len(files) > 1:
        raise SetupError(f"{folder} holds {files[0].name} and {files[1].name}: leave the one to follow.")
    path = files[0]
    content = official.json(path)
    names: dict[int, str] = {}
    try:
        parts: dict[Part, list[Item]] = {
            part: [_item(path, entry, names) for entry in content[part]] for part in PARTS if part in content
        }
        parts["train"]
    except (KeyError, TypeError, ValueError) as error:
        raise SetupError(f"{path} is no split file of CoOp ({error!r}): download it again.") from None
    labels = sorted(names)
    if labels != list(range(len(labels))):
        raise SetupError(f"{path} has no class for each label from 0 to {labels[-1]}: download it again.")
    classes = Classes(tuple(display(names[label]) for label in labels))
    return Source(dataset, root, classes, parts, f"as in {path.name}", new_part)


def _item(path: Path, entry: Any, names: dict[int, str]) -> Item:
    image, label, name = entry
    if not isinstance(image, str) or not isinstance(label, int) or not isinstance(name, str):
        raise TypeError(entry)
    if names.setdefault(label, name) != name:
        raise SetupError(f"{path} calls label {label} both {names[label]!r} and {name!r}: correct it.")
    return Item(PurePosixPath(checked_path(path, image)).as_posix(), label)
