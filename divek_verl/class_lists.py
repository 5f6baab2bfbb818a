"""Reads the JSON files of a prepared set: class lists, wording, and the folder of its pictures.

A prepared set is a folder of parquet files with ``classes.json`` (the class list of each side, aliases and the wording
of its questions) and ``set.json`` (the folder that picture paths start from, and how the set was made). A mixed set has
these for each data set by name.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from divek_verl.errors import SetupError
from divek_verl.files import parse_json
from divek_verl.labels import ClassNames
from divek_verl.prompts import Wording, parse_data_source

CLASSES_FILE = "classes.json"
SET_FILE = "set.json"


@lru_cache(maxsize=64)
def load_classes(folder: str, side: str, dataset: str | None = None) -> ClassNames:
    """The class list of one side, from ``classes.json`` beside the parquet files.

    Args:
        folder: the prepared set.
        side: "base", "new" or "all".
        dataset: the data set whose list is read; only a mixed set needs it.

    Raises:
        SetupError: the file is missing, is no JSON, or holds no list for ``side`` (of ``dataset``).
    """
    content = _read_classes_file(folder, dataset)
    names, aliases = content.get(side), content.get("aliases", {})
    if not isinstance(names, list) or not isinstance(aliases, dict):
        raise SetupError(f"{Path(folder) / CLASSES_FILE} holds no list named {side!r}: prepare the data again.")
    listed = {name for name in names if isinstance(name, str)}
    return ClassNames(names, aliases={name: others for name, others in aliases.items() if name in listed})


@lru_cache(maxsize=64)
def load_wording(folder: str, dataset: str | None = None) -> Wording:
    """The nouns of a prepared set's questions, from ``classes.json``; generic where it holds none.

    Raises:
        SetupError: the file cannot be read, or its wording is not two nouns.
    """
    recorded = _read_classes_file(folder, dataset).get("wording", {})
    try:
        return Wording(**recorded)
    except (TypeError, AttributeError):
        path = Path(folder) / CLASSES_FILE
        example = '{"thing": "bird", "kind": "species"}'
        raise SetupError(f"{path} holds the wording {recorded!r}: write two nouns, such as {example}.") from None


def _read_classes_file(folder: str, dataset: str | None) -> dict[str, Any]:
    """The content of ``classes.json``; of a mixed set, the part of ``dataset``."""
    path = Path(folder) / CLASSES_FILE
    content = _read_object(path)
    if content is None:
        raise SetupError(f"{path} is missing: prepare the data again, it lists the classes of each side.")
    if isinstance(sets := content.get("sets"), dict):
        if dataset not in sets:
            raise SetupError(
                f"{path} lists the classes of {', '.join(sets)}, not of {dataset}: name one of its data sets."
            )
        content = sets[dataset]
        if not isinstance(content, dict):
            raise SetupError(f"{path} holds no class lists of {dataset}: prepare the data again.")
    return content


def _read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no file."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise SetupError(f"{path} is no JSON object: prepare the data again.")
    return content


def classes_of(folder: str, data_source: str) -> ClassNames:
    """The class list of a row, by its ``data_source`` and the folder of its parquet file."""
    dataset, side = parse_data_source(data_source)
    return load_classes(folder, side, dataset)


def wording_of(folder: str, data_source: str) -> Wording:
    """The nouns of a row's questions, by its ``data_source`` and the folder of its parquet file."""
    return load_wording(folder, parse_data_source(data_source)[0])


@lru_cache(maxsize=64)
def image_root(folder: str, dataset: str) -> Path:
    """The folder that picture paths of ``dataset`` start from; the set's own folder if none is recorded.

    It is recorded as an absolute and as a relative path, so that a set can be moved alone or with its pictures.

    Raises:
        SetupError: ``set.json`` is damaged, or neither folder exists.
    """
    roots = read_set_file(Path(folder)).get("image_roots", {})
    if not isinstance(roots, Mapping) or not isinstance(recorded := roots.get(dataset, {}), Mapping):
        raise SetupError(f"{Path(folder) / SET_FILE} holds no image roots: prepare the data again.")
    if not recorded:
        return Path(folder)
    candidates = [Path(folder, recorded[kind]) for kind in ("absolute", "relative") if kind in recorded]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise SetupError(
        f"The pictures of {dataset} are no longer in {candidates[-1]}: "
        f"move them back, or write their folder into {Path(folder) / SET_FILE}."
    )


def read_set_file(folder: Path) -> dict[str, Any]:
    """The content of ``set.json``; empty if there is none, as beside rows that other programs wrote.

    Raises:
        SetupError: the file is not a JSON object.
    """
    return _read_object(folder / SET_FILE) or {}
