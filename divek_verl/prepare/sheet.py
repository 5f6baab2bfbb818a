"""The contact sheet: one self-contained page with a few pictures of each class."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from divek_verl.images import open_picture, upright_rgb
from divek_verl.prepare.rows import Row, picture_of, rows_of
from divek_verl.templates import environment

THUMBNAIL = (112, 84)
MAX_PICTURES = 3000  # about 9 MB of page


@dataclass
class Group:
    """The first pictures of one class in one file, and the number of its rows there.

    `pictures` holds (image id, data URL); the URL is None for a picture that cannot be read.
    """

    truth: str
    rows: int = 0
    pictures: list[tuple[str, str | None]] = field(default_factory=list)


def write_sheet(folder: Path, names: Sequence[str], out: Path, per_class: int = 3) -> Path:
    """Write the page for the parquet files `names` and return its path."""
    left = MAX_PICTURES
    # file -> data source -> class, in the order of the rows
    sections: dict[str, dict[str, dict[str, Group]]] = {name: {} for name in names}
    for name, sources in sections.items():
        for row in rows_of(folder, name):
            truth = row["reward_model"]["ground_truth"]
            group = sources.setdefault(row["data_source"], {}).setdefault(truth, Group(truth))
            group.rows += 1
            if len(group.pictures) < per_class and left > 0:
                group.pictures.append((row["extra_info"]["image_id"], _thumbnail(row, folder)))
                left -= 1
    page = environment().get_template("sheet.html.j2").render(title=folder.resolve().name, sections=sections)
    out.write_text(page, encoding="utf-8")
    return out


def _thumbnail(row: Row, folder: Path) -> str | None:
    source = picture_of(row, folder)
    try:
        with open_picture(source) as picture:
            picture.draft("RGB", (THUMBNAIL[0] * 2, THUMBNAIL[1] * 2))  # JPEG: decode it small
            small = upright_rgb(picture)
    except Exception:  # whatever Pillow raises on a broken file
        return None
    small.thumbnail(THUMBNAIL)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
