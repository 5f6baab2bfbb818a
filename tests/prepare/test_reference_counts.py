"""The numbers of images that published results of the method used, from lists of the official sizes.

No image is read: the lists alone say how many there are of each class.
"""

from pathlib import Path

from divek_verl.prepare.sets import aircraft, cub
from divek_verl.prepare.source import Source
from divek_verl.prepare.splits import EvalSplit, Plan, Planned, Setting, plan_splits

# Classes of CUB with 29 training images instead of 30, of 11,788 in all.
SHORT = {107, 126, 135, 141, 190, 196}
TEST_IMAGES = 5794


def sizes(planned: Planned) -> dict[str, int]:
    return {split.name: len(split.examples) for split in planned.splits}


def read_birds(tmp_path: Path) -> Source:
    (tmp_path / "images").mkdir()
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": [], "classes": []}
    for label in range(1, 201):
        trained = 29 if label in SHORT else 30
        tested = TEST_IMAGES // 200 + (label <= TEST_IMAGES % 200)
        lists["classes"].append(f"{label} {label:03d}.Bird_{label}")
        for index in range(trained + tested):
            number = len(lists["images"]) + 1
            lists["images"].append(f"{number} {label:03d}.Bird_{label}/{index}.jpg")
            lists["image_class_labels"].append(f"{number} {label}")
            lists["train_test_split"].append(f"{number} {int(index < trained)}")
    for name, lines in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    return cub.read(tmp_path)


def read_planes(tmp_path: Path) -> Source:
    """34 or 33 images of each variant in each part, 10,000 in all."""
    (tmp_path / "images").mkdir()
    (tmp_path / "variants.txt").write_text("\n".join(f"Variant {label}" for label in range(100)))
    number = 0
    for offset, part in enumerate(("train", "val", "test")):
        lines = []
        for label in range(100):
            for _ in range(34 if label % 3 == offset else 33):
                number += 1
                lines.append(f"{number:07d} Variant {label}")
        (tmp_path / f"images_variant_{part}.txt").write_text("\n".join(lines))
    return aircraft.read(tmp_path)


def test_cub(tmp_path: Path) -> None:
    birds = read_birds(tmp_path)
    assert sum(map(len, birds.parts.values())) == 11788
    assert sizes(plan_splits(birds, Plan())) == {"train": 2400, "val_base": 600, "val_new": 600}
    tested = plan_splits(birds, Plan(eval_split=EvalSplit.TEST))
    assert sizes(tested)["val_base"] + sizes(tested)["val_new"] == TEST_IMAGES
    assert sizes(plan_splits(birds, Plan(Setting.FEW_SHOT)))["train"] == 800


def test_aircraft(tmp_path: Path) -> None:
    planes = read_planes(tmp_path)
    assert {part: len(items) for part, items in planes.parts.items()} == {"train": 3334, "val": 3333, "test": 3333}
    assert sizes(plan_splits(planes, Plan())) == {"train": 1667, "val_base": 1667, "val_new": 1666}
    assert sizes(plan_splits(planes, Plan(Setting.FEW_SHOT)))["train"] == 400
