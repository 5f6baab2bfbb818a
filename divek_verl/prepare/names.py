"""Class names as people write them, and other spellings that stand for them."""

from collections import Counter
from collections.abc import Iterable, Sequence

from divek_verl.labels import canonical
from divek_verl.prepare.classes import Classes


def tidy(name: str) -> str:
    """A name without what file names put in it: underscores are spaces, no full stop at the end."""
    return " ".join(name.replace("_", " ").split()).rstrip(". ")


def year_first(name: str) -> str:
    """`AM General Hummer SUV 2000` as `2000 AM General Hummer SUV`; a name without a year at its end stays."""
    *words, last = name.split()
    return " ".join([last, *words]) if len(last) == 4 and last.isdigit() and words else " ".join(name.split())


def with_aliases(classes: Classes, *groups: Iterable[str]) -> Classes:
    """The classes with more spellings: whichever name of a group is a class has the others as aliases.

    A spelling that is a class itself, or that two groups would give to two classes, stands for nothing more.
    """
    of_class = {canonical(name): name for name in classes.all}
    spellings = {name: list(others) for name, others in classes.aliases.items()}
    for group in groups:
        members = list(group)
        found = {of_class[key] for key in map(canonical, members) if key in of_class}
        if len(found) == 1:
            name = found.pop()
            others = [member for member in members if canonical(member) not in of_class]
            spellings[name] = _once([*spellings.get(name, []), *others])
    claims = Counter(canonical(other) for others in spellings.values() for other in others)
    unclear = {key for key, count in claims.items() if count > 1}
    aliases = {
        name: [other for other in spellings.get(name, []) if canonical(other) not in unclear] for name in classes.all
    }
    return Classes(classes.all, {name: others for name, others in aliases.items() if others})


def _once(names: Sequence[str]) -> list[str]:
    """Without a second spelling of one canonical form."""
    return list({canonical(name): name for name in reversed(names)}.values())[::-1]
