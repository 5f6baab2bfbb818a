"""What does mining in waves save, and how many questions does it change?

    python benchmarks/waves.py --save benchmarks/results/waves.json

samples K answers to each picture of the demo's set with its warm-started model, by transformers and in one fixed order,
and replays them in waves: after each wave the sequential test of divek_verl/waves.py decides whether to stop, and the
question of the answers so far is compared with that of all K. Training pictures have the truth among the options and
are skipped when easy; validation pictures have not and are not. `make demo`
leaves the model and the data that it reads.
"""

import importlib.metadata
import json
import platform
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.question import Skip, build_question
from divek_verl.votes import Votes, count_votes
from divek_verl.waves import check_waves, probability_unchanged

# "1 wave": stop after the first wave, whatever the test says, to see what the test is worth.
CONFIDENCES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
# file of the prepared set -> its class list
SETS = {"train": "base", "val_base": "base", "val_new": "new"}

# Pictures sampled at one time.
BATCH = 32

NumOptions = int | Literal["auto"]


@dataclass(frozen=True)
class Image:
    """The answers to one picture, in the order in which they came, and how its question is built."""

    completions: tuple[str, ...]
    truth: str
    classes: ClassNames
    training: bool
    seed: str

    def votes(self, samples: int) -> Votes:
        """The votes of the first ``samples`` answers."""
        return count_votes(self.completions[:samples], self.classes)

    def rules(self, num_options: NumOptions) -> dict[str, Any]:
        """Arguments of ``build_question`` and of the test, as the rollout gives them."""
        return {
            "truth": self.truth if self.training else None,
            "skip_easy": self.training,
            "num_options": num_options,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Look:
    """What is known after a wave: how likely the question stays, and whether it is the one of all K answers."""

    samples: int
    probability: float
    same: bool


@dataclass(frozen=True)
class Replay:
    """One set of pictures in waves with one confidence; shares from 0 to 1.

    Attributes:
        saved: answers that were not sampled.
        changed: images whose option set or verdict is another than with all K answers.
        stopped: images that stopped before the last wave.
        stated: mean probability of no change that the test gave where it stopped; None where it never did.
        kept: share of those in which nothing changed.
    """

    images: str
    num_options: NumOptions
    waves: tuple[int, ...]
    confidence: float
    count: int
    saved: float
    changed: float
    stopped: float
    stated: float | None
    kept: float | None


def result_of(image: Image, samples: int, num_options: NumOptions) -> frozenset[str]:
    """The option set, or nothing for an image that is skipped."""
    built = build_question(image.votes(samples), image.classes, **image.rules(num_options))
    return frozenset() if isinstance(built, Skip) else frozenset(built.options)


def looks_at(image: Image, waves: Sequence[int], num_options: NumOptions) -> list[Look]:
    """The test after each wave; after the last, all is certain."""
    total = sum(waves)
    final = result_of(image, total, num_options)
    looks = []
    for number in range(1, len(waves) + 1):
        samples = sum(waves[:number])
        votes, rules = image.votes(samples), image.rules(num_options)
        probability = probability_unchanged(votes, total - samples, image.classes, **rules)
        looks.append(Look(samples, probability, result_of(image, samples, num_options) == final))
    return looks


def stop(looks: Sequence[Look], confidence: float) -> Look:
    """Where an image stops; always somewhere, because the last look is certain."""
    return next(look for look in looks if look.probability >= confidence)


def replay(
    name: str, looks: Sequence[Sequence[Look]], waves: tuple[int, ...], num_options: NumOptions, confidence: float
) -> Replay:
    """What stopping at ``confidence`` does to all images."""
    total = sum(waves)
    stops = [stop(each, confidence) for each in looks]
    early = [each for each in stops if each.samples < total]
    return Replay(
        images=name,
        num_options=num_options,
        waves=waves,
        confidence=confidence,
        count=len(stops),
        saved=1 - fmean(each.samples for each in stops) / total,
        changed=fmean(not each.same for each in stops),
        stopped=len(early) / len(stops),
        stated=fmean(each.probability for each in early) if early else None,
        kept=fmean(each.same for each in early) if early else None,
    )


def sample(home: Path, samples: int, most: int, seed: int) -> dict[str, list[Image]]:
    """The answers of the demo model to at most ``most`` pictures of each set.

    Raises:
        SetupError: the model or the data is not there.
    """
    from divek_verl.demo import model, pictures
    from divek_verl.demo.sampling import Sampler
    from divek_verl.demo.warm_start import build_teacher, read_classes

    data = home / "data"
    lists = read_classes(data)
    loaded = {name: pictures.load(data / f"{name}.parquet") for name in SETS}
    network, processor = model.load(home / "model")
    sampler = Sampler(network, processor, temperature=1.0, top_p=0.95)
    teacher = build_teacher(data, processor, loaded["train"])
    found: dict[str, list[Image]] = {}
    for name, side in SETS.items():
        numbers = random.Random(f"{seed}-{name}").sample(range(len(loaded[name].names)), len(loaded[name].names))[:most]
        found[name] = _answers(sampler, teacher, loaded[name], numbers, lists[side], name, samples, seed)
    return found


def _answers(
    sampler: Any,
    teacher: Any,
    images: Any,
    numbers: Sequence[int],
    names: Sequence[str],
    name: str,
    samples: int,
    seed: int,
) -> list[Image]:
    from divek_verl.demo.sampling import Prompt
    from divek_verl.prompts import open_question

    tokens = teacher.prompt(teacher.shown(open_question("flags", names)))
    classes = ClassNames(names)
    found = []
    batches = [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
    for batch in track(batches, description=f"sampling {name}"):
        prompts = [Prompt(tokens, images.pixels[number]) for number in batch]
        answers = sampler.sample(prompts, samples, f"{seed}-{name}-{batch[0]}")
        for number, completions in zip(batch, answers, strict=True):
            key = f"{seed}-{name}-{number}"
            # The sampler returns equal answers together; answers are exchangeable, so that any order is a true one.
            random.Random(f"{key}-order").shuffle(completions)
            found.append(Image(tuple(completions), images.names[number], classes, name == "train", key))
    return found


def table_of(replays: Sequence[Replay]) -> Table:
    """One row for each confidence, in %; all of one set, option count and division into waves."""
    first = replays[0]
    title = f"{first.images}: {first.count} images, {'+'.join(map(str, first.waves))}, num_options={first.num_options}"
    table = Table(title=title)
    for name in ("confidence", "samples saved", "questions changed", "stopped early", "of these: stated", "kept"):
        table.add_column(name, justify="right")
    for each in replays:
        shares = (each.saved, each.changed, each.stopped, each.stated, each.kept)
        cells = ["-" if share is None else f"{100 * share:.1f}" for share in shares]
        table.add_row("1 wave" if each.confidence == 0.0 else f"{each.confidence:g}", *cells)
    return table


def main(
    home: Annotated[Path, typer.Option(help="Folder with the demo's model/ and data/.")] = Path("runs/demo"),
    waves: Annotated[list[str], typer.Option(help="Sizes of the waves; repeatable.")] = ["8+6+6", "5+5+5+5"],  # noqa: B006
    num_options: Annotated[list[str], typer.Option(help='2 to 26 or "auto"; repeatable.')] = ["5", "auto"],  # noqa: B006
    samples: Annotated[int, typer.Option(min=2, help="K, answers to each image.")] = 20,
    images: Annotated[int, typer.Option(min=1, help="At most so many images of each set.")] = 320,
    seed: Annotated[int, typer.Option(help="Seed of images, answers and test.")] = 0,
    save: Annotated[Path | None, typer.Option(help="File for the results, JSON.")] = None,
) -> None:
    """Sample, replay, print a table for each set, option count and division into waves."""
    console = Console()
    try:
        plans = [check_waves(_numbers(text), samples) for text in waves]
        counts: list[NumOptions] = ["auto" if text == "auto" else _numbers(text)[0] for text in num_options]
        sampled = sample(home, samples, images, seed)
        replays, milliseconds = _replay_all(console, sampled, plans, counts)
    except SetupError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(2) from None
    console.print(f"one test of one image: {milliseconds:.2f} ms of one core (median)")
    if save is not None:
        save.write_text(json.dumps(_record(replays, milliseconds, samples, seed), indent=1) + "\n", encoding="utf-8")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split("+")]
    except ValueError:
        raise SetupError(f"{text!r} is no number or sum of numbers: write it as 8+6+6.") from None


def _replay_all(
    console: Console, sampled: dict[str, list[Image]], plans: list[tuple[int, ...]], counts: list[NumOptions]
) -> tuple[list[Replay], float]:
    replays: list[Replay] = []
    for name, images in sampled.items():
        for num_options in counts:
            for waves in plans:
                looks = [looks_at(image, waves, num_options) for image in images]
                group = [replay(name, looks, waves, num_options, confidence) for confidence in CONFIDENCES]
                console.print(table_of(group))
                replays += group
    return replays, _milliseconds(sampled["train"], plans[0], counts[0])


def _milliseconds(images: Sequence[Image], waves: Sequence[int], num_options: NumOptions) -> float:
    """The median CPU time of the test after the first wave."""
    times = []
    for image in images:
        votes, remaining = image.votes(waves[0]), sum(waves[1:])
        started = time.thread_time()
        probability_unchanged(votes, remaining, image.classes, **image.rules(num_options))
        times.append(time.thread_time() - started)
    return 1000 * sorted(times)[len(times) // 2]


def _record(replays: Sequence[Replay], milliseconds: float, samples: int, seed: int) -> dict[str, Any]:
    return {
        "command": f"python benchmarks/waves.py --seed {seed}",
        "unit": "shares, 0 to 1",
        "num_samples": samples,
        "seed": seed,
        "temperature": 1.0,
        "top_p": 0.95,
        "milliseconds_a_test": milliseconds,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "python": platform.python_version(),
        "replays": [asdict(each) for each in replays],
    }


if __name__ == "__main__":
    typer.run(main)
