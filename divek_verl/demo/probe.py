"""What a demo model can do before GRPO: does it know the forms, is it unsure, which classes does it confuse?

python -m divek_verl.demo.probe --data runs/demo/data --model runs/demo/model
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from divek_verl.answers import has_format, parse_option
from divek_verl.demo import lessons, model, pictures
from divek_verl.demo.lessons import Teacher
from divek_verl.demo.sampling import Prompt, Sampler
from divek_verl.demo.warm_start import build_teacher, read_classes
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.prepare.sets.flags import WORDING as FLAGS
from divek_verl.prompts import multiple_choice, open_question
from divek_verl.question import Question, Skip, build_question
from divek_verl.votes import Votes, count_votes

# What the warm start has to reach, else GRPO has nothing to work on.
LEAST_TOLD = 0.80
LEAST_MIXED = 0.30

_TOLD_QUESTIONS = 128
_GROUP = 8
_SAMPLES = 16
_TRAINING_IMAGES = 120
_SHOWN_CONFUSIONS = 8


@dataclass(frozen=True)
class SideReport:
    """Shares, 0 to 1, over the images of one side.

    Attributes:
        one_step: right completions of the open question (temperature 1, top-p 0.95).
        consistency: images whose most frequent answer is right.
        recall: images with the truth among the options, before any is put there.
        two_step: right completions of the multiple-choice question, options from the votes (temperature 1).
        greedy: right multiple-choice answers at temperature 0.
        mixed: groups of eight multiple-choice completions with both right and wrong ones.
        skipped: images that make no question: every vote is right, so there is nothing to learn.
        form: open-question completions in the asked form.
        confusions: (truth, other answer) -> completions.
    """

    images: int
    one_step: float
    consistency: float
    recall: float
    two_step: float
    greedy: float
    mixed: float
    skipped: float
    form: float
    confusions: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True)
class Probe:
    """A model under examination; the same seed gives the same numbers."""

    sampler: Sampler
    teacher: Teacher
    seed: int

    def told(self) -> float:
        """Share of right letters when the question says in words which class it is."""
        rng = random.Random(f"{self.seed}-told")
        questions = [
            Question(tuple(rng.sample(self.teacher.names, 5)), rng.randrange(5), False) for _ in range(_TOLD_QUESTIONS)
        ]
        texts = [lessons.told(multiple_choice(FLAGS, q.text), q.options[q.answer or 0]) for q in questions]
        completions = self.sampler.sample([Prompt(self.teacher.prompt(text)) for text in texts], 1, f"{self.seed}-told")
        return fmean(parse_option(c[0], 5) == q.answer for c, q in zip(completions, questions, strict=True))

    def side(self, images: pictures.Pictures, names: Sequence[str], *, training: bool) -> SideReport:
        """Both steps for every picture; in `training` the truth is put among the options and easy images skipped."""
        classes = ClassNames(names)
        shown = [self._shown(open_question(FLAGS, names), image) for image in images.pixels]
        voting = Sampler(self.sampler.network, self.sampler.processor, temperature=1.0, top_p=0.95)
        answers = voting.sample(shown, _SAMPLES, f"{self.seed}-votes")
        votes = [count_votes(each, classes) for each in answers]
        questions = [
            build_question(v, classes, truth=truth if training else None, skip_easy=training, seed=f"{self.seed}-{i}")
            for i, (v, truth) in enumerate(zip(votes, images.names, strict=True))
        ]
        rights, greedy = self._choices(images, questions)
        tops = [(v.top, truth) for v, truth in zip(votes, images.names, strict=True)]
        return SideReport(
            images=len(votes),
            one_step=fmean(v.one_step_accuracy(truth) for v, truth in zip(votes, images.names, strict=True)),
            consistency=fmean(top == truth for top, truth in tops),
            recall=fmean(truth in v.ranking[:5] for v, truth in zip(votes, images.names, strict=True)),
            two_step=fmean(fmean(right) for right in rights),
            greedy=fmean(greedy),
            mixed=fmean(0 < sum(right) < _GROUP for right in rights),
            skipped=1 - len(rights) / len(votes),
            form=fmean(has_format(completion) for each in answers for completion in each),
            confusions=_confusions(votes, images.names),
        )

    def _choices(
        self, images: pictures.Pictures, questions: Sequence[Question | Skip]
    ) -> tuple[list[list[bool]], list[bool]]:
        """For each question asked: whether each completion of its group is right, and whether the greedy one is."""
        asked = [(i, q) for i, q in enumerate(questions) if isinstance(q, Question)]
        prompts = [self._shown(multiple_choice(FLAGS, q.text), images.pixels[i]) for i, q in asked]
        groups = self.sampler.sample(prompts, _GROUP, f"{self.seed}-choices")
        likely = Sampler(self.sampler.network, self.sampler.processor, temperature=0).sample(prompts, 1, "greedy")
        rights, greedy = [], []
        for (i, question), group, best in zip(asked, groups, likely, strict=True):
            graded = [_chosen(completion, question) == images.names[i] for completion in (*group, *best)]
            rights.append(graded[:-1])
            greedy.append(graded[-1])
        return rights, greedy

    def _shown(self, text: str, image: torch.Tensor) -> Prompt:
        return Prompt(self.teacher.prompt(self.teacher.shown(text)), image)


def _chosen(completion: str, question: Question) -> str | None:
    option = parse_option(completion, len(question.options))
    return None if option is None else question.options[option]


def _confusions(votes: Sequence[Votes], truths: Sequence[str]) -> Counter[tuple[str, str]]:
    wrong: Counter[tuple[str, str]] = Counter()
    for each, truth in zip(votes, truths, strict=True):
        wrong.update({(truth, name): count for name, count in each.counts.items() if name != truth})
    return wrong


def _some(images: pictures.Pictures, count: int, seed: int) -> pictures.Pictures:
    numbers = random.Random(f"{seed}-images").sample(range(len(images.names)), min(count, len(images.names)))
    return pictures.Pictures(images.pixels[numbers], tuple(images.names[number] for number in numbers))


def _print(console: Console, told: float, sides: dict[str, SideReport]) -> None:
    table = Table(title="The model before GRPO (per cent)")
    table.add_column("")
    for name in sides:
        table.add_column(name, justify="right")
    rows = {
        "one-step": "one_step",
        "consistency": "consistency",
        "truth among the options": "recall",
        "two-step, sampled": "two_step",
        "two-step, greedy": "greedy",
        "groups with mixed rewards": "mixed",
        "easy images skipped": "skipped",
        "asked form kept": "form",
    }
    for label, measure in rows.items():
        table.add_row(label, *(f"{100 * getattr(side, measure):.1f}" for side in sides.values()))
    table.add_row("images", *(str(side.images) for side in sides.values()))
    console.print(table)
    console.print(f"class told in the text: {100 * told:.1f} % name its letter (at least {100 * LEAST_TOLD:.0f})")
    common = sides["val base"].confusions.most_common(_SHOWN_CONFUSIONS)
    console.print("most confused: " + ", ".join(f"{truth} as {other} {count}x" for (truth, other), count in common))


def main(
    data: Annotated[Path, typer.Option(help="Folder of the prepared set.")],
    model_path: Annotated[Path, typer.Option("--model", help="Folder of the model.")],
    seed: Annotated[int, typer.Option(help="Seed of questions and sampling.")] = 0,
) -> None:
    """Print what the model can do, and whether that is enough for GRPO to start from."""
    try:
        classes = read_classes(data)
        files = {name: pictures.load(data / f"{name}.parquet") for name in ("train", "val_base", "val_new")}
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    network, processor = model.load(model_path)
    probe = Probe(Sampler(network, processor), build_teacher(data, processor, files["train"]), seed)
    told = probe.told()
    sides = {
        "train": probe.side(_some(files["train"], _TRAINING_IMAGES, seed), classes["base"], training=True),
        "val base": probe.side(files["val_base"], classes["base"], training=False),
        "val new": probe.side(files["val_new"], classes["new"], training=False),
    }
    console = Console()
    _print(console, told, sides)
    if told < LEAST_TOLD or sides["train"].mixed < LEAST_MIXED:
        console.print("[bold red]Not enough for GRPO to learn from: change the warm start.[/]")


if __name__ == "__main__":
    typer.run(main)
