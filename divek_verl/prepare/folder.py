"""The folder of a prepared set, written aside and put in place in one step, and the JSON files in it."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import PIL
import pyarrow as pa

from divek_verl import __version__
from divek_verl.class_lists import CLASSES_FILE, SET_FILE
from divek_verl.errors import SetupError
from divek_verl.files import folder_aside

SHEET_FILE = "inspect.html"
IMAGES_FOLDER = "images"
SPLITS = ("train", "val", "val_base", "val_new", "pretrain")
_CONTENTS = {*(f"{name}.parquet" for name in SPLITS), CLASSES_FILE, SET_FILE, SHEET_FILE, IMAGES_FOLDER}


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write a prepared set into. It takes the place of `target` once everything is written.

    Raises:
        SetupError: `target` holds something that is no prepared set, or cannot be written.
    """
    target = target.expanduser().resolve()
    if target.exists():
        if not target.is_dir():
            raise SetupError(f"{target} is a file: give --out a folder.")
        names = {path.name for path in target.iterdir()}
        if foreign := sorted(names - _CONTENTS):
            raise SetupError(f"{target} holds {foreign[0]}, no part of a prepared set: give --out another folder.")
        # A folder that holds only "images" may be anybody's.
        if names and CLASSES_FILE not in names:
            raise SetupError(f"{target} holds {sorted(names)[0]} and no {CLASSES_FILE}: give --out another folder.")
    with folder_aside(target) as folder:
        yield folder


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """The versions that decide on the bytes of the files."""
    return {"divek_verl": __version__, "pillow": PIL.__version__, "pyarrow": pa.__version__}


def recorded_root(root: Path, place: Path) -> dict[str, str]:
    """A folder of images as set.json records it, for a set that lies in `place`."""
    root, place = root.resolve(), place.expanduser().resolve()
    return {"absolute": str(root), "relative": Path(os.path.relpath(root, place)).as_posix()}


def printable(path: Path) -> str:
    """A path as one line of text for any screen: line breaks and bytes that are not UTF-8 as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
