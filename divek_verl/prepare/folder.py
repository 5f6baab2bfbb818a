"""The folder of a prepared set: written aside, put in place in one step, never half."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from divek_verl.class_lists import CLASSES_FILE, SET_FILE
from divek_verl.errors import SetupError

SHEET_FILE = "inspect.html"
IMAGES_FOLDER = "images"
SPLITS = ("train", "val", "val_base", "val_new")
_CONTENTS = {*(f"{name}.parquet" for name in SPLITS), CLASSES_FILE, SET_FILE, SHEET_FILE, IMAGES_FOLDER}


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write a prepared set into, which takes the place of `target` only when all went well.

    Raises SetupError where `target` holds anything else than a prepared set: only such a one is replaced.
    """
    target = target.expanduser().resolve()
    _refuse_foreign(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, hence on the same file system: renaming is then one step.
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise SetupError(f"{target.parent} cannot be written ({error.strerror}): give --out another folder.") from None
    try:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        _replace(target, folder, scratch / "old")
    finally:
        shutil.rmtree(scratch)


def _replace(target: Path, new: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _refuse_foreign(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise SetupError(f"{target} is a file: give --out a folder.")
    names = {path.name for path in target.iterdir()}
    if foreign := sorted(names - _CONTENTS):
        raise SetupError(f"{target} holds {foreign[0]}, no part of a prepared set: give --out another folder.")
    # A folder named "images" alone may be anybody's.
    if names and CLASSES_FILE not in names:
        raise SetupError(f"{target} holds {sorted(names)[0]} and no {CLASSES_FILE}: give --out another folder.")
