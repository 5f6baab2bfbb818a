"""Lessons of the demo model before GRPO: prompts with their responses as token numbers, and the pictures they show.

Four kinds of lessons, from cheap to real:
    look-up   text only: `A. x`, `B. y`, then many `y B`: the letter beside a name
    telling   text only: a sentence names a class, the response repeats it with its letter
    caption   a picture and its name, without a question
    question  the two questions of DiVE-k as `divek_verl.prompts` words them, with their responses
The pictures are of all classes and from a split that GRPO never reads: the stand-in for pretraining.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from transformers import Qwen2Tokenizer

from divek_verl.class_lists import image_root
from divek_verl.errors import SetupError
from divek_verl.prompts import Wording, multiple_choice, open_question, parse_data_source
from divek_verl.question import Question

IMAGE = "<|image_pad|>"
# Side of a photograph as the demo model sees it: 4 x 4 image tokens.
SQUARE = 112
_GUESS = "It looks like"
# Shift, zoom and light, as shares, by which a picture is varied; photographs are also mirrored.
_DRAWING = (0.06, 0.08, 0.12)
_PHOTOGRAPH = (0.25, 0.4, 0.3)


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size (uint8, shape (pictures, 3, height, width)) with the class name of each."""

    pixels: torch.Tensor
    names: tuple[str, ...]
    photographs: bool = False

    @classmethod
    def load(cls, file: Path, square: int = SQUARE) -> "Pictures":
        """The pictures of one parquet file of a prepared set.

        Drawings must be of one size. Larger pictures are photographs, of which the middle becomes a `square`.
        """
        if not file.is_file():
            raise SetupError(f"{file} does not exist: prepare the data first.")
        rows = pq.read_table(file, columns=["images", "reward_model", "data_source"]).to_pylist()
        shown = []
        for row in rows:
            root = image_root(str(file.parent), parse_data_source(row["data_source"])[0])
            with Image.open(root / row["images"][0]["image"]) as image:
                shown.append(image.convert("RGB"))
        photographs = any(image.width * image.height > SQUARE**2 for image in shown)
        arrays = [np.asarray(ImageOps.fit(image, (square, square)) if photographs else image) for image in shown]
        if len({array.shape for array in arrays}) != 1:
            raise SetupError(f"{file} has no pictures, or pictures of different sizes: run data_prep/flags.py again.")
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        return cls(pixels, tuple(row["reward_model"]["ground_truth"] for row in rows), photographs)

    def varied(self, numbers: Sequence[int], rng: random.Random) -> torch.Tensor:
        """The pictures `numbers`, each shifted, zoomed and lit at random; uint8, shape (len, 3, height, width)."""
        transforms = []
        most_shift, most_zoom, most_light = _PHOTOGRAPH if self.photographs else _DRAWING
        for _ in numbers:
            wide, high = (rng.uniform(1 - most_zoom, 1 + most_zoom) for _ in range(2))
            right, down, shear = (rng.uniform(-most_shift, most_shift) for _ in range(3))
            if self.photographs and rng.random() < 0.5:
                wide, shear = -wide, -shear
            transforms.append([[wide, shear, right], [-shear, high, down]])
        shown = self.pixels[list(numbers)].float()
        grid = torch.nn.functional.affine_grid(torch.tensor(transforms), list(shown.shape), align_corners=False)
        moved = torch.nn.functional.grid_sample(shown, grid, padding_mode="border", align_corners=False)
        light = torch.tensor([rng.uniform(1 - most_light, 1 + most_light) for _ in numbers])
        return (moved * light[:, None, None, None]).clamp(0, 255).round().to(torch.uint8)


@dataclass(frozen=True)
class Lesson:
    """Tokens of prompt and response, their weights in the loss (0 for the prompt), and the picture's number."""

    tokens: list[int]
    weights: list[float]
    picture: int | None = None


def open_response(name: str) -> str:
    """The response to the open question that answers `name`."""
    return f"<think>{_GUESS} {name}</think><answer> {name}</answer>"


def choice_response(name: str, letter: str) -> str:
    """The class that the model sees, then its letter: a look-up over one step is the easiest to learn."""
    return f"<think>{_GUESS} {name} {letter}</think><answer> {letter}</answer>"


def told(wording: Wording, text: str, name: str) -> str:
    """A question that gives its answer away in words."""
    return f"This is {'the flag of ' if wording.thing == 'flag' else ''}{name}.\n{text}"


def tokenizer_texts(wording: Wording) -> list[str]:
    """All wordings that the model reads or writes, for training the tokenizer."""
    options = "\n".join(f"{letter}. {letter}" for letter in ascii_uppercase)
    questions = [told(wording, open_question(wording, [""]), ""), multiple_choice(wording, options)]
    responses = [open_response(""), *(choice_response("", letter) for letter in ascii_uppercase)]
    return [_GUESS, "user\nassistant\n", *questions, *responses]


@dataclass(frozen=True)
class Teacher:
    """Writes lessons about the names of both `sides`; everything random comes from the caller's `rng`."""

    tokenizer: Qwen2Tokenizer
    image_tokens: int
    sides: tuple[tuple[str, ...], tuple[str, ...]]
    wording: Wording

    @property
    def names(self) -> tuple[str, ...]:
        return self.sides[0] + self.sides[1]

    def side_of(self, name: str) -> tuple[str, ...]:
        """The class list that a picture of `name` is asked with."""
        return self.sides[name in self.sides[1]]

    def look_up(self, rng: random.Random, options: int) -> Lesson:
        """A list of `options` names with letters, then each of these names, followed by its letter.

        No name comes twice: its letter could be copied from the first time, without the list.
        """
        question = Question(tuple(rng.sample(self.names, options)), None, False)
        asked = rng.sample(range(options), options)
        lines = self._encode(question.text + "\n")
        pairs = self._encode("".join(f" {question.options[i]} {ascii_uppercase[i]}" for i in asked))
        return Lesson(lines + pairs, [0.0] * len(lines) + [0.0, 1.0] * options)

    def telling(self, rng: random.Random, options: int) -> Lesson:
        """The told question in short: a sentence that names one of `options` names, then that name and its letter."""
        question = Question(tuple(rng.sample(self.names, options)), rng.randrange(options), False)
        name = question.options[question.answer or 0]
        read = self._encode(told(self.wording, question.text, name) + f"\n{_GUESS}")
        said = self._encode(f" {name} {question.letter}")
        return Lesson(read + said, [0.0] * len(read) + [1.0] * len(said))

    def caption(self, name: str, picture: int) -> Lesson:
        """A picture, followed by its name."""
        text = self._encode(self.shown("") + f"{_GUESS} {name}")
        return Lesson(text, [0.0] * (len(text) - 1) + [1.0], picture)

    def open_question(self, name: str, listed: Sequence[str], picture: int | None) -> Lesson:
        """The open question with the class list `listed`, answered with `name`; without a picture, `name` is told."""
        text = open_question(self.wording, listed)
        return self._dialogue(text, name, open_response(name), picture)

    def choice(self, name: str, options: Sequence[str], picture: int | None) -> Lesson:
        """The multiple-choice question, answered with `name`; without a picture, `name` is told."""
        question = Question(tuple(options), options.index(name), False)
        text = multiple_choice(self.wording, question.text)
        return self._dialogue(text, name, choice_response(name, str(question.letter)), picture)

    def prompt(self, text: str) -> list[int]:
        """Tokens of one user message and of the start of the model's turn."""
        messages = [{"role": "user", "content": text}]
        return self._encode(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def shown(self, text: str) -> str:
        """`text` after the picture that it asks about."""
        return f"<|vision_start|>{IMAGE * self.image_tokens}<|vision_end|>{text}"

    def _dialogue(self, text: str, name: str, response: str, picture: int | None) -> Lesson:
        question = self.prompt(told(self.wording, text, name) if picture is None else self.shown(text))
        answer = self._encode(response + "<|im_end|>")
        # Names and letters count more than the form around them.
        words = [word.removeprefix("Ġ") for word in self.tokenizer.convert_ids_to_tokens(answer)]
        weights = [3.0 if word.startswith(" ") or word in ascii_uppercase else 0.5 for word in words]
        return Lesson(question + answer, [0.0] * len(question) + weights, picture)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])
