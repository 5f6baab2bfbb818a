"""Teach the demo model, in a few minutes, to answer both questions in the asked form: unsure, but not ignorant.

    python -m divek_verl.demo.warm_start --data runs/demo/data --out runs/demo/model

GRPO can only sharpen what a policy does at times, so the model must be right at times and wrong at times. It learns:
    look-up    from texts, to find the letter beside a name
    telling    from texts, to repeat a name that it is told
    captions   from training drawings of base classes, what these look like; its guesses are noted while it still
               confuses look-alikes
    questions  the two questions, answered with the noted guesses instead of the truth
The form is learned and the doubt stays, although the model has come to see more than it says.
"""

import hashlib
import json
import math
import random
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from divek_verl.demo import lessons, model, pictures
from divek_verl.demo.lessons import Lesson, Teacher
from divek_verl.errors import SetupError

SETTINGS_FILE = "warm_start.json"
_LONGEST_OPTIONS = 5
# Share of question batches about names that the picture cannot show: any listed name is then as good.
_STRANGE_SHARE = 0.2
_REPEATED_SHARE = 0.2
# Every name stays possible, and names that are all out of the question are equally likely.
_LEAST_SHARE = 0.002
_RECENT_BATCHES = 4


@dataclass(frozen=True)
class Settings:
    """What determines the warm-started model, besides the data and the code.

    Attributes:
        look_up_steps, telling_steps, caption_steps, question_steps: optimiser steps of the stages.
        confidence: the guesses are noted when the probability that captions give to the right name, averaged over
            the last few batches, reaches it, at the latest at the end of the stage.
        text_batch, caption_batch, question_batch: sequences in each step; the first for look-up and telling.
        learning_rate: peak, reached after `rise_steps`; it falls to a tenth in the last stage, along a cosine.
    """

    seed: int = 0
    look_up_steps: int = 100
    telling_steps: int = 120
    caption_steps: int = 110
    question_steps: int = 360
    confidence: float = 0.35
    text_batch: int = 32
    caption_batch: int = 64
    question_batch: int = 24
    learning_rate: float = 2e-3
    rise_steps: int = 40

    def with_question_steps(self, steps: int) -> "Settings":
        """The same course in at most `steps` steps of each stage: too short to be good, long enough to try it."""
        return replace(
            self,
            look_up_steps=min(steps, self.look_up_steps),
            telling_steps=min(steps, self.telling_steps),
            caption_steps=min(steps, self.caption_steps),
            question_steps=steps,
        )


@dataclass(frozen=True)
class Guesses:
    """What a model took the training pictures for.

    Attributes:
        names: base classes.
        shares: probability of each name, for each picture.
    """

    names: tuple[str, ...]
    shares: list[list[float]]

    def several(self, picture: int, count: int, rng: random.Random) -> list[str]:
        """`count` different names, the likely ones most often: what votes would turn into options."""
        rest = dict(zip(self.names, self.shares[picture], strict=True))
        drawn: list[str] = []
        for _ in range(count):
            drawn.append(_draw(rest, rng))
            del rest[drawn[-1]]
        return drawn

    def one_of(self, listed: Sequence[str], picture: int, rng: random.Random) -> str:
        """The guess among the names `listed`; any of them where none was ever likely."""
        shares = dict(zip(self.names, self.shares[picture], strict=True))
        return _draw({name: shares.get(name, 0.0) for name in listed}, rng)


def _draw(shares: Mapping[str, float], rng: random.Random) -> str:
    (name,) = rng.choices(list(shares), weights=[share + _LEAST_SHARE for share in shares.values()])
    return name


@dataclass(frozen=True)
class Course:
    """Draws the batches of lessons; lessons of one batch have one length, so that nothing is padded.

    Attributes:
        shown: class name of each training picture.
    """

    teacher: Teacher
    shown: tuple[str, ...]
    settings: Settings

    def look_ups(self, rng: random.Random) -> list[Lesson]:
        """Letters beside names, texts alone."""
        options = _up_to(rng, 2, _LONGEST_OPTIONS, self.teacher.names)
        return [self.teacher.look_up(rng, options, queries=16) for _ in range(self.settings.text_batch)]

    def tellings(self, rng: random.Random) -> list[Lesson]:
        """Mostly names that are told and repeated; at times look-ups, so that they stay alive. Texts alone."""
        if rng.random() < 0.3:
            return self.look_ups(rng)
        options = _up_to(rng, 2, _LONGEST_OPTIONS, self.teacher.names)
        return [self.teacher.telling(rng, options) for _ in range(self.settings.text_batch)]

    def captions(self, rng: random.Random) -> list[Lesson]:
        """Pictures with the truth."""
        numbers = self._pictures(rng, self.settings.caption_batch)
        return [self.teacher.caption(self.shown[number], number) for number in numbers]

    def questions(self, rng: random.Random, guesses: Guesses) -> list[Lesson]:
        """One of the two questions, about pictures with `guesses` as answers or with the answer told in words.

        Now and then lessons of the earlier stages, so that they are not forgotten.
        """
        if rng.random() < _REPEATED_SHARE:
            return rng.choice([self.captions, self.tellings])(rng)
        (draw,) = rng.choices([self._choices, self._open_questions, self._told], weights=[40, 35, 25])
        return draw(rng, guesses)

    def _choices(self, rng: random.Random, guesses: Guesses) -> list[Lesson]:
        strange = rng.random() < _STRANGE_SHARE
        count = _up_to(rng, 2, _LONGEST_OPTIONS, self.teacher.new if strange else self.teacher.base)
        lessons_ = []
        for number in self._pictures(rng, self.settings.question_batch):
            options = rng.sample(self.teacher.new, count) if strange else guesses.several(number, count, rng)
            rng.shuffle(options)
            lessons_.append(self.teacher.choice(guesses.one_of(options, number, rng), options, number))
        return lessons_

    def _open_questions(self, rng: random.Random, guesses: Guesses) -> list[Lesson]:
        """Half of them with a whole class list, the others with a part of it, so that the list is heeded."""
        names = self.teacher.new if rng.random() < _STRANGE_SHARE else self.teacher.base
        count = len(names) if rng.random() < 0.5 else _up_to(rng, 5, len(names), names)
        lessons_ = []
        for number in self._pictures(rng, self.settings.question_batch):
            kept = set(rng.sample(names, count))
            listed = [name for name in names if name in kept]
            lessons_.append(self.teacher.open_question(guesses.one_of(listed, number, rng), listed, number))
        return lessons_

    def _told(self, rng: random.Random, guesses: Guesses) -> list[Lesson]:
        """Texts alone, about all names."""
        open_question = rng.random() < 0.3
        count = _up_to(rng, *((5, 20) if open_question else (2, _LONGEST_OPTIONS)), self.teacher.names)
        teach = self.teacher.told_open_question if open_question else self.teacher.told_choice
        lists = [rng.sample(self.teacher.names, count) for _ in range(self.settings.question_batch)]
        return [teach(rng.choice(names), names) for names in lists]

    def _pictures(self, rng: random.Random, count: int) -> list[int]:
        return rng.sample(range(len(self.shown)), min(count, len(self.shown)))


def _up_to(rng: random.Random, fewest: int, most: int, names: Sequence[str]) -> int:
    """A random number of names from `fewest` to `most`, as far as there are so many."""
    return min(rng.randint(fewest, max(fewest, most)), len(names))


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

    def step(self, batch: Sequence[Lesson], learning_rate: float) -> float:
        """One optimiser step; its loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        loss = self._loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(loss.detach())

    @torch.inference_mode()
    def guesses(self, course: Course) -> "Guesses":
        """What the model takes every training picture for."""
        teacher = course.teacher
        columns = teacher.tokenizer.convert_tokens_to_ids([f" {name}" for name in teacher.base])
        rows = []
        for start in range(0, len(course.shown), course.settings.caption_batch):
            numbers = range(start, min(start + course.settings.caption_batch, len(course.shown)))
            batch = [teacher.caption(course.shown[number], number) for number in numbers]
            tokens = torch.tensor([lesson.tokens for lesson in batch])
            hidden = self.network.model(input_ids=tokens, use_cache=False, **self._shown(batch, tokens))
            rows.append(self.network.lm_head(hidden.last_hidden_state[:, -2])[:, columns].softmax(dim=-1))
        return Guesses(teacher.base, torch.cat(rows).tolist())

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


def learning_rate(settings: Settings, step: int, question_step: int = 0) -> float:
    """Linear rise over the first steps; in the last stage a cosine down to a tenth."""
    rise = min(1.0, (step + 1) / settings.rise_steps)
    fall = 0.1 + 0.9 * (1 + math.cos(math.pi * question_step / settings.question_steps)) / 2
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
    teach(Trainer(network, processor, images, settings), course)
    return network.eval(), processor


def teach(trainer: Trainer, course: Course) -> None:
    """The four stages, one after the other."""
    settings, rng = trainer.settings, random.Random(f"{trainer.settings.seed}-lessons")
    trainer.network.train()
    for step in _progress("look-up", settings.look_up_steps):
        trainer.step(course.look_ups(rng), learning_rate(settings, step))
    taken = settings.look_up_steps
    for step in _progress("telling", settings.telling_steps):
        trainer.step(course.tellings(rng), learning_rate(settings, taken + step))
    guesses = _captions(trainer, course, rng)
    for step in _progress("questions", settings.question_steps):
        trainer.step(course.questions(rng, guesses), learning_rate(settings, taken, step))


def _captions(trainer: Trainer, course: Course, rng: random.Random) -> Guesses:
    """The caption stage; the guesses are those of the moment when the model was about as sure as `confidence`.

    Texts go on between the pictures: to repeat a told name comes late, and then suddenly.
    """
    settings, recent, guesses = trainer.settings, deque[float](maxlen=_RECENT_BATCHES), None
    for step in _progress("captions", settings.caption_steps):
        if step % 2:
            trainer.step(course.tellings(rng), settings.learning_rate)
        # exp(-loss) is the geometric mean of the probabilities given to the right names.
        recent.append(math.exp(-trainer.step(course.captions(rng), settings.learning_rate)))
        if guesses is None and len(recent) == _RECENT_BATCHES and fmean(recent) >= settings.confidence:
            guesses = trainer.guesses(course)
    return guesses or trainer.guesses(course)


def _progress(stage: str, steps: int) -> Iterable[int]:
    return tqdm(range(steps), desc=f"warm start: {stage}", unit="step", mininterval=1.0)


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
    steps: Annotated[
        int | None, typer.Option(min=1, help="Most optimiser steps of each stage, for a quick try.")
    ] = None,
) -> None:
    """Warm-start the demo model, unless `out` already holds the same one."""
    settings = Settings(seed=seed)
    if steps is not None:
        settings = settings.with_question_steps(steps)
    try:
        trained = warm_start(data, out, settings)
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"warm start: {'written to' if trained else 'already in'} {out}")


if __name__ == "__main__":
    typer.run(main)
