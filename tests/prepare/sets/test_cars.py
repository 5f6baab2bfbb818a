"""Stanford Cars in its official layout, MATLAB files included."""

from pathlib import Path

import pytest

from divek_verl.prepare.sets.cars import read, year_first

from ..layouts import CARS, cars, zhou
from ..running import classes, counts, images, prepare, truths

NAMES = ["2000 AM General Hummer SUV", "2012 Acura RL Sedan", "1994 Audi 100 Wagon", "2012 Ram C/V Cargo Van Minivan"]


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Acura RL Sedan 2012", "2012 Acura RL Sedan"),
        ("2012 Acura RL Sedan", "2012 Acura RL Sedan"),
        ("Ram C/V Cargo Van Minivan 2012", "2012 Ram C/V Cargo Van Minivan"),
        ("Peugeot 208", "Peugeot 208"),
    ],
)
def test_the_year_of_a_name_comes_first(raw: str, name: str) -> None:
    assert year_first(raw) == name


def test_both_folders_of_images_are_used(tmp_path: Path) -> None:
    cars(tmp_path / "stanford_cars", trained=10, tested=4)
    reference = prepare("cars", "--data-root", tmp_path, out=tmp_path / "out")
    lists = {"base": NAMES[:2], "new": NAMES[2:], "all": NAMES}
    aliases = {year_first(name): [name] for name in CARS}
    assert classes(reference) == {**lists, "aliases": aliases, "wording": {"thing": "car", "kind": "make and model"}}
    assert counts(reference) == {"train": 16, "val_base": 4, "val_new": 4}
    assert all(image.startswith("cars_train/") for image in images(reference, "val_new"))
    tested = prepare("cars", "--data-root", tmp_path, "--eval-split", "test", out=tmp_path / "out")
    assert counts(tested) == {"train": 16, "val_base": 8, "val_new": 8}
    for image, truth in zip(images(tested, "val_new"), truths(tested, "val_new"), strict=True):
        year_last = CARS[(int(image[10:15]) - 1) % len(CARS)]
        assert truth.split()[0] == year_last.split()[-1]


def test_a_single_annotation_is_a_list_of_one(tmp_path: Path) -> None:
    """MATLAB files do not tell one element from a list of one."""
    cars(tmp_path, trained=1, tested=1, names=CARS[:2])
    out = prepare("cars", "--data-root", tmp_path, "--setting", "all", "--eval-split", "test", out=tmp_path / "out")
    assert counts(out) == {"train": 2, "val": 2}


def test_a_split_of_coop_names_images_from_the_sets_folder(tmp_path: Path) -> None:
    cars(tmp_path)
    (tmp_path / "devkit").rename(tmp_path / "away")
    entries = [(f"cars_train/{n:05d}.jpg", (n - 1) % 4, NAMES[(n - 1) % 4]) for n in range(1, 41)]
    zhou(tmp_path / "split_zhou_StanfordCars.json", {"train": entries[:28], "val": entries[28:], "test": []})
    out = prepare("cars", "--data-root", tmp_path, out=tmp_path / "out")
    assert counts(out) == {"train": 14, "val_base": 6, "val_new": 6}
    assert classes(out)["all"] == NAMES


@pytest.mark.parametrize("name", CARS)
def test_the_year_may_come_last(tmp_path: Path, name: str) -> None:
    classes = read(cars(tmp_path)).classes.of("all")
    assert classes.match(name) == year_first(name)
    assert classes.match(name.rpartition(" ")[0]) is None
