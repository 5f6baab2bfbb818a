"""Rows in verl's schema."""

from typing import Any

import pyarrow as pa

from divek_verl.labels import ClassNames
from divek_verl.prepare.examples import Example, Split
from divek_verl.prompts import Wording, open_question, user_prompt

Row = dict[str, Any]


def schema_of(image: pa.DataType) -> pa.Schema:
    """The columns of a parquet file whose pictures are entries of the type `image`."""
    extra_info = {"index": pa.int64(), "split": pa.string(), "image_id": pa.string(), "dataset": pa.string()}
    return pa.schema(
        {
            "data_source": pa.string(),
            "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
            "images": pa.list_(image),
            "ability": pa.string(),
            "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
            "extra_info": pa.struct(extra_info),
        }
    )


SCHEMA = schema_of(pa.struct({"image": pa.string()}))
EMBEDDED_SCHEMA = schema_of(pa.struct({"bytes": pa.binary()}))
MIXED_SCHEMA = schema_of(pa.struct({"image": pa.string(), "bytes": pa.binary()}))


class RowBuilder:
    """Makes the rows of one split: the question about its class list is worded once."""

    def __init__(self, dataset: str, split: Split, classes: ClassNames, wording: Wording) -> None:
        self.dataset = dataset
        self.split = split
        self.prompt = user_prompt(open_question(wording, classes.names))

    def build(self, example: Example, index: int, content: bytes | None = None) -> Row:
        """Row `index` of the file: the open question about one image, by path or with its bytes `content`."""
        extra_info = {
            "index": index,
            "split": self.split.stage,
            "image_id": example.image_id,
            "dataset": self.dataset,
        }
        return {
            "data_source": f"divek/{self.dataset}/{self.split.side}",
            "prompt": self.prompt,
            "images": [{"image": example.image} if content is None else {"bytes": content}],
            "ability": "classification",
            "reward_model": {"style": "rule", "ground_truth": example.truth},
            "extra_info": extra_info,
        }
