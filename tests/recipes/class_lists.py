"""Class lists with the count of each real set and names of its kind, to measure prompts with.

The sets themselves are not part of the project. Each list repeats a sample of names as the sets spell them, chosen to
be at least as long as their usual names, up to the number of classes.
"""

from itertools import cycle, islice

NAMES = {
    "cub": (
        "Black footed Albatross",
        "Great Crested Flycatcher",
        "Northern Rough winged Swallow",
        "Brewer Blackbird",
        "Nelson Sharp tailed Sparrow",
        "Olive sided Flycatcher",
        "Geococcyx",
        "White breasted Kingfisher",
        "American Three toed Woodpecker",
        "Slaty backed Gull",
    ),
    "flowers": (
        "pink primrose",
        "hard-leaved pocket orchid",
        "canterbury bells",
        "prince of wales feathers",
        "love in the mist",
        "mexican aster",
        "ruby-lipped cattleya",
        "bolero deep blue",
        "siam tulip",
        "tree mallow",
    ),
    "pets": (
        "american pit bull terrier",
        "english cocker spaniel",
        "german shorthaired",
        "staffordshire bull terrier",
        "west highland",
        "wheaten terrier",
        "Abyssinian",
        "British Shorthair",
    ),
    "cars": (
        "2012 Acura RL Sedan",
        "2007 Chevrolet Silverado 1500 Classic Extended Cab",
        "2012 Aston Martin Virage Convertible",
        "2012 Bentley Continental Supersports Conv. Convertible",
        "2007 BMW X5 SUV",
        "2009 Bugatti Veyron 16.4 Coupe",
        "2012 GMC Canyon Extended Cab",
        "2012 Mercedes-Benz C-Class Sedan",
        "2007 Dodge Dakota Crew Cab",
        "2012 Ferrari 458 Italia Convertible",
    ),
    "aircraft": (
        "707-320",
        "737-300",
        "A340-600",
        "Boeing 717",
        "C-130",
        "DHC-8-300",
        "F-16A/B",
        "Gulfstream IV",
        "MD-80",
    ),
}
COUNTS = {"cub": 200, "flowers": 102, "pets": 37, "cars": 196, "aircraft": 100}


def class_list(dataset: str, *, every_class: bool) -> list[str]:
    """As many names as the longer side of the base-to-novel division has, or as the whole set has."""
    count = COUNTS[dataset] if every_class else (COUNTS[dataset] + 1) // 2
    return list(islice(cycle(NAMES[dataset]), count))
