"""National flags: 40 classes in groups of look-alikes, and five drawings of each from four npm packages.

Sources and licences (nothing of them is redistributed: npm fetches them on the user's machine):
    flag-icons 7.5.0           MIT            SVG, drawn for 4:3 and again for 1:1     training
    svg-country-flags 1.2.10   public domain  PNG 250 px wide, each flag's own shape   training
    country-flag-icons 1.6.20  MIT            SVG, drawn anew and simplified for 3:2   training
    @twemoji/svg 15.0.0        package MIT, graphics CC-BY 4.0 (Twitter, Inc. and other contributors)
                                              SVG, emoji with rounded corners          validation only

The emoji are held out for validation: in them, every pair of look-alikes can be told apart by what training shows
(their Chad and Romania have the two flags' own blues).
"""

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from divek_verl.errors import SetupError

DEFAULT_CACHE = Path("~/.cache/divek_verl")
_HEIGHT = 240


@dataclass(frozen=True)
class Package:
    """A package of the npm registry; `integrity` is its published hash, "sha512-<base64>"."""

    name: str
    version: str
    integrity: str

    @property
    def archive_name(self) -> str:
        """The file that `npm pack` makes: "@scope/name" becomes "scope-name"."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


FLAG_ICONS = Package(
    "flag-icons",
    "7.5.0",
    "sha512-kd+MNXviFIg5hijH766tt+3x76ele1AXlo4zDdCxIvqWZhKt4T83bOtxUOOMlTx/EcFdUMH5yvQgYlFh1EqqFg==",
)
SVG_COUNTRY_FLAGS = Package(
    "svg-country-flags",
    "1.2.10",
    "sha512-xrqwo0TYf/h2cfPvGpjdSuSguUbri4vNNizBnwzoZnX0xGo3O5nGJMlbYEp7NOYcnPGBm6LE2axqDWSB847bLw==",
)
COUNTRY_FLAG_ICONS = Package(
    "country-flag-icons",
    "1.6.20",
    "sha512-py8JiEKzjhYw6HPJ0L7SxLgCYim36UPRTZX43/kqGueUCZLSvnrqAiwW8HtQibur7mdkFQUkjOgdK+o/9FBtaw==",
)
TWEMOJI = Package(
    "@twemoji/svg",
    "15.0.0",
    "sha512-ZSPef2B6nBaYnfgdTbAy4jgW95o7pi2xPGwGCU+WMTxo7J6B1lMPTWwSq/wTuiMq+N0khQ90CcvYp1wFoQpo/w==",
)


@dataclass(frozen=True)
class Style:
    """One way of drawing the flags; `path` gives the file of an ISO 3166 code, `without` names missing codes."""

    name: str
    package: Package
    path: Callable[[str], str]
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Drawing:
    """One drawing of one flag, flat and unaugmented (RGBA, between 100 and 240 pixels high)."""

    country: str
    style: str
    image: Image.Image


def _emoji_path(code: str) -> str:
    """A flag's emoji is two regional indicator symbols, U+1F1E6 for A to U+1F1FF for Z."""
    return "-".join(f"{0x1F1E6 + ord(letter) - ord('a'):x}" for letter in code) + ".svg"


TRAIN_STYLES = (
    Style("flag-icons-4x3", FLAG_ICONS, lambda code: f"flags/4x3/{code}.svg"),
    Style("flag-icons-1x1", FLAG_ICONS, lambda code: f"flags/1x1/{code}.svg"),
    Style("svg-country-flags", SVG_COUNTRY_FLAGS, lambda code: f"png250px/{code}.png"),
    Style(
        "country-flag-icons",
        COUNTRY_FLAG_ICONS,
        lambda code: f"3x2/{code.upper()}.svg",
        # The blue of its Chad is lighter than any Romania's, so nobody could tell the two apart.
        without=frozenset({"td"}),
    ),
)
VALIDATION_STYLES = (Style("twemoji", TWEMOJI, _emoji_path),)

# ISO 3166 code -> name, by groups of look-alikes, in label order: the first half of the classes (base) and the second
# (new) each hold whole groups. Codes with another country's flag are left out (Bouvet Island has Norway's, ...).
GROUPS: tuple[dict[str, str], ...] = (
    {"td": "Chad", "ro": "Romania", "md": "Moldova", "ad": "Andorra"},
    {"id": "Indonesia", "mc": "Monaco", "pl": "Poland"},
    {"ie": "Ireland", "ci": "Ivory Coast", "it": "Italy", "mx": "Mexico"},
    {"ml": "Mali", "gn": "Guinea", "sn": "Senegal", "cm": "Cameroon"},
    {"no": "Norway", "is": "Iceland"},
    {"eg": "Egypt", "iq": "Iraq", "ye": "Yemen"},
    {"au": "Australia", "nz": "New Zealand"},
    {"nl": "Netherlands", "lu": "Luxembourg", "py": "Paraguay", "hr": "Croatia"},
    {"sv": "El Salvador", "ni": "Nicaragua", "hn": "Honduras"},
    {"ru": "Russia", "si": "Slovenia", "sk": "Slovakia", "rs": "Serbia"},
    {"qa": "Qatar", "bh": "Bahrain"},
    {"co": "Colombia", "ec": "Ecuador", "ve": "Venezuela"},
    {"at": "Austria", "lv": "Latvia"},
)
COUNTRIES: dict[str, str] = {code: name for group in GROUPS for code, name in group.items()}

# The legal width / height of flags that are plain bands. Packages ignore it, but it is the only difference between
# Indonesia and Monaco; all drawings of these flags are stretched to it, which plain bands bear well.
PROPORTIONS: dict[str, float] = {
    **dict.fromkeys(("td", "ro", "id", "ci", "it", "ml", "gn", "ye", "nl", "ru", "co", "at"), 3 / 2),
    **dict.fromkeys(("ie", "lv"), 2 / 1),
    **{"mc": 5 / 4, "pl": 8 / 5, "lu": 5 / 3},
}


def load_drawings(cache: Path = DEFAULT_CACHE, styles: Sequence[Style] = TRAIN_STYLES) -> dict[str, list[Drawing]]:
    """Display name -> its drawings in the order of `styles`; npm fetches the packages that `cache` lacks."""
    by_style = [_load_style(style, cache.expanduser()) for style in styles]
    return {name: [drawings[name] for drawings in by_style if name in drawings] for name in COUNTRIES.values()}


def _load_style(style: Style, cache: Path) -> dict[str, Drawing]:
    paths = {style.path(code): code for code in COUNTRIES if code not in style.without}
    files = read_members(fetch(style.package, cache), paths.__contains__)
    if missing := [COUNTRIES[code] for path, code in paths.items() if path not in files]:
        raise SetupError(f"{style.package.name} has no flag of {', '.join(missing)}: pin another version.")
    images = {code: _image(path, files[path], PROPORTIONS.get(code)) for path, code in paths.items()}
    return {COUNTRIES[code]: Drawing(COUNTRIES[code], style.name, image) for code, image in images.items()}


def _image(path: str, content: bytes, proportion: float | None) -> Image.Image:
    """A package's file as RGBA without transparent margins, stretched to width / height `proportion`."""
    if path.endswith(".svg"):
        try:
            import resvg_py
        except ImportError:
            raise SetupError("Drawing flags needs resvg_py: pip install resvg_py.") from None
        content = bytes(resvg_py.svg_to_bytes(svg_string=content.decode(), height=_HEIGHT, skip_system_fonts=True))
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    if proportion is None:
        return image
    return image.resize((round(image.height * proportion), image.height), Image.Resampling.BICUBIC)


def integrity_of(archive: Path) -> str:
    """The hash of a file in npm's notation."""
    return "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()


def fetch(package: Package, cache: Path) -> Path:
    """The path of the package's archive in `cache`; `npm pack` downloads it if it is not there yet.

    Raises:
        SetupError: npm is missing, the download fails, or the archive is not the pinned one.
    """
    archive = cache / package.archive_name
    if archive.is_file() and integrity_of(archive) == package.integrity:
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm")
    if npm is None:
        raise SetupError(f"{package.name} is an npm package and npm is missing: install Node.js with npm.")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        # --ignore-scripts: only the package's files are wanted, nothing of it is run.
        command = [npm, "pack", f"{package.name}@{package.version}", "--ignore-scripts", "--silent"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        except subprocess.TimeoutExpired:
            raise SetupError(f"npm did not fetch {package.name} in 10 minutes: check the network.") from None
        downloaded = Path(folder) / package.archive_name
        if done.returncode != 0 or not downloaded.is_file():
            reason = " ".join(done.stderr.split())[-300:] or f"exit status {done.returncode}"
            raise SetupError(f"npm could not fetch {package.name}@{package.version}, check the network: {reason}")
        if integrity_of(downloaded) != package.integrity:
            raise SetupError(
                f"{package.name}@{package.version} is not the archive with hash {package.integrity}: "
                "check the registry that npm is set to and try again."
            )
        downloaded.replace(archive)
    return archive


def read_members(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The contents of the wanted files of an archive; paths start below npm's "package/"."""
    with tarfile.open(archive, "r:gz") as tar:
        return {
            path: content.read()
            for member in tar
            if wanted(path := member.name.removeprefix("package/")) and (content := tar.extractfile(member)) is not None
        }
