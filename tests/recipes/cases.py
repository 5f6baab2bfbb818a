"""The recipes that have to compose, and class lists to measure their prompts with."""

from itertools import cycle, islice

SETS = ("cub", "flowers", "pets", "cars", "aircraft")
TASKS = (*SETS, *(f"{name}_4shot" for name in SETS), "mixed")
METHODS = ("auto", "online", "paper", "random", "text", "two", "virft", "virft_list")
# (vlm, task, method, variant): every model with every task it is made for, and every variant.
RECIPES = [
    *((vlm, task, "online", "none") for vlm in ("qwen25vl_7b", "qwen25vl_3b") for task in TASKS),
    *(("qwen25vl_7b", "cub", "online", variant) for variant in ("fsdp1", "lora", "nnodes", "sglang")),
    ("qwen3vl_8b", "cub", "online", "none"),
]
# A method's file meets the same options in every recipe, so one task of each kind is enough.
KINDS = ("cub", "pets_4shot", "mixed")
COMBINATIONS = [
    *RECIPES,
    *(("qwen25vl_7b", task, method, "none") for task in KINDS for method in METHODS if method != "online"),
    ("qwen25vl_3b", "cub_4shot", "paper", "lora"),
]


def overrides(vlm: str = "qwen25vl_7b", task: str = "cub", method: str = "online", variant: str = "none") -> list[str]:
    """The overrides that make a recipe."""
    return [f"vlm={vlm}", f"task={task}", f"method={method}", f"variant={variant}"]


# The sets are not part of the project. Each list repeats a sample of names as the sets spell them, at least as long as
# their usual names, up to the number of classes.
_LISTED = {
    "cub": (
        "Black footed Albatross, Great Crested Flycatcher, Northern Rough winged Swallow, Brewer Blackbird, "
        "Nelson Sharp tailed Sparrow, Olive sided Flycatcher, Geococcyx, White breasted Kingfisher, American "
        "Three toed Woodpecker, Slaty backed Gull"
    ),
    "flowers": (
        "pink primrose, hard-leaved pocket orchid, canterbury bells, prince of wales feathers, love in the mist, "
        "mexican aster, ruby-lipped cattleya, bolero deep blue, siam tulip, tree mallow"
    ),
    "pets": (
        "american pit bull terrier, english cocker spaniel, german shorthaired, staffordshire bull terrier, west "
        "highland, wheaten terrier, Abyssinian, British Shorthair"
    ),
    "cars": (
        "2012 Acura RL Sedan, 2007 Chevrolet Silverado 1500 Classic Extended Cab, 2012 Aston Martin Virage "
        "Convertible, 2012 Bentley Continental Supersports Conv. Convertible, 2007 BMW X5 SUV, 2009 Bugatti "
        "Veyron 16.4 Coupe, 2012 GMC Canyon Extended Cab, 2012 Mercedes-Benz C-Class Sedan, 2007 Dodge Dakota "
        "Crew Cab, 2012 Ferrari 458 Italia Convertible"
    ),
    "aircraft": "707-320, 737-300, A340-600, Boeing 717, C-130, DHC-8-300, F-16A/B, Gulfstream IV, MD-80",
}
NAMES = {dataset: listed.split(", ") for dataset, listed in _LISTED.items()}
COUNTS = {"cub": 200, "flowers": 102, "pets": 37, "cars": 196, "aircraft": 100}


def class_list(dataset: str, *, every_class: bool) -> list[str]:
    """As many names as the longer side of the base-to-novel division has, or as the whole set has."""
    count = COUNTS[dataset] if every_class else (COUNTS[dataset] + 1) // 2
    return list(islice(cycle(NAMES[dataset]), count))
