"""Any image-classification set that `datasets` can load: a folder, a parquet file, or a name on the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from divek_verl.errors import SetupError
from divek_verl.images import UnreadableImage, open_picture, read_picture_file
from divek_verl.prepare.folder import IMAGES_FOLDER
from divek_verl.prepare.sets.image_folder import key_of
from divek_verl.prepare.source import Classes, Item, Part, Source, tidy
from divek_verl.progress import progress

if TYPE_CHECKING:
    from datasets import Dataset


def read(
    path: str,
    folder: Path,
    *,
    name: str | None = None,
    config: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    splits: dict[Part, str],
    class_names: Path | None = None,
) -> Source:
    """Write the images of each part's split into `folder` as they are; `class_names` names labels that are numbers."""
    import datasets

    loaded = load(path, config)
    parts: dict[Part, Dataset] = {}
    for part, split in splits.items():
        if split not in loaded:
            raise SetupError(f"{path} has no split {split!r}: use one of {', '.join(loaded)}.")
        rows = loaded[split]
        for option, column in (("image", image_column), ("label", label_column)):
            if column not in rows.column_names:
                columns = ", ".join(rows.column_names)
                raise SetupError(f"{path} has no column {column!r}: give --{option}-column one of {columns}.")
        # Images as encoded bytes instead of pixels.
        encoded = rows.select_columns([image_column, label_column]).cast_column(
            image_column, datasets.Image(decode=False)
        )
        parts[part] = encoded.rename_columns({image_column: "image", label_column: "label"})
    names = _names(path, parts["train"], class_names)
    labels = {value: label for label, value in enumerate(names)}
    items = {part: _export(rows, part, folder, labels) for part, rows in parts.items()}
    display = Classes(tuple(tidy(text) for text in names.values()))
    key = name or key_of(Path(path).stem if Path(path).exists() else path.rpartition("/")[2])
    return Source(key, None, display, items, f"the splits {', '.join(splits.values())} of {path}")


def load(path: str, config: str | None) -> Mapping[str, "Dataset"]:
    import datasets

    try:
        if Path(path, "dataset_dict.json").exists() or Path(path, "state.json").exists():
            loaded = datasets.load_from_disk(path)
        elif path.endswith(".parquet"):
            loaded = datasets.load_dataset("parquet", data_files=path)
        else:
            loaded = datasets.load_dataset(path, config)
    except Exception as error:  # each kind of source fails in its own way
        raise SetupError(f"datasets cannot load {path} ({' '.join(str(error).split())[:300]}): correct it.") from error
    return {"train": loaded} if isinstance(loaded, datasets.Dataset) else loaded


def _names(path: str, rows: "Dataset", file: Path | None) -> dict[object, str]:
    """The name of each value in the label column, in label order."""
    import datasets

    feature = rows.features["label"]
    if file is not None:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        return dict(enumerate(lines))
    if isinstance(feature, datasets.ClassLabel):
        return dict(enumerate(feature.names))
    values = sorted(set(rows["label"]))
    if not all(isinstance(value, str) for value in values):
        raise SetupError(f"The labels of {path} are numbers without names: give --class-names a file of them.")
    return {value: value for value in values}


def _export(rows: "Dataset", part: Part, folder: Path, labels: dict[object, int]) -> list[Item]:
    items = []
    (folder / IMAGES_FOLDER / part).mkdir(parents=True, exist_ok=True)
    for index, row in enumerate(progress(rows, desc=f"read {part}", unit="image")):
        # A missing image has no bytes; the check of pictures then refuses it as empty.
        image = row["image"] or {"bytes": b""}
        content = image["bytes"]
        if content is None:
            try:
                content = read_picture_file(Path(image["path"]))
            except UnreadableImage as error:
                raise SetupError(f"{image['path']} {error.problem}: fix the data set.") from None
        try:
            with open_picture(content) as picture:
                suffix = (picture.format or "bin").lower()
        except Exception:  # the check of the rows says what is wrong with it
            suffix = "bin"
        if row["label"] not in labels:
            raise SetupError(f"Row {index} of {part} has the label {row['label']!r}, which no class has: fix it.")
        path = f"{IMAGES_FOLDER}/{part}/{index:06d}.{suffix}"
        (folder / path).write_bytes(content)
        items.append(Item(path, labels[row["label"]]))
    return items
