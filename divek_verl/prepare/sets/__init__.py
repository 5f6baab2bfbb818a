"""One file for each data set: its reader, its download page and the wording of its questions."""

from collections.abc import Callable
from pathlib import Path

from divek_verl.prepare.official import Official
from divek_verl.prepare.sets import aircraft, cars, cub, flags, flowers, grocery, pets
from divek_verl.prepare.source import Source
from divek_verl.prompts import Wording

# (--data-root, seed) -> source
Reader = Callable[[Path, int], Source]

# Each becomes a command of `divek prepare`.
OFFICIAL_SETS: tuple[tuple[Official, Reader], ...] = (
    (cub.CUB, cub.read),
    (flowers.FLOWERS, flowers.read),
    (pets.PETS, pets.read),
    (cars.CARS, cars.read),
    (aircraft.AIRCRAFT, aircraft.read),
    (grocery.GROCERY, grocery.read),
)
WORDINGS: dict[str, Wording] = {official.name: official.wording for official, _ in OFFICIAL_SETS}
WORDINGS["flags"] = flags.WORDING
