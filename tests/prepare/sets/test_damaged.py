"""An official folder with a missing or damaged file is refused in one sentence, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from ..layouts import aircraft, cars, cub, flowers, grocery, pets
from ..running import prepare

MAKERS: dict[str, Callable[[Path], Path]] = {
    make.__name__: make for make in (cub, flowers, pets, cars, aircraft, grocery)
}
CARS_META = "devkit/cars_meta.mat"


def refusal(name: str, root: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which ``divek prepare`` ends."""
    prepare(name, "--data-root", root, out=out, status=2)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not out.exists()
    return error


@pytest.mark.parametrize(
    ("name", "gone", "page"),
    [
        *(
            ("cub", gone, "CUB-200-2011 from https://www.vision.caltech")
            for gone in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "images")
        ),
        *(
            ("cars", gone, "Stanford Cars from ")
            for gone in (CARS_META, "cars_test_annos_withlabels.mat", "cars_test", "cars_train")
        ),
        ("flowers", "cat_to_name.json", "Oxford Flowers"),
        ("grocery", "classes.csv", "the Grocery Store Dataset from https://github.com/marcusklasson"),
    ],
)
def test_what_is_missing_is_named_with_its_download_page(
    tmp_path: Path, name: str, gone: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = MAKERS[name](tmp_path / "raw")
    (root / gone).rename(tmp_path / "away")
    error = refusal(name, root, tmp_path / "out", capsys)
    assert error.startswith(f"error: {root / gone} is missing: download {page}")


@pytest.mark.parametrize(
    ("name", "file", "content", "sentence"),
    [
        ("cub", "train_test_split.txt", "1 1\n", "image 2 has no class or no side in the other files"),
        ("cub", "images.txt", "1 001.Black_footed_Albatross/x.jpg\n1 y.jpg\n", "holds id 1 twice"),
        ("cub", "images.txt", "x\n", "images.txt:1 is not an id and a value"),
        ("cub", "images.txt", "1 ../../x.jpg\n", "not inside the data set"),
        ("cub", "classes.txt", "2 001.Black_footed_Albatross\n", "does not number its classes 1, 2, 3"),
        ("flowers", "cat_to_name.json", '{"0": "rose"}', "does not name its classes"),
        ("flowers", "imagelabels.mat", "no MATLAB", "cannot be read as a MATLAB file"),
        ("flowers", "imagelabels.mat", {"other": [1]}, "holds no numbers named 'labels'"),
        ("flowers", "imagelabels.mat", {"labels": np.array([[1, 9]])}, "labels beyond the 5"),
        ("flowers", "setid.mat", {"trnid": [99], "valid": [1], "tstid": [2]}, "names image 99 of 50"),
        ("cars", "devkit/cars_train_annos.mat", {"class_names": [1]}, "holds no annotations with fname and class"),
        ("pets", "annotations/trainval.txt", "Bengal_7\n", "is not an image and its class"),
        (
            "pets",
            "annotations/trainval.txt",
            "Bengal_1 1 1 1\nBombay_7 1 1 1\n",
            "calls class 1 both 'bengal' and 'bombay'",
        ),
        ("grocery", "train.txt", "train/x.jpg, 8, 0\n", "train.txt:1 is not an image and a class of classes.csv"),
        ("grocery", "classes.csv", "Class\nKiwi,1,Kiwi,0\n", "does not number its classes 0, 1, 2"),
        ("aircraft", "images_variant_val.txt", "0034002 F-16A\n", "the variant 'F-16A', which is not in variants.txt"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(
    tmp_path: Path, name: str, file: str, content: Any, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = MAKERS[name](tmp_path / "raw")
    if isinstance(content, str):
        (root / file).write_text(content)
    else:
        savemat(root / file, content)
    assert sentence in refusal(name, root, tmp_path / "out", capsys)
