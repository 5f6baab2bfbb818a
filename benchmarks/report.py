"""Measure how long the report of a large run takes, and how large it is.

    python benchmarks/report.py --questions 10000

fabricates a run with that many questions, each with its own picture file, writes its report and prints seconds,
megabytes and peak memory. Making the run is not part of the time.
"""

import json
import os
import platform
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFilter

from divek_verl.question import Question
from divek_verl.records import METRICS_FILE, QUESTIONS_FILE, FailureReason, QuestionRecord
from divek_verl.report import write_report
from divek_verl.trainer.recorder import MetricsFile, RunRecorder

RESULTS = Path(__file__).parent / "results" / "report.json"
MOST_SECONDS, MOST_MEGABYTES = 30.0, 15.0
CLASSES = 200
SAMPLES, OPTIONS, ROLLOUTS = 20, 5, 8
VALIDATIONS = 4
SIDES = ("base", "new")
PARTS = ("crown", "wing bars", "bill", "nape", "belly", "tail", "eye ring", "legs", "back", "throat")
ADJECTIVES = ("dark", "pale", "buff", "streaked", "barred", "slender", "rufous", "grey", "yellow", "mottled")


def draw(rng: random.Random, path: Path) -> None:
    """A picture that compresses like a photograph, 256 by 192: blurred shapes with the grain of a sensor."""
    picture = Image.new("RGB", (256, 192), tuple(rng.randrange(60, 200) for _ in range(3)))
    for _ in range(14):
        x, y, width = rng.randrange(256), rng.randrange(192), rng.randrange(10, 110)
        box = (x - width // 2, y - width // 3, x + width // 2, y + width // 3)
        ImageDraw.Draw(picture).ellipse(box, fill=tuple(rng.randrange(256) for _ in range(3)))
    picture = picture.filter(ImageFilter.GaussianBlur(2))
    grain = Image.effect_noise(picture.size, 40).convert("RGB")
    Image.blend(picture, grain, 0.15).save(path, quality=85)


def think(rng: random.Random, names: list[str]) -> str:
    """A completion, about as long as those of a policy."""
    seen = " ".join(
        f"The {rng.choice(PARTS)} looks {rng.choice(ADJECTIVES)}, which speaks for {rng.choice(names)} and "
        f"against {rng.choice(names)}."
        for _ in range(rng.randrange(4, 9))
    )
    return f"<think>{seen}</think>\n<answer>{rng.choice('ABCDE')}</answer>"


def make_record(rng: random.Random, number: int, questions: int, folder: Path) -> QuestionRecord:
    """Half of the records are from training, the others from validations spread over the run."""
    training = number % 2 == 0
    step = number * 100 // questions if training else (number * VALIDATIONS // questions) * 100 // (VALIDATIONS - 1)
    truth = rng.randrange(CLASSES)
    names = [f"Class {(truth + shift) % CLASSES:03d}, the long-tailed one" for shift in range(8)]
    answers = rng.choices(names, weights=[8, 5, 3, 2, 1, 1, 1, 1], k=SAMPLES - 1)
    votes = {name: answers.count(name) for name in dict.fromkeys(answers)}
    record = QuestionRecord(
        step=step,
        split="train" if training else "val",
        data_source=f"divek/cub/{'base' if training else SIDES[truth % 2]}",
        image_id=f"image-{number if training else number % (questions // VALIDATIONS):06d}",
        image=str(folder / f"{number:06d}.jpg"),
        truth=names[0],
        policy_version=step,
        votes=votes,
        unanswered=1,
        option_source="policy",
        num_options=OPTIONS,
        one_step=votes.get(names[0], 0) / SAMPLES,
    )
    if training and rng.random() < 0.1:
        record.skip = FailureReason.EASY.value
        return record
    rollouts = ROLLOUTS if training else 1
    record.set_question(Question(tuple(rng.sample(names[:OPTIONS], OPTIONS)), None, rng.random() < 0.1))
    record.choices = [rng.choice("ABCDE") for _ in range(rollouts)]
    record.completions = [think(rng, names) for _ in range(rollouts)]
    record.rewards = [float(rng.randrange(3)) for _ in range(rollouts)]
    return record


def fabricate(folder: Path, questions: int) -> None:
    """Write records and pictures, with the writers of training; equal arguments give equal files."""
    rng = random.Random("report")
    recorder, metrics = RunRecorder(str(folder)), MetricsFile(str(folder))
    for number in range(questions):
        draw(rng, folder / f"{number:06d}.jpg")
        recorder.write(make_record(rng, number, questions, folder))
    names = ("critic/score/mean", "divek/one_step", "divek/vote_age/mean", "timing_s/step", "divek/skips/easy")
    for step in range(1, 101):
        metrics.log({name: rng.random() for name in names}, step)


def measure(folder: Path) -> dict[str, float]:
    """Write the report of ``folder`` and measure seconds, megabytes (10^6) and the peak memory of this process in GiB.

    CPU seconds, load and niceness tell how much of a shared machine the measurement got.
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
    questions: Annotated[int, typer.Option(min=8, help="Number of question records.")] = 10_000,
    keep: Annotated[
        Path | None, typer.Option(help="Make the run in this folder and keep it, or reuse the run in it.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help=f"Write the result to {RESULTS.name}.")] = False,
) -> None:
    """Fabricate a run, write its report, and check the limits; the exit status is 1 if one is exceeded."""
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
