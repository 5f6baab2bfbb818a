"""The pictures of a prepared set as tensors, slightly moved and lit anew each time that they are shown."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from divek_verl.errors import SetupError

_SHIFT = 0.06
_ZOOM = 0.08
_LIGHT = 0.12


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size with their class names.

    Attributes:
        pixels: uint8, shape (pictures, 3, height, width).
        names: class name of each picture.
    """

    pixels: torch.Tensor
    names: tuple[str, ...]

    def varied(self, numbers: Sequence[int], rng: random.Random) -> torch.Tensor:
        """The pictures `numbers`, each shifted, zoomed and lit at random; uint8, shape (len, 3, height, width)."""
        shown = self.pixels[list(numbers)].float()
        transforms = torch.tensor([_affine(rng) for _ in numbers])
        grid = torch.nn.functional.affine_grid(transforms, list(shown.shape), align_corners=False)
        moved = torch.nn.functional.grid_sample(shown, grid, padding_mode="border", align_corners=False)
        light = torch.tensor([rng.uniform(1 - _LIGHT, 1 + _LIGHT) for _ in numbers])
        return (moved * light[:, None, None, None]).clamp(0, 255).round().to(torch.uint8)


def _affine(rng: random.Random) -> list[list[float]]:
    wide, high = (rng.uniform(1 - _ZOOM, 1 + _ZOOM) for _ in range(2))
    right, down, shear = (rng.uniform(-_SHIFT, _SHIFT) for _ in range(3))
    return [[wide, shear, right], [-shear, high, down]]


def load(file: Path) -> Pictures:
    """The pictures of one parquet file of a prepared set.

    Raises:
        SetupError: the file is missing, or its pictures differ in size.
    """
    if not file.is_file():
        raise SetupError(f"{file} does not exist: prepare the data with data_prep/flags.py first.")
    rows = pq.read_table(file, columns=["images", "reward_model"]).to_pylist()
    arrays = [_read(file.parent / row["images"][0]["image"]) for row in rows]
    if len({array.shape for array in arrays}) != 1:
        raise SetupError(f"The pictures of {file} differ in size or are none: prepare them anew, all of one size.")
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return Pictures(pixels, tuple(row["reward_model"]["ground_truth"] for row in rows))


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
