"""Reading an official folder as its authors publish it. An error names the missing file and its download page."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from divek_verl.errors import SetupError
from divek_verl.files import parse_json
from divek_verl.prepare.source import Classes, Item, Part, Source, tidy
from divek_verl.prompts import Wording

PARTS: tuple[Part, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Official:
    """A published data set; ``name`` is its command and its key in `data_source`, ``title`` its authors' name for it.

    ``folders`` are possible names of its folder, in --data-root or once more inside itself. ``markers`` are files or
    folders of which its folder holds at least one; errors name the first.
    """

    name: str
    title: str
    topic: str
    wording: Wording
    url: str
    folders: tuple[str, ...]
    markers: tuple[str, ...]

    def find(self, data_root: Path) -> Path:
        """The official folder: `data_root` itself, or one of the known names at most two levels below it."""
        data_root = data_root.expanduser()
        nested = [f"{outer}/{inner}" for outer in self.folders for inner in self.folders]
        for name in ("", *self.folders, *nested):
            if any(next((data_root / name).glob(marker), None) for marker in self.markers):
                return data_root / name
        known = [data_root / name for name in self.folders if (data_root / name).is_dir()]
        return self.need((known or [data_root])[0] / self.markers[0])

    def need(self, path: Path) -> Path:
        if not path.exists():
            raise SetupError(
                f"{path} is missing: download {self.title} from {self.url} and "
                f"give --data-root the folder that holds {self.folders[0]}, or {self.folders[0]} itself."
            )
        return path

    def lines(self, path: Path) -> Iterator[tuple[str, str]]:
        """("file:line", content) for each line of a text file but comments (#) and empty lines."""
        for number, line in enumerate(self.text(path).splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                yield f"{path}:{number}", line.strip()

    def text(self, path: Path) -> str:
        try:
            return self.need(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"{path} cannot be read as text ({error}): download {self.title} again.") from None

    def json(self, path: Path) -> Any:
        text = self.text(path)
        try:
            return parse_json(text)
        except ValueError as error:
            raise SetupError(f"{path} is no JSON ({error}): download it again.") from None

    def mat(self, path: Path) -> dict[str, np.ndarray]:
        from scipy.io import loadmat

        self.need(path)
        try:
            return loadmat(str(path), squeeze_me=True)
        except Exception as error:  # scipy raises anything on a broken file
            raise SetupError(f"{path} cannot be read as a MATLAB file ({error}): download it again.") from None

    def damaged(self, where: object, what: str) -> SetupError:
        """The error for a line or entry that is not in the official form."""
        return SetupError(f"{where} {what}: download {self.title} again.")


def checked_path(where: object, path: str) -> str:
    """An image path out of a list. It must stay inside the data set's folder."""
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts:
        raise SetupError(f"{where} names the image {path!r}, which is not inside the data set: correct it.")
    return path


def read_coop_split(
    official: Official, folder: Path, root: Path, *, display: Callable[[str], str] = tidy
) -> Source | None:
    """The source that CoOp's split file (``split_zhou_*.json``) in `folder` describes; None without such a file.

    Each entry is [image path from `root`, label from 0, class name]; `display` turns the name into the shown one.
    """
    files = sorted(folder.glob("split_zhou_*.json"))
    if not files:
        return None
    if len(files) > 1:
        raise SetupError(f"{folder} holds {files[0].name} and {files[1].name}: keep the one to follow.")
    path = files[0]
    content = official.json(path)
    names: dict[int, str] = {}
    parts: dict[Part, list[Item]] = {}
    try:
        for part in [part for part in PARTS if part == "train" or part in content]:
            parts[part] = []
            for entry in content[part]:
                image, label, name = entry
                if not isinstance(image, str) or not isinstance(label, int) or not isinstance(name, str):
                    raise TypeError(entry)
                if names.setdefault(label, name) != name:
                    raise SetupError(f"{path} calls label {label} both {names[label]!r} and {name!r}: correct it.")
                parts[part].append(Item(PurePosixPath(checked_path(path, image)).as_posix(), label))
    except SetupError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise SetupError(f"{path} is no split file of CoOp ({error!r}): download it again.") from None
    if sorted(names) != list(range(len(names))):
        raise SetupError(f"{path} has no class for each label from 0 to {max(names)}: download it again.")
    classes = Classes(tuple(display(names[label]) for label in sorted(names)))
    return Source(official.name, root, classes, parts, f"as in {path.name}")
