"""Class names: the canonical form by which spellings are compared, and the names of one class list."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from divek_verl.errors import SetupError

# Mapped before normalisation too, because NFKD turns the spacing accents (U+00B4) into a space and a mark.
_APOSTROPHES = "'`\u00b4\u2018\u2019\u201b\u02b9\u02bb\u02bc\u02bd\u02c8\u2032\u2035\u055a\ua78c\u1fbd\u1fbf"
_QUOTES = '"\u201a\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u2033\u2036\u301d\u301e\u301f\u02ba\u02ee'
_SEPARATORS = "/\u2044\u2215\u29f8\u2212\u2043\u02d7"
_TO_ASCII = str.maketrans(
    dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys(_QUOTES, '"') | dict.fromkeys(_SEPARATORS, " ")
)
# Unicode does not decompose these strokes and ligatures, so dropping marks alone misses them.
_PLAIN_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe"})
# The blocks of accents only: marks of other scripts (vowel signs, voicing marks) tell words apart.
_ACCENTS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
_POSSESSIVE = re.compile(r"(?<=\S)'s(?!\w)")
# Only short texts are cached: class names recur, long answers do not.
_LONGEST_CACHED = 200
_LONGEST_NAME = 1000
# What models write before the name although they are asked for the name alone: "Species name: X", "The breed is X".
_KIND = r"species|breed|make and model|make/model|model|variant|class|category|kind|product"
_PREFIX = re.compile(rf"\s*(?:the\s+)?(?:(?:{_KIND})(?:\s+name)?|name|answer)(?:\s*:|\s+is\b:?)\s*", re.IGNORECASE)


def canonical(name: str) -> str:
    """The normal form in which all spellings of a class are equal.

    It ignores case, accents, white space, ``_``, dashes, ``/``, quotes, trailing full stops and the possessive
    ``'s``. Separators become one space, so that digits on either side of them stay apart; other punctuation and a
    plain plural ``s`` are kept. Idempotent; the empty string if nothing is left. A text of more than 1,000 characters
    names no class: only its case, accents and white space are changed.
    """
    if len(name) <= _LONGEST_CACHED:
        return _canonical_of_short(name)
    text = " ".join(_ACCENTS.sub("", name).split())
    # Python sorts a long run of marks in quadratic time, and one character can decompose to eighteen.
    return _canonical(text) if len(text) <= _LONGEST_NAME else text.casefold()


def _canonical(name: str) -> str:
    # One letter for all its cases, accents and compatibility forms; one character for all apostrophes.
    text = unicodedata.normalize("NFKD", name.translate(_TO_ASCII)).casefold()
    text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    text = text.translate(_TO_ASCII).translate(_PLAIN_LETTERS).translate(_SPACE_OR_NOTHING)
    text = _POSSESSIVE.sub("", text).replace("'", "").replace('"', "")
    text = " ".join(text.split()).rstrip(". ")
    # Again, because a removed quote may leave two marks side by side that need an order.
    return unicodedata.normalize("NFKD", text)


_canonical_of_short = lru_cache(maxsize=8192)(_canonical)


class _SpaceOrNothing(dict[int, str | int | None]):
    """For ``str.translate``: dashes and connectors become a space, invisible format characters go, the rest stays."""

    def __missing__(self, code: int) -> str | int | None:
        category = unicodedata.category(chr(code))
        self[code] = " " if category in ("Pd", "Pc") else None if category == "Cf" else code
        return self[code]


_SPACE_OR_NOTHING = _SpaceOrNothing()


class ClassNames:
    """The class list of one side of a data set, with other spellings of its classes.

    ``aliases`` maps a class to its other spellings, ``{"Common Gull": ["Mew Gull"]}``, or a spelling to its
    class, ``{"Mew Gull": "Common Gull"}``.

    Raises:
        SetupError: the list or a name is empty, a name holds a line break, two classes or an alias and another
            class have the same canonical form, or an alias belongs to no class of the list.
    """

    def __init__(self, names: Iterable[str], aliases: Mapping[str, str | Sequence[str]] | None = None) -> None:
        if isinstance(names, str):
            raise SetupError(f"The class list is the single string {names!r}; give a list of names.")
        self.names: tuple[str, ...] = tuple(names)
        if not self.names:
            raise SetupError("The class list is empty; give at least one class name.")
        self._class_of: dict[str, str] = {}
        self._names = {name: name for name in self.names if isinstance(name, str)}
        for name in self.names:
            key = _checked_key(name)
            if other := self._class_of.get(key):
                raise SetupError(f"The classes {other!r} and {name!r} are one and the same; rename either.")
            self._class_of[key] = name
        spellings: dict[str, list[str]] = {}
        for key, value in (aliases or {}).items():
            pairs = [(key, value)] if isinstance(value, str) else [(alias, key) for alias in value]
            for alias, name in pairs:
                owner = self.match(name)
                if owner is None:
                    raise SetupError(f"The alias {alias!r} is for {name!r}, which is no class of the list; correct it.")
                other = self._class_of.setdefault(_checked_key(alias), owner)
                if other != owner:
                    raise SetupError(f"The alias {alias!r} of {owner!r} already names {other!r}; remove one of them.")
                spellings.setdefault(owner, []).append(alias)
        self.aliases = {name: tuple(others) for name, others in spellings.items()}

    def match(self, text: str) -> str | None:
        """The display name of the class that ``text`` names, by canonical form or alias; None if it names none."""
        # Fast path: most answers spell the class as the list does.
        return self._names[text] if text in self._names else self._class_of.get(canonical(text))

    def match_answer(self, answer: str) -> str | None:
        """The class that a model's answer names: as ``match``, else without a prefix such as "Species name:"."""
        name = self.match(answer)
        if name is None and (prefix := _PREFIX.match(answer)):
            name = self.match(answer[prefix.end() :])
        return name

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and self.match(text) is not None

    def __repr__(self) -> str:
        return f"ClassNames({list(self.names)!r}, aliases={self.aliases!r})"


def _checked_key(name: str) -> str:
    """The canonical form of a name, which must be text on one line with a letter or digit."""
    if not isinstance(name, str):
        raise SetupError(f"The class name {name!r} is not text; write it as a string.")
    key = canonical(name)
    if not key:
        raise SetupError(f"The class name {name!r} holds no letter or digit; give it a name.")
    if len(name.splitlines()) > 1:
        raise SetupError(f"The class name {name!r} holds a line break; write it on one line.")
    return key
