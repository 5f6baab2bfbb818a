"""Files of an npm package at a pinned version, fetched by npm itself and checked against a pinned hash."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from divek_verl.errors import SetupError


@dataclass(frozen=True)
class Package:
    """A package of the npm registry; `integrity` is its published hash, "sha512-<base64>"."""

    name: str
    version: str
    integrity: str
    licence: str

    @property
    def archive_name(self) -> str:
        """The file that `npm pack` makes: "@scope/name" becomes "scope-name"."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def integrity_of(archive: Path) -> str:
    """The hash of a file in npm's own notation, "sha512-<base64>"."""
    return "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()


def fetch(package: Package, cache: Path) -> Path:
    """Path of the package's archive in `cache`, downloaded by `npm pack` where it is not there yet.

    Raises SetupError where npm is missing, the download fails, or the archive is not the pinned one.
    """
    archive = cache / package.archive_name
    if archive.is_file() and integrity_of(archive) == package.integrity:
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _pack(package, Path(folder))
        downloaded = Path(folder) / package.archive_name
        if integrity_of(downloaded) != package.integrity:
            raise SetupError(
                f"{package.name}@{package.version} is not the archive with hash {package.integrity}: "
                "check the registry that npm is set to and try again."
            )
        downloaded.replace(archive)
    return archive


def read_members(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Contents of the files in an archive whose path (below npm's "package/") is wanted."""
    with tarfile.open(archive, "r:gz") as tar:
        return {
            path: content.read()
            for member in tar
            if wanted(path := member.name.removeprefix("package/")) and (content := tar.extractfile(member)) is not None
        }


def _pack(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise SetupError(f"{package.name} is an npm package and npm is missing: install Node.js with npm.")
    # --ignore-scripts: only the package's files are wanted, nothing of it is to be run.
    command = [npm, "pack", f"{package.name}@{package.version}", "--ignore-scripts", "--silent"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        raise SetupError(f"npm did not fetch {package.name} in 10 minutes: check the network.") from None
    if done.returncode != 0 or not (folder / package.archive_name).is_file():
        reason = " ".join(done.stderr.split())[-300:] or f"exit status {done.returncode}"
        raise SetupError(f"npm could not fetch {package.name}@{package.version}, check the network: {reason}")
