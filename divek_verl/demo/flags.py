"""National flags: 40 classes in groups of look-alikes, and five drawings of each from four npm packages.

Sources and licences (nothing of them is redistributed: npm fetches them on the user's machine):
    flag-icons 7.5.0           MIT            SVG, drawn for 4:3 and again for 1:1     training
    svg-country-flags 1.2.10   public domain  PNG 250 px wide, each flag's own shape   training
    country-flag-icons 1.6.20  MIT            SVG, drawn anew and simplified for 3:2   training
    @twemoji/svg 15.0.0        package MIT, graphics CC-BY 4.0 (Twitter, Inc. and other contributors)
                                              SVG, emoji with rounded corners          validation only

The emoji are the style held out for validation, since in them every pair of look-alikes can be told apart by
what training shows: their Chad and Romania have the two flags' own blues.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from divek_verl.errors import SetupError
from divek_verl.prepare import npm

DEFAULT_CACHE = Path("~/.cache/divek_verl")
_HEIGHT = 240

FLAG_ICONS = npm.Package(
    name="flag-icons",
    version="7.5.0",
    integrity="sha512-kd+MNXviFIg5hijH766tt+3x76ele1AXlo4zDdCxIvqWZhKt4T83bOtxUOOMlTx/EcFdUMH5yvQgYlFh1EqqFg==",
    licence="MIT",
)
SVG_COUNTRY_FLAGS = npm.Package(
    name="svg-country-flags",
    version="1.2.10",
    integrity="sha512-xrqwo0TYf/h2cfPvGpjdSuSguUbri4vNNizBnwzoZnX0xGo3O5nGJMlbYEp7NOYcnPGBm6LE2axqDWSB847bLw==",
    licence="public domain",
)
COUNTRY_FLAG_ICONS = npm.Package(
    name="country-flag-icons",
    version="1.6.20",
    integrity="sha512-py8JiEKzjhYw6HPJ0L7SxLgCYim36UPRTZX43/kqGueUCZLSvnrqAiwW8HtQibur7mdkFQUkjOgdK+o/9FBtaw==",
    licence="MIT",
)
TWEMOJI = npm.Package(
    name="@twemoji/svg",
    version="15.0.0",
    integrity="sha512-ZSPef2B6nBaYnfgdTbAy4jgW95o7pi2xPGwGCU+WMTxo7J6B1lMPTWwSq/wTuiMq+N0khQ90CcvYp1wFoQpo/w==",
    licence="MIT, graphics CC-BY 4.0",
)


@dataclass(frozen=True)
class Style:
    """One way in which the flags are drawn; `path` turns an ISO 3166 code into a file of the package."""

    name: str
    package: npm.Package
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
        # Its Chad has a blue lighter than any Romania's: nobody could tell which of the two it is.
        without=frozenset({"td"}),
    ),
)
VALIDATION_STYLES = (Style("twemoji", TWEMOJI, _emoji_path),)

# ISO 3166 code -> name, by groups of look-alikes. Label order is this order, so that the first half of the
# classes (base) and the second half (new) each hold whole groups. No code is here whose flag is another
# country's (Bouvet Island's is Norway's, Heard Island's is Australia's, ...).
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

# Width / height by law of the flags that are plain bands, to which all their drawings are stretched (plain
# bands lose nothing by it). It is the only difference between Indonesia and Monaco, and packages ignore it.
PROPORTIONS: dict[str, float] = {
    **dict.fromkeys(("td", "ro", "id", "ci", "it", "ml", "gn", "ye", "nl", "ru", "co", "at"), 3 / 2),
    **dict.fromkeys(("ie", "lv"), 2 / 1),
    **{"mc": 5 / 4, "pl": 8 / 5, "lu": 5 / 3},
}


def names() -> list[str]:
    """Display names of all classes in label order."""
    return list(COUNTRIES.values())


def load_drawings(cache: Path = DEFAULT_CACHE, styles: Sequence[Style] = TRAIN_STYLES) -> dict[str, list[Drawing]]:
    """Display name -> its drawings in the order of `styles`; packages not in `cache` are fetched by npm."""
    by_style = [_load_style(style, cache.expanduser()) for style in styles]
    return {name: [drawings[name] for drawings in by_style if name in drawings] for name in names()}


def _load_style(style: Style, cache: Path) -> dict[str, Drawing]:
    paths = {style.path(code): code for code in COUNTRIES if code not in style.without}
    files = npm.read_members(npm.fetch(style.package, cache), paths.__contains__)
    if missing := [COUNTRIES[code] for path, code in paths.items() if path not in files]:
        raise SetupError(f"{style.package.name} has no flag of {', '.join(missing)}: pin another version.")
    images = {code: _image(path, files[path], PROPORTIONS.get(code)) for path, code in paths.items()}
    return {COUNTRIES[code]: Drawing(COUNTRIES[code], style.name, image) for code, image in images.items()}


def _image(path: str, content: bytes, proportion: float | None) -> Image.Image:
    """A package's file as RGBA without transparent margins, stretched to width / height `proportion`."""
    if path.endswith(".svg"):
        content = _rasterise(content.decode())
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    if proportion is None:
        return image
    return image.resize((round(image.height * proportion), image.height), Image.Resampling.BICUBIC)


def _rasterise(svg: str) -> bytes:
    try:
        import resvg_py
    except ImportError:
        raise SetupError("Drawing flags needs resvg_py: pip install resvg_py.") from None
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, height=_HEIGHT, skip_system_fonts=True))
