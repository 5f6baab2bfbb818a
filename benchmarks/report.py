"""How long does the report of a large run take, and how large is it?

    python benchmarks/report.py --questions 10000

fabricates a run with that many questions, each with a picture file of its own, writes its report and prints seconds,
megabytes and peak memory. The records and pictures are not part of the time.
"""

import json
import os
import platform
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageDraw, ImageFilter

from divek_verl.records import METRICS_FILE, QUESTIONS_FILE, Visit
from divek_verl.report import write_report

RESULTS = Path(__file__).parent / "results" / "report.json"
MOST_SECONDS, MOST_MEGABYTES = 30.0, 15.0
CLASSES = 200
SAMPLES, OPTIONS, ROLLOUTS = 20, 5, 8
VALIDATIONS = 4
SIDES = ("base", "new")
PARTS = ("crown", "wing bars", "bill", "nape", "belly", "tail", "eye ring", "legs", "back", "throat")
LOOKS = ("dark", "pale", "buff", "streaked", "barred", "slender", "rufous", "grey", "yellow", "mottled")


def draw(rng: random.Random, path: Path) -> None:
    """A photograph's stand-in, 256 by 192: blurred shapes on a ground, with the grain of a sensor."""
    picture = Image.new("RGB", (256, 192), tuple(rng.randrange(60, 200) for _ in range(3)))
    for _ in range(14):
        x, y, width = rng.randrange(256), rng.randrange(192), rng.randrange(10, 110)
        box = (x - width // 2, y - width // 3, x + width // 2, y + width // 3)
        ImageDraw.Draw(picture).ellipse(box, fill=tuple(rng.randrange(256) for _ in range(3)))
    picture = picture.filter(ImageFilter.GaussianBlur(2))
    grain = Image.effect_noise(picture.size, 40).convert("RGB")
    Image.blend(picture, grain, 0.15).save(path, quality=85)


def think(rng: random.Random, names: list[str]) -> str:
    """About as long as what a policy writes before it answers."""
    seen = " ".join(
        f"The {rng.choice(PARTS)} looks {rng.choice(LOOKS)}, which speaks for {rng.choice(names)} and less so for "
        f"{rng.choice(names)}."
        for _ in range(rng.randrange(4, 9))
    )
    return f"<think>{seen}</think>\n<answer>{rng.choice('ABCDE')}</answer>"


def make_visit(rng: random.Random, number: int, questions: int, folder: Path) -> Visit:
    """Half of the visits are training, the others validations spread over the run."""
    training = number % 2 == 0
    step = number * 100 // questions if training else (number * VALIDATIONS // questions) * 100 // (VALIDATIONS - 1)
    truth = rng.randrange(CLASSES)
    names = [f"Class {(truth + shift) % CLASSES:03d}, the long-tailed one" for shift in range(8)]
    answers = rng.choices(names, weights=[8, 5, 3, 2, 1, 1, 1, 1], k=SAMPLES - 1)
    votes = {name: answers.count(name) for name in dict.fromkeys(answers)}
    options = rng.sample([names[0], *names[1:OPTIONS]], OPTIONS)
    rollouts = ROLLOUTS if training else 1
    skip = "easy" if training and rng.random() < 0.1 else None
    return Visit(
        step=step,
        split="train" if training else "val",
        data_source=f"divek/cub/{'base' if training else SIDES[truth % 2]}",
        image_id=f"image-{number if training else number % (questions // VALIDATIONS):06d}",
        image=str(folder / f"{number:06d}.jpg"),
        truth=names[0],
        policy_version=step,
        votes=votes,
        unanswered=1,
        options=[] if skip else options,
        answer=None if skip else "ABCDE"[options.index(names[0])],
        injected=rng.random() < 0.1,
        skip=skip,
        choices=[] if skip else [rng.choice("ABCDE") for _ in range(rollouts)],
        completions=[] if skip else [think(rng, names) for _ in range(rollouts)],
        rewards=[] if skip else [float(rng.randrange(3)) for _ in range(rollouts)],
        one_step=votes.get(names[0], 0) / SAMPLES,
    )


def metrics(rng: random.Random) -> Iterator[dict[str, Any]]:
    for step in range(1, 101):
        names = ("critic/score/mean", "divek/one_step", "divek/vote_age/mean", "timing_s/step", "divek/skips/easy")
        yield {"step": step, "data": {name: rng.random() for name in names}}


def fabricate(folder: Path, questions: int) -> None:
    """Write records and pictures; the same at every call."""
    rng = random.Random("report")
    with (folder / QUESTIONS_FILE).open("w", encoding="utf-8") as file:
        for number in range(questions):
            draw(rng, folder / f"{number:06d}.jpg")
            file.write(json.dumps(make_visit(rng, number, questions, folder).to_json()) + "\n")
    lines = [json.dumps(line) + "\n" for line in metrics(rng)]
    (folder / METRICS_FILE).write_text("".join(lines), encoding="utf-8")


def measure(folder: Path) -> dict[str, float]:
    """Write the report of ``folder``; seconds, megabytes (10^6), and the peak memory of this process in GiB.

    On a machine that does other work too, the seconds of CPU, the load and the niceness say what share was ours.
    """
    start, start_cpu = time.perf_counter(), time.process_time()
    page = write_report(folder)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "cpus": os.cpu_count() or 1,
        "load_average": round(os.getloadavg()[0], 1),
        "niceness": os.nice(0),
        "page_megabytes": round(page.stat().st_size / 1e6, 2),
        "records_megabytes": round((folder / QUESTIONS_FILE).stat().st_size / 1e6, 1),
        "peak_gib": round(peak, 2),
    }


def main(
    questions: Annotated[int, typer.Option(min=8, help="Lines of questions.jsonl.")] = 10_000,
    keep: Annotated[
        Path | None, typer.Option(help="Make the run in this folder and keep it; reuse one that is there.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help=f"Write the result to {RESULTS.name}.")] = False,
) -> None:
    """Fabricate a run, write its report, and say whether it stays below the limits; status 1 where it does not."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / METRICS_FILE).is_file():
            fabricate(folder, questions)
        result = {
            "questions": questions,
            **measure(folder),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
    print(json.dumps(result, indent=1))
    if save:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    held = result["seconds"] <= MOST_SECONDS and result["page_megabytes"] < MOST_MEGABYTES
    print(f"{'holds' if held else 'DOES NOT HOLD'}: at most {MOST_SECONDS:.0f} s and below {MOST_MEGABYTES:.0f} MB")
    raise typer.Exit(0 if held else 1)


if __name__ == "__main__":
    typer.run(main)
