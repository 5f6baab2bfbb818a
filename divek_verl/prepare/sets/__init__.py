"""One file for each data set: its reader, its download page and the nouns of its questions."""

from divek_verl.prepare.sets import aircraft, cars, cub, flags, flowers, pets
from divek_verl.prompts import Wording

WORDINGS: dict[str, Wording] = {
    "cub": cub.CUB.wording,
    "flowers": flowers.FLOWERS.wording,
    "pets": pets.PETS.wording,
    "cars": cars.CARS.wording,
    "aircraft": aircraft.AIRCRAFT.wording,
    "flags": flags.WORDING,
}
