"""Finding and reading the files of an official folder; what is missing is named, with where it comes from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from divek_verl.errors import SetupError
from divek_verl.prompts import Wording


@dataclass(frozen=True)
class Official:
    """A data set as its authors give it away.

    Attributes:
        title: its name.
        wording: the nouns of the questions about it.
        url: where it is downloaded from.
        folders: what its folder may be called, in --data-root or once more inside itself.
        markers: files or folders of which its folder holds one; the first is named where none is found.
    """

    title: str
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
        raise self.missing((known or [data_root])[0] / self.markers[0])

    def missing(self, path: Path) -> SetupError:
        """The error for a file or folder that is not there."""
        return SetupError(
            f"{path} is missing: download {self.title} from {self.url} and "
            f"give --data-root the folder that holds {self.folders[0]}, or {self.folders[0]} itself."
        )

    def need(self, path: Path) -> Path:
        """The path of something that must be there."""
        if not path.exists():
            raise self.missing(path)
        return path

    def lines(self, path: Path) -> Iterator[tuple[str, str]]:
        """("file:line", content) of a text file; comments (#) and empty lines are left out."""
        for number, line in enumerate(self.text(path).splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                yield f"{path}:{number}", line.strip()

    def text(self, path: Path) -> str:
        try:
            return self.need(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"{path} cannot be read as text ({error}): download {self.title} again.") from None

    def json(self, path: Path) -> Any:
        try:
            return json.loads(self.text(path))
        except ValueError as error:
            raise SetupError(f"{path} is no JSON ({error}): download it again.") from None

    def mat(self, path: Path) -> dict[str, Any]:
        """The variables of a MATLAB file."""
        from scipy.io import loadmat

        self.need(path)
        try:
            return loadmat(str(path), squeeze_me=True)
        except Exception as error:  # scipy raises anything on a broken file
            raise SetupError(f"{path} cannot be read as a MATLAB file ({error}): download it again.") from None

    def damaged(self, where: object, what: str) -> SetupError:
        """The error for a line or entry that is not of the official form."""
        return SetupError(f"{where} {what}: download {self.title} again.")


def checked_path(where: object, path: str) -> str:
    """A path out of a list of images; one that leaves the data set's folder is refused."""
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts:
        raise SetupError(f"{where} names the image {path!r}, which is not inside the data set: correct it.")
    return path
