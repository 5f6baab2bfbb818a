"""FGVC-Aircraft: 100 variants of aircraft, with official parts for training, validation and test."""

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


def read(data_root: Path, seed: int = 0) -> Source:
    """The official folder: `images/`, `variants.txt` and `images_variant_{train,val,test}.txt`."""
    folder = AIRCRAFT.find(data_root)
    root = AIRCRAFT.need(folder / "images")
    followed = read_coop_split(AIRCRAFT, folder, root)
    if followed is not None:
        return _with_makers(followed, folder)
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
    return _with_makers(Source(AIRCRAFT.name, root, Classes(tuple(names)), parts, "the official parts"), folder)


def _with_makers(source: Source, folder: Path) -> Source:
    """`Boeing 707-320` names `707-320` too; the makers come from `images_manufacturer_{train,val,test}.txt`."""
    makers: dict[str, str] = {}
    for part in PARTS:
        if (path := folder / f"images_manufacturer_{part}.txt").exists():
            makers |= dict(line.split(" ", 1) for _, line in AIRCRAFT.lines(path) if " " in line)
    spellings = {
        (source.classes.all[item.label], f"{maker} {source.classes.all[item.label]}")
        for items in source.parts.values()
        for item in items
        if (full := makers.get(Path(item.image).stem)) is not None
        for maker in (full, full.removesuffix(" Corporation"))
    }
    return replace(source, classes=source.classes.with_aliases(*sorted(spellings)))
