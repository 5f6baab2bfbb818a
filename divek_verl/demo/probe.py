"""Measures what a demo model knows before GRPO; the gates of benchmarks/claim.py read it.

python -m divek_verl.demo.probe --data runs/demo/data --model runs/demo/model
"""

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer

from divek_verl.answers import parse_option
from divek_verl.class_lists import load_classes
from divek_verl.demo import lessons, model
from divek_verl.demo.lessons import Pictures, Teacher
from divek_verl.demo.run import SIDES
from divek_verl.demo.warm_start import build_teacher, caption_shares
from divek_verl.errors import SetupError
from divek_verl.files import write_aside
from divek_verl.prompts import multiple_choice
from divek_verl.question import Question

MAX_NEW_TOKENS = 16
_TOLD_QUESTIONS = 128
_OPTIONS = 5
_BATCH = 32


@torch.inference_mode()
def told(network: model.Qwen2_5_VLForConditionalGeneration, teacher: Teacher, seed: int) -> float:
    """The share of right letters, sampled as in training, when the question tells the class in words."""
    rng, right = random.Random(f"{seed}-told"), []
    torch.manual_seed(seed)  # of this process: generate() takes no generator
    for _ in range(_TOLD_QUESTIONS // _BATCH):
        questions = [
            Question(tuple(rng.sample(teacher.names, _OPTIONS)), rng.randrange(_OPTIONS), False) for _ in range(_BATCH)
        ]
        texts = [
            lessons.told(teacher.wording, multiple_choice(teacher.wording, q.text), q.options[q.answer or 0])
            for q in questions
        ]
        # A name is one token, so all prompts have one length.
        tokens = torch.tensor([teacher.prompt(text) for text in texts])
        found = network.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=True,
            top_k=0,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        completions = teacher.tokenizer.batch_decode(found[:, tokens.shape[1] :], skip_special_tokens=True)
        right += [parse_option(text, _OPTIONS) == q.answer for text, q in zip(completions, questions, strict=True)]
    return fmean(right)


def captioned(
    network: model.Qwen2_5_VLForConditionalGeneration,
    processor: model.Qwen2_5_VLProcessor,
    teacher: Teacher,
    images: Pictures,
) -> float:
    """The share of pictures of one side whose likeliest caption among the side's names is right."""
    names = teacher.side_of(images.names[0])
    best = caption_shares(network, processor, teacher, images.pixels, names).argmax(dim=-1).tolist()
    return fmean(names[column] == truth for column, truth in zip(best, images.names, strict=True))


def main(
    data: Annotated[Path, typer.Option(help="Folder of the prepared set.")],
    model_path: Annotated[Path, typer.Option("--model", help="Folder of the model.")],
    out: Annotated[Path | None, typer.Option(help="JSON file to write, beside printing it.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the questions.")] = 0,
) -> None:
    """Print how often the model tells a told class and captions a picture rightly, as JSON."""
    model.use_one_thread()
    try:
        load_classes(str(data), "all")
        sides = {side: Pictures.load(data / f"val_{side}.parquet") for side in SIDES}
        network, processor = model.load(model_path)
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    teacher = build_teacher(data, processor, sides["base"])
    known = {
        "told": told(network, teacher, seed),
        "captions": {side: captioned(network, processor, teacher, images) for side, images in sides.items()},
    }
    text = json.dumps(known) + "\n"
    typer.echo(text, nl=False)
    if out is not None:
        write_aside(out, text)


if __name__ == "__main__":
    typer.run(main)
