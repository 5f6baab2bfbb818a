"""A workload for whoever gives none: noise pictures, and a small untrained model that answers at random."""

import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from divek_verl.demo.model import build_model, build_processor, build_tokenizer, save
from divek_verl.engines.options import EngineOptions, SamplingOptions
from divek_verl.engines.rows import PreparedRows
from divek_verl.engines.rows import read_rows as read_prepared_rows
from divek_verl.prepare import Classes, Example, Split, write_set
from divek_verl.prompts import Wording, open_question
from divek_verl.settings import DEFAULTS

CLASSES = Classes(("Chad", "Romania", "Moldova", "Andorra", "Mali", "Guinea", "Senegal", "Ireland", "Italy", "Mexico"))
SIZE = (112, 84)
# Prompts as long as those of the paper's data sets, whose class lists take 300 to 1,100 tokens of a real tokenizer.
LONG_SIZE = (448, 336)
TOKENS_OF_LONG_LIST = 500
PIXELS = {"min_pixels": DEFAULTS.min_pixels, "max_pixels": DEFAULTS.max_pixels}


def make_data(folder: Path, images: int, classes: Classes = CLASSES, size: tuple[int, int] = SIZE) -> Path:
    """``images`` rows with a picture each, no two alike; returns the parquet file."""
    (folder / "images").mkdir(parents=True)
    names = classes.base
    examples = []
    for index in range(images):
        noise = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path = Path("images", f"{index}.png")
        Image.fromarray(noise).save(folder / path)
        examples.append(Example(path.as_posix(), random.Random(index).choice(names), str(index)))
    write_set(folder, "flags", classes, [Split("train", "base", examples)])
    return folder / "train.parquet"


def make_long_data(folder: Path, images: int, model: Path) -> Path:
    """Rows whose pictures and class lists are as large as those of the paper's data sets."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    names = [f"Class {number:02}" for number in range(1, 100)]
    lengths = [len(tokenizer(", ".join(names[:count]))["input_ids"]) for count in range(len(names) + 1)]
    count = next((count for count, length in enumerate(lengths) if length >= TOKENS_OF_LONG_LIST), len(names))
    return make_data(folder, images, Classes(tuple(names[:count])), LONG_SIZE)


def make_model(folder: Path) -> Path:
    """The demo's architecture with random weights."""
    tokenizer = build_tokenizer([open_question(Wording(), CLASSES.base), "user assistant"], CLASSES.all)
    save(build_model(tokenizer, seed=0), build_processor(tokenizer), folder)
    return folder


def read_rows(data: Path, images: int | None = None) -> PreparedRows:
    return read_prepared_rows([data], **PIXELS, limit=images)


def sampling_options(samples: int, max_new_tokens: int, seed: int) -> SamplingOptions:
    """As in training, without the repetition penalty, which forbids a small model to repeat a one-token name."""
    return SamplingOptions(samples=samples, repetition_penalty=1.0, max_new_tokens=max_new_tokens, seed=seed)


def engine_options(model: Path, **more: Any) -> EngineOptions:
    return EngineOptions(str(model), **more)
