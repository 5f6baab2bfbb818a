"""The contact sheet: one self-contained page with a few pictures of each class."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from divek_verl.images import open_picture, upright_rgb
from divek_verl.prepare.stored import picture_of
from divek_verl.templates import environment

THUMBNAIL = (112, 84)
MAX_PICTURES = 3000  # about 9 MB of page


@dataclass(frozen=True)
class Thumbnail:
    """`source` is a data URL; None for a picture that cannot be read."""

    image_id: str
    source: str | None


@dataclass(frozen=True)
class Group:
    """The pictures of one class in one file, and how many rows it has there."""

    truth: str
    rows: int
    pictures: list[Thumbnail]


def write_sheet(folder: Path, names: Sequence[str], out: Path, per_class: int = 3) -> Path:
    """Writes the page for the parquet files `names` and returns its path."""
    left = MAX_PICTURES
    sections: dict[str, dict[str, list[Group]]] = {}
    for name in names:
        sections[name] = _groups(folder, name, per_class, left)
        left -= sum(len(group.pictures) for groups in sections[name].values() for group in groups)
    page = environment().get_template("sheet.html.j2").render(title=folder.resolve().name, sections=sections)
    out.write_text(page, encoding="utf-8")
    return out


def _groups(folder: Path, name: str, per_class: int, left: int) -> dict[str, list[Group]]:
    """Data source -> its classes in the order of the file; the pictures are the first ones of each class."""
    chosen: dict[str, dict[str, list[tuple[int, int]]]] = {}
    counts: dict[tuple[str, str], int] = {}
    with pq.ParquetFile(folder / f"{name}.parquet") as file:
        for group in range(file.num_row_groups):
            labels = file.read_row_group(group, columns=["data_source", "reward_model"]).to_pylist()
            for place, row in enumerate(labels):
                source, truth = row["data_source"], row["reward_model"]["ground_truth"]
                counts[source, truth] = counts.get((source, truth), 0) + 1
                places = chosen.setdefault(source, {}).setdefault(truth, [])
                if len(places) < per_class and left > 0:
                    places.append((group, place))
                    left -= 1
        wanted = [place for classes in chosen.values() for places in classes.values() for place in places]
        pictures = dict(_thumbnails(file, folder, wanted))
    return {
        source: [Group(truth, counts[source, truth], [pictures[at] for at in each]) for truth, each in by.items()]
        for source, by in chosen.items()
    }


def _thumbnails(
    file: pq.ParquetFile, folder: Path, places: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], Thumbnail]]:
    """The pictures at (row group, row); a row group is read once."""
    for group in sorted({group for group, _ in places}):
        rows = file.read_row_group(group, columns=["images", "extra_info"])
        for place in sorted(place for at, place in places if at == group):
            row = rows.slice(place, 1).to_pylist()[0]
            yield (group, place), Thumbnail(row["extra_info"]["image_id"], _thumbnail(row, folder))


def _thumbnail(row: dict[str, Any], folder: Path) -> str | None:
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
