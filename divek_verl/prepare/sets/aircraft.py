"""FGVC-Aircraft: 100 variants of aircraft, with official parts for training, validation and test."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from divek_verl.prepare.official import PARTS, Official, checked_path, read_coop_split
from divek_verl.prepare.source import Classes, Item, Part, Source
from divek_verl.prompts import Wording

AIRCRAFT = Official(
    name="aircraft",
    title="FGVC-Aircraft",
    topic="Aircraft by variant",
    wording=Wording("aircraft", "make and model"),
    url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    folders=("fgvc-aircraft-2013b", "fgvc_aircraft", "data"),
    markers=("variants.txt",),
)
# What people call the makers whose official names are longer.
SHORT_MAKERS = {
    "Bombardier Aerospace": "Bombardier",
    "Cirrus Aircraft": "Cirrus",
    "Dassault Aviation": "Dassault",
    "Douglas Aircraft Company": "Douglas",
    "Gulfstream Aerospace": "Gulfstream",
    "Lockheed Corporation": "Lockheed",
}


def read(data_root: Path, seed: int = 0) -> Source:
    """The official folder: `images/`, `variants.txt` and `images_variant_{train,val,test}.txt`."""
    folder = AIRCRAFT.find(data_root)
    root = AIRCRAFT.need(folder / "images")
    followed = read_coop_split(AIRCRAFT, folder, root)
    if followed is not None:
        return _with_spellings(followed, folder)
    names = [line for _, line in AIRCRAFT.lines(folder / "variants.txt")]
    labels = {name: label for label, name in enumerate(names)}
    if len(labels) < len(names):
        raise AIRCRAFT.damaged(folder / "variants.txt", "names a variant twice")
    parts: dict[Part, list[Item]] = {part: [] for part in PARTS}
    for part, items in parts.items():
        for where, line in AIRCRAFT.lines(folder / f"images_variant_{part}.txt"):
            # Only the first space divides: `1025794 Embraer Legacy 600`.
            image, _, variant = line.partition(" ")
            if variant not in labels:
                raise AIRCRAFT.damaged(where, f"names the variant {variant!r}, which is not in variants.txt")
            items.append(Item(checked_path(where, f"{image}.jpg"), labels[variant]))
    return _with_spellings(Source(AIRCRAFT.name, root, Classes(tuple(names)), parts, "the official parts"), folder)


def _with_spellings(source: Source, folder: Path) -> Source:
    """`Boeing 707-320` names `707-320` too, and so does its family `Boeing 707`, which holds no other variant."""
    makers, families = (_variants_to(level, source, folder) for level in ("manufacturer", "family"))
    variants_in = Counter(families.values())
    spellings: set[tuple[str, str]] = set()
    for variant in source.classes.all:
        maker, family = makers.get(variant, ""), families.get(variant, "")
        of_maker = {maker, SHORT_MAKERS.get(maker, maker)} - {""}
        names = {variant}
        if variants_in[family] == 1:
            # `707` too, because the set itself writes `707-320`; but not `70`, because it writes `Fokker 70`.
            without_maker = family.removeprefix(f"{maker} ")
            names |= {family, without_maker} if variant.startswith(without_maker) else {family}
        made = {f"{short} {name}" for short in of_maker for name in names if not name.startswith(f"{short} ")}
        spellings |= {(variant, name) for name in names | made}
    return replace(source, classes=source.classes.with_aliases(*sorted(spellings)))


def _variants_to(level: str, source: Source, folder: Path) -> dict[str, str]:
    """Variant -> its family or manufacturer, from `images_<level>_{train,val,test}.txt`; empty without these files."""
    of_image: dict[str, str] = {}
    for part in PARTS:
        if (path := folder / f"images_{level}_{part}.txt").exists():
            of_image |= dict(line.split(" ", 1) for _, line in AIRCRAFT.lines(path) if " " in line)
    items = [item for items in source.parts.values() for item in items]
    return {
        source.classes.all[item.label]: of_image[image]
        for item in items
        if (image := Path(item.image).stem) in of_image
    }
