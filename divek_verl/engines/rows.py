"""The rows of prepared data as questions to an engine, read by the data set class that training uses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from divek_verl.class_lists import classes_of
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.prompts import is_ours

Key = tuple[str, str]


@dataclass(frozen=True)
class OpenQuestion:
    """One row: the open question about a picture.

    Attributes:
        messages: as an engine's ``Request`` wants them, the picture before the text.
        truth: display name of the true class.
    """

    data_source: str
    image_id: str
    truth: str
    classes: ClassNames
    messages: list[dict[str, Any]]

    @property
    def key(self) -> Key:
        return self.data_source, self.image_id


@dataclass
class OpenQuestions:
    """The rows of one or several files, each built when it is asked for.

    Attributes:
        keys: data source and image id of each row, in the order of the files; a repeated one is there once.
        left_out: reason -> image ids of the rows that cannot be asked.
        others: rows of other tasks, which have no open question.
        repeated: rows whose key came before.
    """

    dataset: Any
    keys: list[Key] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    others: int = 0
    repeated: int = 0
    _rows: dict[Key, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, key: Key) -> OpenQuestion:
        from divek_verl.trainer.dataset import ROOT_COLUMN

        row = self.dataset[self._rows[key]]
        classes = classes_of(row[ROOT_COLUMN], key[0])
        truth = row["reward_model"]["ground_truth"]
        return OpenQuestion(*key, classes.match(truth) or truth, classes, row["raw_prompt"])

    def class_lists(self) -> list[tuple[str, ClassNames]]:
        """Each data source with its class list.

        Raises:
            SetupError: a data source has another list in another file.
        """
        from divek_verl.trainer.dataset import ROOT_COLUMN

        rows = self.dataset.dataframe
        found: dict[str, ClassNames] = {}
        for source, root in sorted(set(zip(rows["data_source"], rows[ROOT_COLUMN], strict=True))):
            if not is_ours(source):
                continue
            classes = classes_of(root, source)
            if found.setdefault(source, classes).names != classes.names:
                raise SetupError(f"{source} has one class list in {root} and another elsewhere: mine them one by one.")
        return sorted(found.items())


def read_open_questions(
    files: Sequence[Path], *, min_pixels: int, max_pixels: int, limit: int | None = None
) -> OpenQuestions:
    """The rows of ``files``, at most ``limit`` of them; call ``prepare_machine`` before.

    Raises:
        SetupError: a file is missing, a pixel bound is wrong, or the data do not fit together.
    """
    from omegaconf import OmegaConf

    from divek_verl.trainer.dataset import DiveKDataset

    for file in files:
        if not file.is_file():
            raise SetupError(f"{file} does not exist: give a parquet file of prepared data.")
    divek = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    # A server brings its own processor: rows are only told that there is one.
    dataset = DiveKDataset(
        [str(file) for file in files],
        tokenizer=None,
        config=OmegaConf.create({"divek": divek}),
        processor=object(),
        max_samples=limit or -1,
    )
    return _indexed(dataset)


def _indexed(dataset: Any) -> OpenQuestions:
    found = OpenQuestions(dataset, left_out=dataset.left_out)
    columns = (dataset.dataframe["data_source"], dataset.dataframe["extra_info"])
    for number, (source, extra_info) in enumerate(zip(*columns, strict=True)):
        info = extra_info or {}
        key = (source, str(info.get("image_id", info.get("index", 0))))
        if not is_ours(source):
            found.others += 1
        elif key in found._rows:
            found.repeated += 1
        else:
            found._rows[key] = number
            found.keys.append(key)
    return found
