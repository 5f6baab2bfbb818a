"""Square copies of the Grocery Store Dataset: tower, start model, GRPO and evaluation all see the same 4 x 4 tokens."""

import shutil
from pathlib import Path

from PIL import Image, ImageOps

from divek_verl.errors import SetupError
from divek_verl.files import folder_aside
from divek_verl.prepare.official import PARTS
from divek_verl.prepare.sets import grocery
from divek_verl.progress import progress

# Pixels of a side, as the tower's teacher sees a photograph.
SIDE = 168
_SOURCE = "source.txt"


def copy_squares(data_root: Path, out: Path) -> None:
    """Copy the lists and the middle square of each photograph to `out`, unless they are there.

    Raises:
        SetupError: `data_root` is not the set's folder, or `out` holds copies of another one.
    """
    source = grocery.read(data_root)
    assert source.root is not None
    if out.is_dir():
        if (found := (out / _SOURCE).read_text(encoding="utf-8")) != str(source.root):
            raise SetupError(f"{out} holds copies of {found}: give that --data-root, or another --out.")
        return
    with folder_aside(out) as folder:
        for name in ("classes.csv", *(f"{part}.txt" for part in PARTS)):
            shutil.copyfile(source.root / name, folder / name)
        items = [item for part in source.parts.values() for item in part]
        for item in progress(items, desc="square copies", unit="photograph"):
            copy = folder / item.image
            copy.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(source.root / item.image) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
            if upright.size == (SIDE, SIDE):
                shutil.copyfile(source.root / item.image, copy)
            else:
                # Without loss, whatever the lists' names end with.
                ImageOps.fit(upright, (SIDE, SIDE)).save(copy, "PNG")
        (folder / _SOURCE).write_text(str(source.root), encoding="utf-8")
