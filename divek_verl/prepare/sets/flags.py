"""The demo's flags: look-alike national flags, one drawing style and half of the classes held out.

A flat drawing becomes small pictures of it, as if photographed: warp, crop, light, shadow, blur, noise. Colours are
only made lighter or darker, all channels alike. Hue is never changed, since for many flags (Chad and Romania, Ireland
and Ivory Coast) the colour or its position is all that tells two classes apart; pictures are never mirrored for the
same reason.
"""

import random
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from divek_verl.prepare import flag_drawings as flags
from divek_verl.prepare.folder import new_folder
from divek_verl.prepare.rows import Example, Split
from divek_verl.prepare.source import Classes
from divek_verl.prepare.write import write_set
from divek_verl.progress import progress
from divek_verl.prompts import Wording

WORDING = Wording("flag", "country or region")
SIZE = (112, 84)
_OVERSAMPLING = 2

Floats = NDArray[np.float32]
Point = tuple[float, float]


def draw_split(
    folder: Path, name: str, side: str, drawings: Sequence[Sequence[flags.Drawing]], per_class: int, seed: int
) -> Split:
    """Write the split `name`: `per_class` augmented pictures of each class, from its drawings in turn."""
    examples = []
    for of_class in progress(drawings, desc=f"draw {name}", unit="class"):
        for index, drawing in enumerate(islice(cycle(of_class), per_class)):
            image_id = f"{name}/{drawing.country.replace(' ', '_')}-{index:03d}-{drawing.style}"
            image = Path("images", f"{image_id}.png")
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            render(drawing.image, random.Random(f"{seed}-{image_id}")).save(folder / image)
            examples.append(Example(image.as_posix(), drawing.country, image_id))
    return Split(name, side, examples)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write, replaced if it holds a prepared set.")],
    seed: Annotated[int, typer.Option(help="Seed of the augmentation.")] = 0,
    cache: Annotated[Path, typer.Option(help="Folder of fetched packages.")] = flags.DEFAULT_CACHE,
    train_per_class: Annotated[int, typer.Option(min=1, help="Training images of each base class.")] = 40,
    val_per_class: Annotated[int, typer.Option(min=1, help="Validation images of each class.")] = 8,
    pretrain_per_class: Annotated[int, typer.Option(min=1, help="Images of every class for the warm start.")] = 24,
    swap: Annotated[bool, typer.Option("--swap", help="Exchange base and new classes.")] = False,
) -> None:
    """Prepare the flags of the demo."""
    half = len(flags.COUNTRIES) // 2
    names = tuple(flags.COUNTRIES.values())
    classes = Classes(names[half:] + names[:half] if swap else names)
    training = flags.load_drawings(cache, flags.TRAIN_STYLES)
    validation = flags.load_drawings(cache, flags.VALIDATION_STYLES)
    plan = (
        ("pretrain", "all", [training[name] for name in classes.all], pretrain_per_class),
        ("train", "base", [training[name] for name in classes.base], train_per_class),
        ("val_base", "base", [validation[name] for name in classes.base], val_per_class),
        ("val_new", "new", [validation[name] for name in classes.new], val_per_class),
    )
    with new_folder(out) as folder:
        splits = [draw_split(folder, *entry, seed) for entry in plan]
        write_set(folder, "flags", classes, splits, wording=WORDING)


def render(drawing: Image.Image, rng: random.Random, size: tuple[int, int] = SIZE) -> Image.Image:
    """One random RGB picture of `size` (width, height in pixels) showing an RGB(A) drawing."""
    canvas = (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING)
    picture = _background(canvas, rng)
    flag = _warp(drawing.convert("RGBA"), _corners(drawing.size, canvas, rng), canvas)
    picture.paste(flag, mask=flag.getchannel("A"))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.9) * _OVERSAMPLING))
    picture = picture.resize(size, Image.Resampling.BOX)
    pixels = np.asarray(picture, dtype=np.float32) * _light(size, rng)[..., None]
    noisy = pixels + _generator(rng).normal(0, rng.uniform(0, 5), pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))


def _generator(rng: random.Random) -> np.random.Generator:
    return np.random.default_rng(rng.getrandbits(64))


def _background(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Coarse coloured blotches, blown up smoothly: sky, wall or grass, never a flag's sharp edges."""
    width, height = rng.randint(2, 5), rng.randint(2, 4)
    brightness = _generator(rng).normal(rng.uniform(50, 200), 20, (height, width, 1))
    tint = np.array([rng.uniform(-25, 25) for _ in range(3)])
    blotches = brightness + tint + _generator(rng).normal(0, 8, (height, width, 3))
    small = Image.fromarray(blotches.clip(0, 255).astype(np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def _corners(drawing: tuple[int, int], canvas: tuple[int, int], rng: random.Random) -> list[Point]:
    """The targets of the drawing's corners, clockwise from top left; a few per cent may lie outside the canvas."""
    shape = drawing[0] / drawing[1] * rng.uniform(0.95, 1.05)
    width = min(canvas[0], canvas[1] * shape) * rng.uniform(0.8, 1.04)
    height = width / shape
    slack_x, slack_y = abs(canvas[0] - width) / 2, abs(canvas[1] - height) / 2
    left = (canvas[0] - width) / 2 + rng.uniform(-slack_x, slack_x)
    top = (canvas[1] - height) / 2 + rng.uniform(-slack_y, slack_y)
    corners = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    return [
        (left + width * (x + rng.uniform(-0.06, 0.06)), top + height * (y + rng.uniform(-0.06, 0.06)))
        for x, y in corners
    ]


def _warp(drawing: Image.Image, corners: list[Point], canvas: tuple[int, int]) -> Image.Image:
    """The drawing in perspective: its corners at `corners` of an otherwise transparent canvas."""
    width, height = drawing.size
    source = [(0, 0), (width, 0), (width, height), (0, height)]
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    coefficients = np.linalg.solve(np.array(rows, dtype=float), np.array(values, dtype=float))
    return drawing.transform(
        canvas, Image.Transform.PERSPECTIVE, tuple(coefficients.tolist()), Image.Resampling.BICUBIC
    )


def _light(size: tuple[int, int], rng: random.Random) -> Floats:
    """Brightness of each pixel, shape (height, width): exposure, a gradient, at times a soft shadow."""
    x, y = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]))
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    light = rng.uniform(0.88, 1.1) * (1 + rng.uniform(0, 0.12) * along)
    if rng.random() < 0.4:
        edge, softness = rng.uniform(-0.8, 0.8), rng.uniform(0.05, 0.4)
        light *= 1 - rng.uniform(0.1, 0.3) / (1 + np.exp(-(along - edge) / softness))
    return np.asarray(light, dtype=np.float32)
