"""Measures a demo model before GRPO: the form of its answers, its doubt, and the classes that it confuses.

python -m divek_verl.demo.probe --data runs/demo/data --model runs/demo/model
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer
from rich.table import Table

from divek_verl.answers import has_format, parse_option
from divek_verl.class_lists import load_classes
from divek_verl.console import terminal
from divek_verl.demo import lessons, model
from divek_verl.demo.lessons import Pictures, Teacher
from divek_verl.demo.warm_start import build_teacher
from divek_verl.errors import SetupError
from divek_verl.files import write_aside
from divek_verl.labels import ClassNames
from divek_verl.measures import MEASURES, measure_votes
from divek_verl.prompts import multiple_choice, open_question
from divek_verl.question import Question, QuestionRules
from divek_verl.votes import count_votes

# GRPO has nothing to work on unless the warm start reaches both.
LEAST_TOLD = 0.80
LEAST_MIXED = 0.30
MAX_NEW_TOKENS = 16

_BATCH = 32
_TOLD_QUESTIONS = 128
_GROUP = 8
_SAMPLES = 16
_TRAINING_IMAGES = 120
_SHOWN_CONFUSIONS = 8
_MIXED = "groups with mixed rewards"


@dataclass(frozen=True)
class Prompt:
    """Prompt tokens, and the picture (uint8, shape (3, height, width)) that their placeholders stand for."""

    tokens: list[int]
    image: torch.Tensor | None = None


@dataclass(frozen=True)
class _Row:
    """`count` completions of one prompt that are equal so far."""

    prompt: int
    count: int
    tokens: list[int]


@dataclass(frozen=True)
class Sampler:
    """Samples a model in batches, with a key-value cache and without a server; temperature 0 is greedy."""

    network: model.Qwen2_5_VLForConditionalGeneration
    processor: model.Qwen2_5_VLProcessor
    temperature: float = 1.0
    top_p: float = 1.0

    @torch.inference_mode()
    def sample(self, prompts: Sequence[Prompt], count: int, seed: str) -> list[list[str]]:
        """`count` completions of each prompt, in the order of `prompts`; equal completions stand together."""
        generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
        # Prompts of one length, all with or all without a picture, can run together without padding.
        alike: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
        for number, prompt in enumerate(prompts):
            alike[len(prompt.tokens), prompt.image is None].append(number)
        completions: dict[int, list[str]] = {}
        for group in alike.values():
            for start in range(0, len(group), _BATCH):
                numbers = group[start : start + _BATCH]
                tokens = self._complete([prompts[number] for number in numbers], count, generator)
                for number, each in zip(numbers, tokens, strict=True):
                    completions[number] = self.processor.tokenizer.batch_decode(each, skip_special_tokens=True)
        return [completions[number] for number in range(len(prompts))]

    def _complete(self, prompts: Sequence[Prompt], count: int, generator: torch.Generator) -> list[list[list[int]]]:
        """`count` completions of each prompt, all prompts of one length, as token numbers without the end token.

        Completions that begin alike are computed once: a row stands for all of them and splits where they differ.
        """
        ends = {self.processor.tokenizer.eos_token_id, self.processor.tokenizer.pad_token_id}
        complete: list[list[list[int]]] = [[] for _ in prompts]
        rows = [_Row(number, count, []) for number in range(len(prompts))]
        tokens = torch.tensor([prompt.tokens for prompt in prompts])
        images = [prompt.image for prompt in prompts if prompt.image is not None]
        if images:
            inputs = model.picture_inputs(self.network, self.processor, images, tokens)
        else:
            inputs = {"position_ids": torch.arange(tokens.shape[1]).expand(3, *tokens.shape)}
        position = int(inputs["position_ids"].max())
        output = self.network(input_ids=tokens, use_cache=True, logits_to_keep=1, **inputs)
        for step in range(MAX_NEW_TOKENS):
            drawn = self._draw(output.logits[:, -1], max(row.count for row in rows), generator).tolist()
            going, parents = [], []
            for index, row in enumerate(rows):
                for token, equal in Counter(drawn[index][: row.count]).items():
                    after = _Row(row.prompt, equal, [*row.tokens, token])
                    if token in ends or step == MAX_NEW_TOKENS - 1:
                        complete[row.prompt] += [[t for t in after.tokens if t not in ends]] * equal
                    else:
                        going.append(after)
                        parents.append(index)
            if not going:
                break
            rows = going
            output.past_key_values.batch_select_indices(torch.tensor(parents))
            position += 1
            output = self.network(
                input_ids=torch.tensor([[row.tokens[-1]] for row in rows]),
                past_key_values=output.past_key_values,
                position_ids=torch.full((3, len(rows), 1), position),
                use_cache=True,
            )
        return complete

    def _draw(self, logits: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
        """`count` independent draws of the next token of each row; shape (rows, count)."""
        if self.temperature == 0:
            return logits.argmax(dim=-1, keepdim=True).expand(-1, count)
        ranked, order = (logits / self.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        # top_p keeps the most likely tokens up to the one that reaches it.
        ranked[ranked.cumsum(dim=-1) - ranked >= self.top_p] = 0.0
        return order.gather(-1, torch.multinomial(ranked, count, replacement=True, generator=generator))


@dataclass(frozen=True)
class SideReport:
    """The numbers of one side.

    Attributes:
        shares: title -> share, 0 to 1; a group of multiple-choice completions is mixed if some are right, some wrong.
        confusions: (truth, other answer) -> completions.
    """

    images: int
    shares: dict[str, float]
    confusions: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True)
class Probe:
    """A model under examination; the same seed gives the same numbers."""

    sampler: Sampler
    teacher: Teacher
    seed: int

    def told(self) -> float:
        """Share of right letters when the question tells the class in words."""
        rng = random.Random(f"{self.seed}-told")
        questions = [
            Question(tuple(rng.sample(self.teacher.names, 5)), rng.randrange(5), False) for _ in range(_TOLD_QUESTIONS)
        ]
        texts = [lessons.told(multiple_choice(lessons.WORDING, q.text), q.options[q.answer or 0]) for q in questions]
        completions = self.sampler.sample([Prompt(self.teacher.prompt(text)) for text in texts], 1, f"{self.seed}-told")
        return fmean(parse_option(c[0], 5) == q.answer for c, q in zip(completions, questions, strict=True))

    @torch.inference_mode()
    def captions(self, images: Pictures, names: Sequence[str]) -> float:
        """Share of pictures whose likeliest caption among `names` is right: what the model sees, however it answers."""
        network = self.sampler.network
        columns = self.teacher.tokenizer.convert_tokens_to_ids([f" {name}" for name in names])
        right = 0
        for start in range(0, len(images.names), _BATCH):
            shown, pixels = images.names[start : start + _BATCH], images.pixels[start : start + _BATCH]
            tokens = torch.tensor([self.teacher.caption(name, 0).tokens for name in shown])
            inputs = model.picture_inputs(network, self.sampler.processor, list(pixels), tokens)
            hidden = network.model(input_ids=tokens, use_cache=False, **inputs).last_hidden_state
            # The last token is the name itself; the one before it predicts the name.
            best = network.lm_head(hidden[:, -2])[:, columns].argmax(dim=-1).tolist()
            right += sum(names[column] == name for column, name in zip(best, shown, strict=True))
        return right / len(images.names)

    def side(self, images: Pictures, names: Sequence[str], *, training: bool) -> SideReport:
        """Both steps for every picture; in `training` the truth is injected and easy images are skipped."""
        classes, rules = ClassNames(names), QuestionRules(skip_easy=training)
        prompts = [self._shown(open_question(lessons.WORDING, names), image) for image in images.pixels]
        answers = replace(self.sampler, top_p=0.95).sample(prompts, _SAMPLES, f"{self.seed}-votes")
        votes = [count_votes(each, classes) for each in answers]
        voted = list(zip(votes, images.names, strict=True))
        questions = [
            rules.build(each, classes, truth=truth if training else None, seed=f"{self.seed}-{i}")
            for i, (each, truth) in enumerate(voted)
        ]
        measured = [measure_votes(each, truth, q) for (each, truth), q in zip(voted, questions, strict=True)]
        asked = [(q, images.names[i], i) for i, q in enumerate(questions) if isinstance(q, Question)]
        prompts = [self._shown(multiple_choice(lessons.WORDING, q.text), images.pixels[i]) for q, _, i in asked]
        groups = self.sampler.sample(prompts, _GROUP, f"{self.seed}-choices")
        greedy = replace(self.sampler, temperature=0.0).sample(prompts, 1, "greedy")

        def right(completion: str, question: Question, truth: str) -> bool:
            option = parse_option(completion, len(question.options))
            return option is not None and question.options[option] == truth

        graded = [[right(c, q, truth) for c in group] for group, (q, truth, _) in zip(groups, asked, strict=True)]
        best = [right(c, q, truth) for (c,), (q, truth, _) in zip(greedy, asked, strict=True)]
        confusions: Counter[tuple[str, str]] = Counter()
        for each, truth in voted:
            confusions.update({(truth, name): count for name, count in each.counts.items() if name != truth})
        votes_measures = ("one_step", "consistency", "recall")
        shares = {MEASURES[name].title: fmean(each[name] for each in measured) for name in votes_measures}
        shares |= {
            MEASURES["two_step"].title: fmean(fmean(group) for group in graded),
            "two-step accuracy, greedy": fmean(best),
            _MIXED: fmean(0 < sum(group) < _GROUP for group in graded),
            "easy images skipped": 1 - len(asked) / len(votes),
            "answers in the right form": fmean(has_format(text) for each in answers for text in each),
        }
        return SideReport(len(votes), shares, confusions)

    def _shown(self, text: str, image: torch.Tensor) -> Prompt:
        return Prompt(self.teacher.prompt(self.teacher.shown(text)), image)


def main(
    data: Annotated[Path, typer.Option(help="Folder of the prepared set.")],
    model_path: Annotated[Path, typer.Option("--model", help="Folder of the model.")],
    seed: Annotated[int, typer.Option(help="Seed of questions and sampling.")] = 0,
    knowledge: Annotated[
        Path | None, typer.Option(help="Only write what the model tells and captions rightly to this JSON file.")
    ] = None,
) -> None:
    """Print what the model can do, and whether that is enough for GRPO to start from."""
    model.use_one_thread()
    try:
        base, new = (load_classes(str(data), side).names for side in ("base", "new"))
        files = [data / f"{name}.parquet" for name in ("train", "val_base", "val_new")]
        train, val_base, val_new = map(Pictures.load, files)
        network, processor = model.load(model_path)
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    numbers = random.Random(f"{seed}-images").sample(range(len(train.names)), min(_TRAINING_IMAGES, len(train.names)))
    some = Pictures(train.pixels[numbers], tuple(train.names[number] for number in numbers))
    probe = Probe(Sampler(network, processor), build_teacher(data, processor, train), seed)
    told = probe.told()
    if knowledge is not None:
        captions = {"base": probe.captions(val_base, base), "new": probe.captions(val_new, new)}
        write_aside(knowledge, json.dumps({"told": told, "captions": captions}) + "\n")
        return
    sides = {
        "train": probe.side(some, base, training=True),
        "val base": probe.side(val_base, base, training=False),
        "val new": probe.side(val_new, new, training=False),
    }
    console, table = terminal(), Table("", title="The model before GRPO (%)")
    for name in sides:
        table.add_column(name, justify="right")
    for title in sides["train"].shares:
        table.add_row(title, *(f"{100 * side.shares[title]:.1f}" for side in sides.values()))
    table.add_row("images", *(str(side.images) for side in sides.values()))
    console.print(table)
    console.print(f"right letter when the text tells the class: {100 * told:.1f} % (needs {100 * LEAST_TOLD:.0f} %)")
    common = sides["val base"].confusions.most_common(_SHOWN_CONFUSIONS)
    console.print("most confused: " + ", ".join(f"{truth} as {other} {count}x" for (truth, other), count in common))
    if told < LEAST_TOLD or sides["train"].shares[_MIXED] < LEAST_MIXED:
        console.print("[bold red]This is not enough for GRPO to learn from: change the warm start.[/]")


if __name__ == "__main__":
    typer.run(main)
