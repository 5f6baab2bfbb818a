"""A run of 30 steps on 4 + 4 look-alike flags, validated every 10 steps, recorded by the writers of training."""

import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from divek_verl.files import read_lines
from divek_verl.labels import ClassNames
from divek_verl.measures import VOTE_MEASURES, measure_votes
from divek_verl.question import Skip, build_question
from divek_verl.records import METRICS_FILE, QUESTIONS_FILE, FailureReason, QuestionRecord
from divek_verl.trainer.recorder import MetricsFile, RunRecorder
from divek_verl.votes import MinedVotes, count_votes

# Class -> the class that it is confused with, and the colours of its bands.
FLAGS = {
    "Chad": ("Romania", "#002664", "#fecb00", "#c60c30"),
    "Romania": ("Chad", "#002b7f", "#fcd116", "#ce1126"),
    "Ireland": ("Ivory Coast", "#169b62", "#ffffff", "#ff883e"),
    "Ivory Coast": ("Ireland", "#f77f00", "#ffffff", "#009e60"),
    "Italy": ("Ireland", "#009246", "#ffffff", "#ce2b37"),
    "Mali": ("Guinea", "#14b53a", "#fcd116", "#ce1126"),
    "Guinea": ("Mali", "#ce1126", "#fcd116", "#009460"),
    "France": ("Italy", "#0055a4", "#ffffff", "#ef4135"),
}
CLASSES = ClassNames(list(FLAGS))
SIDES = {"base": ("Chad", "Romania", "Ireland", "Ivory Coast"), "new": ("Italy", "Mali", "Guinea", "France")}
STEPS = 30
VALIDATED = (0, 10, 20, 30)
SAMPLES = 8

Logged = list[tuple[int, dict[str, Any]]]


def make_record(image_id: str = "1", truth: str = "Chad", **changes: Any) -> QuestionRecord:
    """A validation record with nothing in it but ``changes``."""
    fields: dict[str, Any] = {"step": 0, "split": "val", "data_source": "divek/flags/base", "image": ""}
    return QuestionRecord(**{**fields, "image_id": image_id, "truth": truth, **changes})


def fabricate_run(folder: Path, seed: str = "fabricated run") -> Path:
    """Draw the flags and write both record files; one seed gives the same files every time."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    for name, (_, *colours) in FLAGS.items():
        picture = Image.new("RGB", (240, 160))
        for band, colour in enumerate(colours):
            ImageDraw.Draw(picture).rectangle((band * 80, 0, band * 80 + 79, 159), fill=colour)
        picture.save(folder / f"{name}.png")
    recorder, metrics = RunRecorder(str(folder)), MetricsFile(str(folder))
    for step in range(STEPS + 1):
        data: dict[str, float] = {}
        if step:
            trained = [_answered(rng, step, "train", "base", rng.choice(SIDES["base"]), 0, folder)]
            if step == 12:
                failed = FailureReason.MINING_TIMEOUT.value
                trained.append(make_record("train_late", split="train", step=12, failure=failed))
            for record in trained:
                recorder.record_votes(record)
                recorder.write(record)
            data |= recorder.drain() | {
                "critic/score/mean": 1.1 + 0.5 * step / STEPS + rng.gauss(0, 0.06),
                "training/rollout_actor_probs_pearson_corr": 0.9996 - rng.random() * 3e-4,
                "timing_s/step": 11 + rng.random() * 2,
            }
        if step in VALIDATED:
            validated = [
                _answered(rng, step, "val", side, truth, number, folder)
                for side, truths in SIDES.items()
                for truth in truths
                for number in range(5)
            ]
            for record in validated:
                recorder.write(record)
            data |= _averages(validated)
        metrics.log(data, step)
    return folder


def _answered(
    rng: random.Random, step: int, split: str, side: str, truth: str, number: int, folder: Path
) -> QuestionRecord:
    """An image with its K samples, its question and its rollouts; the policy is better at later steps.

    Every sixth training image is easy, and every fifth has no vote for its true class.
    """
    training = split == "train"
    skill = 0.3 + 0.4 * step / STEPS
    if training and step % 5 == 0:
        skill = 0.0
    if training and step % 6 == 0:
        skill = 1.0
    wrong = [FLAGS[truth][0], FLAGS[truth][0], "Andorra", ""]
    answers = [truth if rng.random() < skill else rng.choice(wrong) for _ in range(SAMPLES)]
    votes = count_votes((f"<answer>{answer}</answer>" for answer in answers), CLASSES)
    record = make_record(
        f"{split}_{truth.lower()}_{number}",
        truth,
        step=step,
        split=split,
        data_source=f"divek/flags/{side}",
        image=str(folder / f"{truth}.png"),
        option_source="policy",
        num_options=2,
        votes_from="store" if training and step % 3 else "policy",
        vote_age=step % 3 if training else 0,
        mining_seconds=1.5,
        rollout_seconds=0.4,
    )
    record.set_votes(MinedVotes(*record.key, votes, step=step, policy_version=step, prompt_tokens=90, cached_tokens=80))
    question = build_question(
        votes, CLASSES, truth=truth if training else None, num_options=2, skip_easy=training, seed=f"{step}-{number}"
    )
    record.set_measures(measure_votes(votes, truth, question))
    if isinstance(question, Skip):
        record.skip = str(question.reason)
        return record
    record.set_question(question)
    for _ in range(4 if training else 1):
        choice = record.answer if record.answer and rng.random() < skill + 0.1 else "A" if record.answer != "A" else "B"
        chosen = record.options["AB".index(choice)]
        thought = f"<think>Three upright bands; the shades look more like {chosen}.</think>"
        record.choices.append(choice)
        record.completions.append(f"{thought}\n<answer>{choice}</answer>")
        record.rewards.append(1.0 + (choice == record.answer))
        record.formats.append(1.0)
    return record


def _averages(records: list[QuestionRecord]) -> dict[str, float]:
    """The metrics that verl logs for a validation."""
    logged: dict[str, float] = {}
    for source in sorted({record.data_source for record in records}):
        own = [record for record in records if record.data_source == source]
        for name in VOTE_MEASURES:
            logged[f"val-aux/{source}/{name}/mean@1"] = sum(getattr(record, name) for record in own) / len(own)
        logged[f"val-core/{source}/acc/mean@1"] = sum(record.accuracy for record in own) / len(own)
    return logged


def read_records(folder: Path) -> list[QuestionRecord]:
    return [QuestionRecord.from_json(line) for line in read_lines(folder / QUESTIONS_FILE)[0]]


def write_records(folder: Path, records: list[QuestionRecord]) -> None:
    """Replace ``questions.jsonl``."""
    (folder / QUESTIONS_FILE).unlink(missing_ok=True)
    recorder = RunRecorder(str(folder))
    for record in records:
        recorder.write(record)


def read_logged(folder: Path) -> Logged:
    return [(line["step"], line["data"]) for line in read_lines(folder / METRICS_FILE)[0]]


def write_logged(folder: Path, logged: Logged) -> None:
    """Replace ``metrics.jsonl``."""
    (folder / METRICS_FILE).unlink(missing_ok=True)
    file = MetricsFile(str(folder))
    for step, data in logged:
        file.log(data, step)


def make_hostile(folder: Path, text: str) -> list[QuestionRecord]:
    """Put ``text`` into every text of ``questions.jsonl``; returns what is in it now."""
    records = read_records(folder)
    for record in records:
        record.truth = record.image = record.failure = record.votes_from = record.option_source = record.num_options = (
            text
        )
        record.votes, record.unknown, record.rollout_failures = {text: 3, f"{text}2": 3}, {f"{text}3": 2}, {text: 1}
        record.options, record.answer, record.completions = [text, f"{text}2"], "A", [text]
        record.image_id, record.data_source = f"{text}{record.image_id}", f"divek/{text}/base"
    records[1].skip = text
    write_records(folder, records)
    return records
