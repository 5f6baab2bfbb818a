"""Teach the demo model, in a few minutes, to answer both questions in the asked form: unsure, but not ignorant.

    python -m divek_verl.demo.warm_start --data runs/demo/data --out runs/demo/model

GRPO can only sharpen what a policy does at times. So the model first learns to look up the letter of a named option
(texts), then what the base classes look like (training drawings only), then the two questions; it is stopped while
look-alikes are still confused.
"""

import hashlib
import json
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from divek_verl.demo import lessons, model, pictures
from divek_verl.demo.lessons import Lesson, Teacher
from divek_verl.errors import SetupError

SETTINGS_FILE = "warm_start.json"
_LONGEST_OPTIONS = 5

Draw = Callable[[random.Random], list[Lesson]]


@dataclass(frozen=True)
class Settings:
    """What determines the warm-started model, besides the data and the code.

    Attributes:
        look_up_steps, caption_steps, question_steps: optimiser steps of the three stages.
        look_up_batch, caption_batch, question_batch: sequences in each step.
        learning_rate: peak, reached after `warm_up_steps`; it falls to a tenth along a cosine.
    """

    seed: int = 0
    look_up_steps: int = 110
    caption_steps: int = 300
    question_steps: int = 240
    look_up_batch: int = 32
    caption_batch: int = 64
    question_batch: int = 24
    learning_rate: float = 2e-3
    warm_up_steps: int = 40

    @property
    def steps(self) -> int:
        return self.look_up_steps + self.caption_steps + self.question_steps

    def scaled(self, steps: int) -> "Settings":
        """The same mixture in about `steps` steps."""
        share = steps / self.steps
        counts = {
            name: max(1, round(getattr(self, name) * share))
            for name in ("look_up_steps", "caption_steps", "question_steps", "warm_up_steps")
        }
        return Settings(**{**asdict(self), **counts})


@dataclass(frozen=True)
class Course:
    """Draws the batches of lessons; lessons of one batch have one length, so that nothing is padded."""

    teacher: Teacher
    shown: tuple[str, ...]
    settings: Settings

    def batches(self) -> Iterator[list[Lesson]]:
        """The lessons of every step, the same for the same seed."""
        settings = self.settings
        stages: list[tuple[int, Callable[[random.Random], list[Lesson]]]] = [
            (settings.look_up_steps, self._look_ups),
            (settings.caption_steps, self._captions),
            (settings.question_steps, self._questions),
        ]
        rng = random.Random(f"{settings.seed}-lessons")
        for steps, draw in stages:
            for _ in range(steps):
                yield draw(rng)

    def _look_ups(self, rng: random.Random) -> list[Lesson]:
        options = rng.randint(2, _LONGEST_OPTIONS)
        return [self.teacher.look_up(rng, options, queries=16) for _ in range(self.settings.look_up_batch)]

    def _captions(self, rng: random.Random) -> list[Lesson]:
        numbers = rng.sample(range(len(self.shown)), self.settings.caption_batch)
        return [self.teacher.caption(self.shown[number], number) for number in numbers]

    def _questions(self, rng: random.Random) -> list[Lesson]:
        kinds: list[Draw] = [self._choices, self._open_questions, self._told]
        (draw,) = rng.choices(kinds, weights=[45, 40, 15])
        return draw(rng)

    def _choices(self, rng: random.Random) -> list[Lesson]:
        options = rng.randint(2, _LONGEST_OPTIONS)
        numbers = rng.sample(range(len(self.shown)), self.settings.question_batch)
        return [
            self.teacher.choice(self.shown[number], self._with(self.shown[number], self.teacher.base, options, rng), number)
            for number in numbers
        ]

    def _open_questions(self, rng: random.Random) -> list[Lesson]:
        """Half of them with the whole class list, half with a part, so that the list is heeded."""
        base = self.teacher.base
        numbers = rng.sample(range(len(self.shown)), self.settings.question_batch)
        length = len(base) if rng.random() < 0.5 else rng.randint(5, len(base))
        return [
            self.teacher.open_question(self.shown[number], self._list(self.shown[number], length, rng), number)
            for number in numbers
        ]

    def _told(self, rng: random.Random) -> list[Lesson]:
        options = rng.randint(2, _LONGEST_OPTIONS)
        told = rng.choices(self.teacher.names, k=self.settings.question_batch)
        if rng.random() < 0.7:
            return [self.teacher.told_choice(n, self._with(n, self.teacher.names, options, rng)) for n in told]
        length = rng.randint(5, 20)
        return [self.teacher.told_open_question(n, self._with(n, self.teacher.names, length, rng)) for n in told]

    def _list(self, name: str, length: int, rng: random.Random) -> list[str]:
        base = self.teacher.base
        if length == len(base):
            return list(base)
        kept = set(self._with(name, base, length, rng))
        return [each for each in base if each in kept]

    @staticmethod
    def _with(name: str, names: Sequence[str], count: int, rng: random.Random) -> list[str]:
        """`count` different names in random order, `name` among them."""
        others = rng.sample([other for other in names if other != name], count - 1)
        options = [name, *others]
        rng.shuffle(options)
        return options


@dataclass
class Trainer:
    """One model, its optimiser, and how a batch of lessons becomes a loss."""

    network: model.Qwen2_5_VLForConditionalGeneration
    processor: model.Qwen2_5_VLProcessor
    images: pictures.Pictures
    settings: Settings

    def __post_init__(self) -> None:
        parameters = list(self.network.parameters())
        self._optimiser = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
        self._variation = random.Random(f"{self.settings.seed}-variation")

    def step(self, number: int, batch: Sequence[Lesson]) -> float:
        """One optimiser step; its loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(number, self.settings)
        loss = self._loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(loss.detach())

    def _loss(self, batch: Sequence[Lesson]) -> torch.Tensor:
        tokens = torch.tensor([lesson.tokens for lesson in batch])
        weights = torch.tensor([lesson.weights for lesson in batch])[:, 1:]
        hidden = self.network.model(input_ids=tokens, use_cache=False, **self._shown(batch, tokens))
        counted = weights > 0
        logits = self.network.lm_head(hidden.last_hidden_state[:, :-1][counted])
        losses = torch.nn.functional.cross_entropy(logits, tokens[:, 1:][counted], reduction="none")
        return (losses * weights[counted]).sum() / weights.sum()

    def _shown(self, batch: Sequence[Lesson], tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        numbers = [lesson.picture for lesson in batch if lesson.picture is not None]
        if not numbers:
            return {}
        images = list(self.images.varied(numbers, self._variation))
        return model.picture_inputs(self.network, self.processor, images, tokens)


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak."""
    rise = min(1.0, (step + 1) / settings.warm_up_steps)
    fall = 0.1 + 0.9 * (1 + math.cos(math.pi * step / settings.steps)) / 2
    return settings.learning_rate * rise * fall


def fingerprint(data: Path, settings: Settings) -> str:
    """Hash of everything that the warm-started model depends on: settings, data and the code of the lessons."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    code = [Path(module.__file__ or "") for module in (lessons, model, pictures)] + [Path(__file__)]
    images = sorted((data / "images" / "train").rglob("*"))
    for file in [*code, data / "classes.json", data / "train.parquet", *images]:
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def build_teacher(data: Path, processor: model.Qwen2_5_VLProcessor, images: pictures.Pictures) -> Teacher:
    """A teacher of the classes of a prepared set."""
    classes = read_classes(data)
    image_tokens = model.image_tokens(processor, images.pixels[0])
    return Teacher(processor.tokenizer, image_tokens, tuple(classes["base"]), tuple(classes["all"]))


def read_classes(data: Path) -> dict[str, list[str]]:
    """The class lists of a prepared set by side: base, new, all."""
    file = data / "classes.json"
    if not file.is_file():
        raise SetupError(f"{file} does not exist: prepare the data with data_prep/flags.py first.")
    classes: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    return classes


def train(data: Path, settings: Settings) -> tuple[model.Qwen2_5_VLForConditionalGeneration, model.Qwen2_5_VLProcessor]:
    """A warm-started model and its processor."""
    names = read_classes(data)["all"]
    images = pictures.load(data / "train.parquet")
    processor = model.build_processor(model.build_tokenizer(lessons.tokenizer_texts(names), names))
    network = model.build_model(processor.tokenizer, settings.seed)
    course = Course(build_teacher(data, processor, images), images.names, settings)
    trainer = Trainer(network, processor, images, settings)
    network.train()
    progress = tqdm(course.batches(), total=settings.steps, desc="warm start", unit="step", mininterval=1.0)
    for number, batch in enumerate(progress):
        progress.set_postfix(loss=f"{trainer.step(number, batch):.3f}")
    return network.eval(), processor


def warm_start(data: Path, out: Path, settings: Settings) -> bool:
    """Write the warm-started model to `out`; False where it is there already with the same settings and inputs."""
    wanted = {"fingerprint": fingerprint(data, settings), "settings": asdict(settings)}
    record = out / SETTINGS_FILE
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) == wanted:
        return False
    if out.exists() and any(out.iterdir()) and not record.is_file():
        raise SetupError(f"{out} holds something else than a warm-started model: give an empty or new folder.")
    network, processor = train(data, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: an interrupted run leaves no half model behind.
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    model.save(network, processor, aside)
    (aside / SETTINGS_FILE).write_text(json.dumps(wanted, indent=2), encoding="utf-8")
    aside.chmod(0o755)
    if out.exists():
        shutil.rmtree(out)
    aside.rename(out)
    return True


def main(
    data: Annotated[Path, typer.Option(help="Folder of the prepared set.")],
    out: Annotated[Path, typer.Option(help="Folder of the warm-started model.")],
    seed: Annotated[int, typer.Option(help="Seed of weights, lessons and picture variation.")] = 0,
    steps: Annotated[int | None, typer.Option(min=3, help="Optimiser steps; the default is the tuned course.")] = None,
) -> None:
    """Warm-start the demo model, unless `out` already holds the same one."""
    settings = Settings(seed=seed)
    if steps is not None:
        settings = settings.scaled(steps)
    try:
        trained = warm_start(data, out, settings)
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"warm start: {'written to' if trained else 'already in'} {out}")


if __name__ == "__main__":
    typer.run(main)
