"""The data set that verl loads: rows with an open question about a picture."""

import asyncio
import os
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from omegaconf import DictConfig
from verl.utils.dataset.rl_dataset import RLHFDataset

from divek_verl import prompts
from divek_verl.class_lists import CLASSES_FILE, classes_of, image_root, wording_of
from divek_verl.errors import SetupError
from divek_verl.images import UPRIGHT, UnreadableImage, load_picture, open_picture, picture_entry, upright_size
from divek_verl.records import FailureReason
from divek_verl.reward import CLASS_FOLDER
from divek_verl.settings import read_settings
from divek_verl.trainer.configure import MANAGER
from divek_verl.trainer.questions import Message

Row = dict[str, Any]

# The column with the folder of a row's parquet file, where its class lists lie; the rollout gets it by this name.
ROOT_COLUMN = "image_root"
NAMED_ROWS = 5
# Rows with these values of extra_info.split are measured: none of them leaves the denominator.
VALIDATION_SPLITS = ("val", "test")


class DiveKDataset(RLHFDataset):
    """verl's ``RLHFDataset`` for rows whose pictures are paths beside the parquet file.

    It resolves those paths, bounds the pixels of each picture (``divek.min_pixels``, ``divek.max_pixels``), checks
    each truth against its class list, and names and counts the rows that it leaves out; verl's own filter drops
    unreadable and overlong rows silently. Rows of other data sources stay as verl reads them.

    Attributes:
        left_out: reason -> image ids of the training rows that cannot be asked.
        counted_wrong: reason -> image ids of the validation rows that cannot be asked; they stay and score 0.
    """

    def __init__(self, *args: object, config: DictConfig, **kwargs: object) -> None:
        settings = read_settings(config.divek)
        self._list_classes = settings.list_classes
        self._bounds = {"min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels}
        self._val_images, self._val_seed = settings.val_max_images, settings.seed
        self._longest_prompt = 0
        manager = str(config.get("divek_manager", MANAGER[1]))
        if not settings.allow_custom and manager.rpartition(".")[2] != MANAGER[1]:
            warnings.warn(
                f"The agent loop is {manager} and not {MANAGER[1]}: no DiVE-k question will be asked, and the reward "
                "refuses training rows without options.",
                stacklevel=2,
            )
        super().__init__(*args, config=config, **kwargs)

    def _read_files_and_tokenize(self) -> None:
        """Read the files as verl does, add each row's folder, and mix files of different schemas.

        Raises:
            SetupError: a row has no data source, or is DiVE-k's and cannot be asked (``prompts.check_stored_row``).
        """
        self.left_out: dict[FailureReason, list[str]] = {}
        self.counted_wrong: dict[FailureReason, list[str]] = {}
        parts = []
        for source, local in zip(self.original_data_files, self.data_files, strict=True):
            kind = "json" if str(local).endswith((".json", ".jsonl")) else "parquet"
            part = datasets.load_dataset(kind, data_files=local)["train"]
            for number, row in enumerate(part):
                prompts.check_stored_row(f"Row {number} of {source}", row, self.prompt_key, self.image_key)
            folder = str(Path(os.path.expanduser(source)).resolve().parent)
            part = part.add_column(ROOT_COLUMN, [folder] * len(part))
            parts.append(part if self._list_classes else part.map(self._without_list))
        rows = self._limit_validation(self._limit(_concatenate(parts)))
        self.dataframe = self.maybe_filter_out_long_prompts(rows)
        print(f"dataset len: {len(self.dataframe)}")

    def _without_list(self, row: Row) -> Row:
        """The row with the open question that lists no classes (``data.divek.list_classes=false``)."""
        if prompts.is_divek(row["data_source"]):
            wording = wording_of(row[ROOT_COLUMN], row["data_source"])
            row[self.prompt_key] = prompts.user_prompt(prompts.open_question(wording, ()))
        return row

    def _limit(self, rows: datasets.Dataset) -> datasets.Dataset:
        """At most ``max_samples`` rows: the first ones, or random ones with ``data.shuffle``."""
        if not 0 < self.max_samples < len(rows):
            return rows
        if not self.shuffle:
            return rows.select(range(self.max_samples))
        # The same generator and call as verl's, so that the same rows are taken.
        indices = np.random.default_rng(self.seed).choice(len(rows), size=self.max_samples, replace=False)
        return rows.select(np.atleast_1d(indices).tolist())

    def _limit_validation(self, rows: datasets.Dataset) -> datasets.Dataset:
        """At most ``divek.val_max_images`` validation rows of each data source of ours, in their order."""
        if self._val_images is None:
            return rows
        sources: dict[str, list[int]] = {}
        for index, (source, info) in enumerate(zip(rows["data_source"], rows["extra_info"], strict=True)):
            if prompts.is_divek(source) and (info or {}).get("split") in VALIDATION_SPLITS:
                sources.setdefault(source, []).append(index)
        left_out: set[int] = set()
        for source, found in sources.items():
            kept = random.Random(f"{self._val_seed}-{source}").sample(found, min(self._val_images, len(found)))
            left_out |= set(found) - set(kept)
            if len(kept) < len(found):
                print(f"divek_verl: validates on {len(kept)} of {len(found)} images of {source} (divek.val_max_images)")
        return rows.select([index for index in range(len(rows)) if index not in left_out])

    def maybe_filter_out_long_prompts(self, dataframe: datasets.Dataset) -> datasets.Dataset:
        """Leave out rows that cannot be asked, by reason; rows of other data sources keep verl's own filter.

        Raises:
            SetupError: a truth is not in its class list, or no row is left.
        """
        ours = [prompts.is_divek(source) for source in dataframe["data_source"]]
        if any(ours) and self.processor is None:
            raise SetupError(
                "The model has no processor, so verl would leave every picture out without a word: set "
                "actor_rollout_ref.model.path to a vision-language model."
            )
        kept = [index for index, mine in enumerate(ours) if mine and self._keep(dataframe[index])]
        parts = [dataframe.select(kept)]
        others = [index for index, mine in enumerate(ours) if not mine]
        if others:
            parts.append(super().maybe_filter_out_long_prompts(dataframe.select(others)))
        for outcome, found in (("left out", self.left_out), ("will count as wrong", self.counted_wrong)):
            for reason, images in sorted(found.items()):
                named = ", ".join(images[:NAMED_ROWS]) + (", ..." if len(images) > NAMED_ROWS else "")
                length = f"; the longest needs data.max_prompt_length={self._longest_prompt}"
                cure = length if reason == FailureReason.OVERLONG_PROMPT else ""
                print(f"divek_verl: {outcome} {len(images)} of {len(dataframe)} rows: {reason} ({named}){cure}")
        rows = _concatenate([part for part in parts if len(part)] or parts[:1])
        if not len(rows):
            cure = "see the reasons above"
            if self._longest_prompt > self.max_prompt_length:
                cure += f", the longest prompt needs data.max_prompt_length={self._longest_prompt}"
            raise SetupError(f"No row of {list(self.original_data_files)} can be used: {cure}.")
        return rows

    def _keep(self, row: Row) -> bool:
        """Whether a row stays; a row that cannot be asked is noted under its reason."""
        dataset, side = prompts.parse_data_source(row["data_source"])
        truth, extra_info = row["reward_model"]["ground_truth"], row.get("extra_info") or {}
        image_id = str(extra_info.get("image_id", extra_info.get("index", "?")))
        if classes_of(row[ROOT_COLUMN], row["data_source"]).match(truth) is None:
            raise SetupError(
                f"The truth {truth!r} of image {image_id} is not among the classes {side!r} of "
                f"{Path(row[ROOT_COLUMN]) / CLASSES_FILE}: prepare the data set {dataset} again."
            )
        root = image_root(row[ROOT_COLUMN], dataset)  # stops the run if the folder is gone
        try:
            tokens = sum(self._visual_tokens(image, root) for image in row[self.image_key])
        except (UnreadableImage, ValueError):  # ValueError: qwen-vl-utils cannot size it
            reason = FailureReason.UNREADABLE_IMAGE
        else:
            if not self.config.get("filter_overlong_prompts", False):
                return True
            tokens += self._text_tokens(row)
            self._longest_prompt = max(self._longest_prompt, tokens)
            if tokens <= self.max_prompt_length:
                return True
            reason = FailureReason.OVERLONG_PROMPT
        validates = extra_info.get("split") in VALIDATION_SPLITS
        found = self.counted_wrong if validates else self.left_out
        found.setdefault(reason, []).append(image_id)
        return validates

    def _visual_tokens(self, image: Mapping[str, Any], root: Path) -> int:
        """The tokens of a picture beyond its one placeholder, from its size alone (no pixel is decoded)."""
        from qwen_vl_utils.vision_process import SPATIAL_MERGE_SIZE, smart_resize

        content = image.get("bytes")
        with open_picture(root / image["image"] if content is None else content) as picture:
            width, height = upright_size(picture)
        if self.processor is None or not hasattr(self.processor, "_get_num_multimodal_tokens"):
            return 0
        factor = self.image_patch_size * SPATIAL_MERGE_SIZE
        counted = self.processor._get_num_multimodal_tokens(
            image_sizes=[smart_resize(height, width, factor=factor, **self._bounds)]
        )
        return int(counted["num_image_tokens"][0]) - 1

    def _text_tokens(self, row: Row) -> int:
        messages = [dict(message) for message in row[self.prompt_key]]
        options = {**self.apply_chat_template_kwargs, "add_generation_prompt": True, "tokenize": False}
        text = self.tokenizer.apply_chat_template(messages, **options)
        # The three tokens of an image (start, pad, end) replace the word that stands for it in the row.
        return len(self.tokenizer.encode(text.replace("<image>", ""), add_special_tokens=False)) + 3

    def __getitem__(self, item: int) -> Row:
        row: Row = super().__getitem__(item)
        if prompts.is_divek(row["data_source"]):
            # The reward of an open question finds the class list through this alone.
            row["extra_info"][CLASS_FOLDER] = row[ROOT_COLUMN]
        return row

    def _build_messages(self, example: Row, key: str) -> list[Message]:
        images = example.get(self.image_key) or []
        if prompts.is_divek(example["data_source"]):
            root = image_root(example[ROOT_COLUMN], prompts.parse_data_source(example["data_source"])[0])
            example[self.image_key] = [picture_entry(image, root, **self._bounds) for image in images]
        else:
            # verl would take a field that mixing filled with null for the picture's content.
            example[self.image_key] = [
                {name: value for name, value in image.items() if value is not None}
                if isinstance(image, dict)
                else image
                for image in images
            ]
        return super()._build_messages(example, key)

    @classmethod
    async def process_vision_info(cls, messages: list[Message], image_patch_size: int, config: DictConfig) -> object:
        upright = await asyncio.get_running_loop().run_in_executor(None, _upright, messages)
        return await super().process_vision_info(upright, image_patch_size, config)

    @classmethod
    def _process_multi_modal_info(cls, messages: list[Message], image_patch_size: int, config: DictConfig) -> object:
        return super()._process_multi_modal_info(_upright(messages), image_patch_size, config)


def _upright(messages: list[Message]) -> list[Message]:
    """The conversation with DiVE-k's pictures decoded and turned upright; verl's loader ignores EXIF orientation."""

    def decoded(part: Message) -> Message:
        return {**part, "image": load_picture(part["image"])} if part.get(UPRIGHT) else part

    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [decoded(part) for part in message["content"]]}
        for message in messages
    ]


def _concatenate(parts: list[datasets.Dataset]) -> datasets.Dataset:
    """One data set from several; a column that a part lacks (another task mixed in) becomes null there.

    Raises:
        SetupError: a column has types in two parts that cannot be merged.
    """
    if len(parts) == 1:
        return parts[0]
    if all(part.features == parts[0].features for part in parts):
        return datasets.concatenate_datasets(parts)
    tables = [part.with_format("arrow")[:] for part in parts]
    try:
        return datasets.Dataset(pa.concat_tables(tables, promote_options="permissive"))
    except pa.ArrowException as error:
        raise SetupError(f"The data files cannot be mixed, give their columns the same types: {error}") from error
