"""Teach the demo model, in a few minutes, to answer both questions in the right form while it is still unsure.

    python -m divek_verl.demo.warm_start --data runs/demo/data --out runs/demo/model

GRPO only sharpens a policy that is already right sometimes and wrong sometimes. The stages:
    look-up    texts: the letter that stands beside a name
    telling    texts: repeat a name that the text tells
    captions   drawings of all classes with their names; the model's guesses are recorded while it still confuses
               look-alikes
    questions  the two questions, answered with the recorded guesses instead of the truth
The model learns the form and keeps answering with doubt, although it has come to see more than it says.
"""

import hashlib
import json
import math
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer

from divek_verl.class_lists import CLASSES_FILE, load_classes, load_wording
from divek_verl.demo import lessons, model
from divek_verl.demo.lessons import Lesson, Pictures, Teacher
from divek_verl.errors import SetupError
from divek_verl.files import folder_aside
from divek_verl.progress import progress

SETTINGS_FILE = "warm_start.json"
_MOST_OPTIONS = 5
_REPEATED_SHARE = 0.2
# Keeps every name possible, and makes impossible names equally likely.
_LEAST_SHARE = 0.002
_RECENT_BATCHES = 4
_RECENT_TEXTS = 20


@dataclass(frozen=True)
class Settings:
    """Everything that determines the warm-started model, besides the data and the code.

    Attributes:
        look_up_steps, telling_steps: at most so many optimiser steps of a stage, which ends when the right tokens have
            the probability `learned`: when that happens differs from seed to seed.
        caption_steps, question_steps: optimiser steps of each stage.
        confidence: guesses are recorded when captions give this probability to the right name, averaged over the
            last few batches; at the latest at the end of the stage.
        text_batch, caption_batch, question_batch: sequences per step; the first for look-up and telling.
        learning_rate: peak, reached after `rise_steps`; in the last stage it falls to a tenth along a cosine.
    """

    seed: int = 0
    look_up_steps: int = 600
    telling_steps: int = 600
    learned: float = 0.8
    caption_steps: int = 220
    question_steps: int = 360
    confidence: float = 0.2
    text_batch: int = 32
    caption_batch: int = 64
    question_batch: int = 24
    learning_rate: float = 2e-3
    rise_steps: int = 40

    def with_question_steps(self, steps: int) -> "Settings":
        """The same course with at most `steps` steps in each stage: too short to be good, long enough to try."""
        stages = ("look_up_steps", "telling_steps", "caption_steps")
        return replace(self, question_steps=steps, **{stage: min(steps, getattr(self, stage)) for stage in stages})


# The model is less sure of other photographs than of those that it learns from, so its guesses are recorded later.
PHOTOGRAPHS = Settings(confidence=0.4, question_steps=500)


@dataclass(frozen=True)
class Guesses:
    """The model's guesses for the training pictures.

    Attributes:
        names: all classes.
        shares: probability of each name, for each picture.
    """

    names: tuple[str, ...]
    shares: list[list[float]]

    def several(self, listed: Sequence[str], picture: int, count: int, rng: random.Random) -> list[str]:
        """`count` different names of `listed`, likely ones most often: the options that votes would give."""
        shares = dict(zip(self.names, self.shares[picture], strict=True))
        rest = {name: shares[name] for name in listed}
        drawn: list[str] = []
        for _ in range(count):
            drawn.append(_draw(rest, rng))
            del rest[drawn[-1]]
        return drawn

    def one_of(self, listed: Sequence[str], picture: int, rng: random.Random) -> str:
        """A guess among the names `listed`; any of them if none is likely."""
        shares = dict(zip(self.names, self.shares[picture], strict=True))
        return _draw({name: shares.get(name, 0.0) for name in listed}, rng)


def _draw(shares: Mapping[str, float], rng: random.Random) -> str:
    (name,) = rng.choices(list(shares), weights=[share + _LEAST_SHARE for share in shares.values()])
    return name


@dataclass(frozen=True)
class Course:
    """Draws batches of lessons; all lessons of a batch have the same length, so nothing is padded.

    Attributes:
        shown: class name of each training picture.
    """

    teacher: Teacher
    shown: tuple[str, ...]
    settings: Settings

    def look_ups(self, rng: random.Random) -> list[Lesson]:
        """Letters beside names, texts only."""
        options = _count(rng, 2, _MOST_OPTIONS, self.teacher.names)
        return [self.teacher.look_up(rng, options) for _ in range(self.settings.text_batch)]

    def tellings(self, rng: random.Random) -> list[Lesson]:
        """Names that are told and repeated, texts only; sometimes look-ups, so that they are not forgotten."""
        if rng.random() < 0.3:
            return self.look_ups(rng)
        options = _count(rng, 2, _MOST_OPTIONS, self.teacher.names)
        return [self.teacher.telling(rng, options) for _ in range(self.settings.text_batch)]

    def captions(self, rng: random.Random) -> list[Lesson]:
        """Pictures with the truth."""
        numbers = self._pictures(rng, self.settings.caption_batch)
        return [self.teacher.caption(self.shown[number], number) for number in numbers]

    def questions(self, rng: random.Random, guesses: Guesses) -> list[Lesson]:
        """One of the two questions, answered with `guesses` or with an answer that the text tells.

        Sometimes lessons of the earlier stages, so that they are not forgotten.
        """
        if rng.random() < _REPEATED_SHARE:
            return rng.choice([self.captions, self.tellings])(rng)
        (draw,) = rng.choices([self._choices, self._open_questions, self._told], weights=[40, 35, 25])
        return draw(rng, guesses)

    def _choices(self, rng: random.Random, guesses: Guesses) -> list[Lesson]:
        count = _count(rng, 2, _MOST_OPTIONS, min(self.teacher.sides, key=len))
        batch = []
        for number in self._pictures(rng, self.settings.question_batch):
            options = guesses.several(self.teacher.side_of(self.shown[number]), number, count, rng)
            rng.shuffle(options)
            batch.append(self.teacher.choice(guesses.one_of(options, number, rng), options, number))
        return batch

    def _open_questions(self, rng: random.Random, guesses: Guesses) -> list[Lesson]:
        """Half of the batches list a whole side, the others a part of it, so that the model heeds the list."""
        shorter = min(self.teacher.sides, key=len)
        count = len(shorter) if rng.random() < 0.5 else _count(rng, 5, len(shorter), shorter)
        batch = []
        for number in self._pictures(rng, self.settings.question_batch):
            names = self.teacher.side_of(self.shown[number])
            kept = set(rng.sample(names, count))
            listed = [name for name in names if name in kept]
            batch.append(self.teacher.open_question(guesses.one_of(listed, number, rng), listed, number))
        return batch

    def _told(self, rng: random.Random, guesses: Guesses) -> list[Lesson]:
        """Texts only, about all names."""
        teach, fewest, most = (
            (self.teacher.open_question, 5, 20) if rng.random() < 0.3 else (self.teacher.choice, 2, _MOST_OPTIONS)
        )
        count = _count(rng, fewest, most, self.teacher.names)
        lists = [rng.sample(self.teacher.names, count) for _ in range(self.settings.question_batch)]
        return [teach(rng.choice(names), names, None) for names in lists]

    def _pictures(self, rng: random.Random, count: int) -> list[int]:
        return rng.sample(range(len(self.shown)), min(count, len(self.shown)))


def _count(rng: random.Random, fewest: int, most: int, names: Sequence[str]) -> int:
    """A random number from `fewest` to `most`, at most the number of `names`."""
    return min(rng.randint(fewest, max(fewest, most)), len(names))


@dataclass
class Trainer:
    """A model with its optimiser."""

    network: model.Qwen2_5_VLForConditionalGeneration
    processor: model.Qwen2_5_VLProcessor
    images: Pictures
    settings: Settings

    def __post_init__(self) -> None:
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
        self._variation = random.Random(f"{self.settings.seed}-variation")

    def step(self, batch: Sequence[Lesson], learning_rate: float) -> float:
        """Take one optimiser step and return its loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        tokens = torch.tensor([lesson.tokens for lesson in batch])
        weights = torch.tensor([lesson.weights for lesson in batch])[:, 1:]
        counted = weights > 0
        logits = self.network.lm_head(self._hidden(batch, tokens)[:, :-1][counted])
        losses = torch.nn.functional.cross_entropy(logits, tokens[:, 1:][counted], reduction="none")
        loss = (losses * weights[counted]).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(loss.detach())

    def guesses(self, teacher: Teacher) -> Guesses:
        """The model's guesses for all training pictures."""
        numbers = torch.arange(len(self.images.names)).split(self.settings.caption_batch)
        pixels = torch.cat([self.images.varied(some.tolist(), self._variation) for some in numbers])
        shares = caption_shares(self.network, self.processor, teacher, pixels, teacher.names)
        return Guesses(teacher.names, shares.tolist())

    def _hidden(self, batch: Sequence[Lesson], tokens: torch.Tensor) -> torch.Tensor:
        numbers = [lesson.picture for lesson in batch if lesson.picture is not None]
        inputs = {}
        if numbers:
            images = list(self.images.varied(numbers, self._variation))
            inputs = model.picture_inputs(self.network, self.processor, images, tokens)
        return self.network.model(input_ids=tokens, use_cache=False, **inputs).last_hidden_state


@torch.inference_mode()
def caption_shares(
    network: model.Qwen2_5_VLForConditionalGeneration,
    processor: model.Qwen2_5_VLProcessor,
    teacher: Teacher,
    pixels: torch.Tensor,
    names: Sequence[str],
) -> torch.Tensor:
    """The probability of each of `names` as the caption of each picture, shape (pictures, names): what it sees."""
    columns = teacher.tokenizer.convert_tokens_to_ids([f" {name}" for name in names])
    # The last token is a name, whichever; the one before it predicts the name.
    caption = teacher.caption(names[0], 0).tokens
    rows = []
    for some in pixels.split(Settings.caption_batch):
        tokens = torch.tensor([caption] * len(some))
        inputs = model.picture_inputs(network, processor, list(some), tokens)
        hidden = network.model(input_ids=tokens, use_cache=False, **inputs).last_hidden_state
        rows.append(network.lm_head(hidden[:, -2])[:, columns].softmax(dim=-1))
    return torch.cat(rows)


def learning_rate(settings: Settings, step: int, question_step: int = 0) -> float:
    """A linear rise over the first steps; in the last stage a cosine down to a tenth."""
    rise = min(1.0, (step + 1) / settings.rise_steps)
    fall = 0.1 + 0.9 * (1 + math.cos(math.pi * question_step / settings.question_steps)) / 2
    return settings.learning_rate * rise * fall


def build_teacher(data: Path, processor: model.Qwen2_5_VLProcessor, images: Pictures) -> Teacher:
    """A teacher for the classes of a prepared set."""
    base, new = (load_classes(str(data), side).names for side in ("base", "new"))
    shown = model.image_tokens(processor, images.pixels[0])
    return Teacher(processor.tokenizer, shown, (base, new), load_wording(str(data)))


def train(
    data: Path, settings: Settings, tower: Path | None = None
) -> tuple[model.Qwen2_5_VLForConditionalGeneration, model.Qwen2_5_VLProcessor]:
    """A warm-started model and its processor; a trained vision `tower` stays as it is."""
    names = load_classes(str(data), "all").names
    images = Pictures.load(data / "pretrain.parquet")
    processor = model.build_processor(model.build_tokenizer(lessons.tokenizer_texts(load_wording(str(data))), names))
    network = model.build_model(processor.tokenizer, settings.seed, tower)
    if tower:
        # Else it is fitted to the few photographs, and others are recognised less often.
        network.model.visual.requires_grad_(False)
    trainer = Trainer(network, processor, images, settings)
    course = Course(build_teacher(data, processor, images), images.names, settings)
    rng = random.Random(f"{settings.seed}-lessons")
    network.train()
    taken = 0
    for stage, most, draw in (
        ("look-up", settings.look_up_steps, course.look_ups),
        ("telling", settings.telling_steps, course.tellings),
    ):
        losses = (trainer.step(draw(rng), learning_rate(settings, taken + step)) for step in _steps(stage, most))
        taken += until_learned(losses, settings.learned)
    recent, guesses = deque[float](maxlen=_RECENT_BATCHES), None
    for step in _steps("captions", settings.caption_steps):
        # Texts go on between the pictures: a model learns late and suddenly to repeat a told name.
        if step % 2:
            trainer.step(course.tellings(rng), settings.learning_rate)
        # exp(-loss) is the geometric mean of the probabilities of the right names.
        recent.append(math.exp(-trainer.step(course.captions(rng), settings.learning_rate)))
        if guesses is None and len(recent) == _RECENT_BATCHES and fmean(recent) >= settings.confidence:
            guesses = trainer.guesses(course.teacher)
    guesses = guesses or trainer.guesses(course.teacher)
    for step in _steps("questions", settings.question_steps):
        trainer.step(course.questions(rng, guesses), learning_rate(settings, taken, step))
    return network.eval(), processor


def until_learned(losses: Iterable[float], learned: float) -> int:
    """Take losses until the right tokens have the probability `learned`, averaged over the last few; how many."""
    recent, taken = deque[float](maxlen=_RECENT_TEXTS), 0
    for loss in losses:
        taken += 1
        recent.append(math.exp(-loss))
        if len(recent) == _RECENT_TEXTS and fmean(recent) >= learned:
            break
    return taken


def _steps(stage: str, count: int) -> Iterable[int]:
    return progress(range(count), desc=f"warm start: {stage}", unit="step", mininterval=1.0)


def warm_start(data: Path, out: Path, settings: Settings, tower: Path | None = None) -> bool:
    """Write the warm-started model to `out`; False if it is there already, made from the same settings and inputs."""
    load_classes(str(data), "all")
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    code = [Path(part.__file__ or "") for part in (lessons, model)] + [Path(__file__)]
    pictures = sorted((data / "images" / "pretrain").rglob("*"))
    parts = [tower / name for name in (model.TOWER_CONFIG, model.TOWER_WEIGHTS)] if tower else []
    for file in (*code, data / CLASSES_FILE, data / "pretrain.parquet", *pictures, *parts):
        if file.is_file():
            digest.update(file.read_bytes())
    wanted = {"fingerprint": digest.hexdigest(), "settings": asdict(settings)}
    record = out / SETTINGS_FILE
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) == wanted:
        return False
    if out.exists() and any(out.iterdir()) and not record.is_file():
        raise SetupError(f"{out} holds other files than a warm-started model: give an empty or new folder.")
    network, processor = train(data, settings, tower)
    with folder_aside(out) as folder:
        model.save(network, processor, folder)
        (folder / SETTINGS_FILE).write_text(json.dumps(wanted, indent=2), encoding="utf-8")
    return True


def main(
    data: Annotated[Path, typer.Option(help="Folder of the prepared set.")],
    out: Annotated[Path, typer.Option(help="Folder of the warm-started model.")],
    seed: Annotated[int, typer.Option(help="Seed of weights, lessons and picture variation.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of optimiser steps per stage, for a quick try.")
    ] = None,
    tower: Annotated[Path | None, typer.Option(help="Folder of a trained vision tower, for photographs.")] = None,
) -> None:
    """Warm-start the demo model, unless `out` already holds the same one."""
    model.use_one_thread()
    settings = replace(PHOTOGRAPHS if tower else Settings(), seed=seed)
    settings = settings if steps is None else settings.with_question_steps(steps)
    try:
        trained = warm_start(data, out, settings, tower)
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"warm start: {'written to' if trained else 'already in'} {out}")


if __name__ == "__main__":
    typer.run(main)
