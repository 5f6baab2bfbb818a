"""Measures how fast preparation is, and whether its memory grows with the number of images.

    python benchmarks/data_prep.py --scale 1 --scale 10 --save

It makes up a set in the layout of CUB-200-2011 (200 classes, 11,788 JPEGs of 500x375 at scale 1) and prepares it twice
at each scale, each time in a process of its own: as `divek prepare cub` does by default, and with every image checked
(`divek prepare image_folder --setting all` on the same images). It prints images per second of wall-clock and of
processor time, and the peak memory of the process. On a machine that others use, processor time is the better measure.
"""

import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from divek_verl.prepare.folder import versions

CLASSES = 200
IMAGES = 11_788
SIZE = (500, 375)
# Number of different pictures; every file also differs by a comment that a decoder skips.
PATTERNS = 64
RESULTS = Path(__file__).parent / "results" / "data_prep.json"
# Limits for scale 1, and for the growth from the smallest to the largest scale.
MOST_SECONDS = 60.0
MOST_MEGABYTES = 1000.0
MOST_GROWTH_PER_IMAGE = 1000.0


@dataclass(frozen=True)
class Measured:
    """One preparation. `files`: images in the folder; `checked`: those decoded; the others are hashed or unused."""

    command: str
    scale: float
    files: int
    checked: int
    wall_seconds: float
    cpu_seconds: float
    peak_megabytes: float


def patterns() -> list[bytes]:
    """JPEGs with about the detail and size of photographs."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(PATTERNS):
        coarse = rng.integers(0, 256, (SIZE[1] // 25, SIZE[0] // 25, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
        content = io.BytesIO()
        Image.fromarray(noisy).save(content, "JPEG", quality=90)
        encoded.append(content.getvalue())
    return encoded


def with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture in other bytes: a comment segment after the start marker."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def fabricate(folder: Path, count: int) -> None:
    """CUB_200_2011 with `count` images, half of each class for training."""
    pictures = patterns()
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    for index in tqdm(range(count), "fabricate", unit="image"):
        label = index % CLASSES + 1
        image = f"{label:03d}.Bird_{label}/Bird_{label}_{index:06d}.jpg"
        path = folder / "images" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(with_comment(pictures[index % PATTERNS], image))
        for name, value in zip(lists, (image, label, index // CLASSES % 2), strict=True):
            lists[name].append(f"{index + 1} {value}")
    lists["classes"] = [f"{label} {label:03d}.Bird_{label}" for label in range(1, CLASSES + 1)]
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def commands(raw: Path, out: Path) -> Iterator[tuple[str, list[str]]]:
    """(name, arguments) of the preparations that are measured."""
    yield "cub", ["cub", "--data-root", str(raw), "--out", str(out)]
    images = str(raw / "images")
    yield "image_folder", ["image_folder", "--data-root", images, "--setting", "all", "--out", str(out)]


def measure(name: str, arguments: Sequence[str], scale: float, files: int, out: Path) -> Measured:
    """Run `divek prepare` in a process of its own, to measure its peak memory."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "divek_verl.cli", "prepare", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with status {os.waitstatus_to_exitcode(status)}")
    content = json.loads((out / "set.json").read_text())
    checked = sum(file["rows"] for file in content["files"].values())
    return Measured(name, scale, files, checked, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def run(scale: float, folder: Path) -> Iterator[Measured]:
    """All preparations at one scale."""
    files = round(IMAGES * scale)
    raw, out = folder / "CUB_200_2011", folder / "out"
    fabricate(raw, files)
    for name, arguments in commands(raw, out):
        yield measure(name, arguments, scale, files, out)
    shutil.rmtree(raw)


def claims(measured: Sequence[Measured]) -> dict[str, bool]:
    """Each claim about the measured scales, and whether it holds."""
    found = {}
    full = [each for each in measured if each.scale == 1]
    if full:
        found[f"at most {MOST_SECONDS:.0f} s at scale 1"] = all(each.wall_seconds <= MOST_SECONDS for each in full)
        # Processor time holds on a busy machine too.
        cpu = f"at most {MOST_SECONDS:.0f} s of processor time at scale 1"
        found[cpu] = all(each.cpu_seconds <= MOST_SECONDS for each in full)
    found[f"under {MOST_MEGABYTES:.0f} MB at every scale"] = all(e.peak_megabytes < MOST_MEGABYTES for e in measured)
    for name in dict.fromkeys(each.command for each in measured):
        growth = growth_per_image([each for each in measured if each.command == name])
        if growth is not None:
            sentence = f"{name}: memory flat (below {MOST_GROWTH_PER_IMAGE:.0f} bytes more for each image more)"
            found[sentence] = growth < MOST_GROWTH_PER_IMAGE
    return found


def growth_per_image(measured: Sequence[Measured]) -> float | None:
    """Bytes of peak memory for each further image; None for a single scale."""
    least, most = min(measured, key=lambda each: each.files), max(measured, key=lambda each: each.files)
    if least.files == most.files:
        return None
    return (most.peak_megabytes - least.peak_megabytes) * 2**20 / (most.files - least.files)


def show(measured: Sequence[Measured]) -> None:
    table = Table("command", "scale", "files", "checked", "wall s", "files/s", "cpu s", "files/cpu s", "peak MB")
    for each in measured:
        rates = (each.wall_seconds, each.files / each.wall_seconds, each.cpu_seconds, each.files / each.cpu_seconds)
        numbers = (f"{each.scale:g}", str(each.files), str(each.checked), *(f"{rate:.1f}" for rate in rates))
        table.add_row(each.command, *numbers, f"{each.peak_megabytes:.0f}")
    Console(width=120).print(table)


def save(measured: Sequence[Measured], scales: Sequence[float]) -> None:
    wanted = len(scales) * len(list(commands(Path(), Path())))
    content = {
        "complete": len(measured) == wanted,
        "command": f"python benchmarks/data_prep.py {' '.join(f'--scale {scale:g}' for scale in scales)} --save",
        "image_size": SIZE,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "versions": versions(),
        "measured": [asdict(each) for each in measured],
        "claims": claims(measured),
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


def main(
    scale: Annotated[list[float] | None, typer.Option(help="Times 11,788 images; may be repeated.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where to fabricate images; by default a temporary folder.")
    ] = None,
    keep: Annotated[bool, typer.Option("--save", help=f"Write {RESULTS.name}.")] = False,
) -> None:
    """Measure the preparation of a data set."""
    scales = scale or [1.0]
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for each in scales:
            for found in run(each, Path(scratch)):
                measured.append(found)
                if keep:  # after each, because the larger scales take long and may be stopped
                    save(measured, scales)
    show(measured)
    for claim, holds in claims(measured).items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")


if __name__ == "__main__":
    typer.run(main)
