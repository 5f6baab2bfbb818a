"""A fabricated run directory: 30 steps on 4 + 4 look-alike flags, validated every 10 steps."""

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from divek_verl.report.reading import METRICS_FILE, QUESTIONS_FILE

FLAGS = {
    "Chad": ("#002664", "#fecb00", "#c60c30"),
    "Romania": ("#002b7f", "#fcd116", "#ce1126"),
    "Ireland": ("#169b62", "#ffffff", "#ff883e"),
    "Ivory Coast": ("#f77f00", "#ffffff", "#009e60"),
    "Italy": ("#009246", "#ffffff", "#ce2b37"),
    "Mali": ("#14b53a", "#fcd116", "#ce1126"),
    "Guinea": ("#ce1126", "#fcd116", "#009460"),
    "France": ("#0055a4", "#ffffff", "#ef4135"),
}
LOOK_ALIKE = {
    "Chad": "Romania",
    "Romania": "Chad",
    "Ireland": "Ivory Coast",
    "Ivory Coast": "Ireland",
    "Italy": "Ireland",
    "Mali": "Guinea",
    "Guinea": "Mali",
    "France": "Italy",
}
SIDES = {"base": ("Chad", "Romania", "Ireland", "Ivory Coast"), "new": ("Italy", "Mali", "Guinea", "France")}
STEPS = 30
VALIDATED = (0, 10, 20, 30)
SAMPLES = 8

Record = dict[str, Any]


def fabricate_run(folder: Path, seed: str = "fabricated run") -> Path:
    """Draw the flags and write both record files; the same at every call with one seed."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    for name, colours in FLAGS.items():
        draw_flag(folder / f"{name}.png", colours)
    questions: list[Record] = []
    metrics: list[Record] = []
    for step in range(STEPS + 1):
        data: dict[str, float] = {}
        if step:
            data |= training_metrics(rng, step)
            questions.append(training_visit(rng, step, folder))
        if step in VALIDATED:
            visits = validation_visits(rng, step, folder)
            questions += visits
            data |= averages(visits)
        metrics.append({"step": step, "data": data})
    write_lines(folder / QUESTIONS_FILE, questions)
    write_lines(folder / METRICS_FILE, metrics)
    return folder


def draw_flag(path: Path, colours: tuple[str, ...]) -> None:
    picture = Image.new("RGB", (240, 160))
    for band, colour in enumerate(colours):
        ImageDraw.Draw(picture).rectangle((band * 80, 0, band * 80 + 79, 159), fill=colour)
    picture.save(path)


def training_visit(rng: random.Random, step: int, folder: Path) -> Record:
    """A group of four rollouts; every sixth image is too easy for a question, every fifth gets its truth put in."""
    truth = rng.choice(SIDES["base"])
    visit = make_visit(rng, step, "base", truth, step, folder) | {"split": "train", "injected": step % 5 == 0}
    for name in ("choices", "completions", "rewards"):
        visit[name] *= 4
    if step % 6 == 0:
        visit |= {"skip": "easy", "options": [], "answer": None, "choices": [], "completions": [], "rewards": []}
    return visit


def validation_visits(rng: random.Random, step: int, folder: Path) -> list[Record]:
    return [
        make_visit(rng, step, side, truth, number, folder)
        for side, truths in SIDES.items()
        for truth in truths
        for number in range(5)
    ]


def make_visit(rng: random.Random, step: int, side: str, truth: str, number: int, folder: Path) -> Record:
    """A validation visit as ``records.Visit.to_json`` writes it; the policy is better at later steps."""
    skill = 0.3 + 0.4 * step / STEPS
    answers = make_answers(rng, truth, skill)
    return {
        "step": step,
        "policy_version": step,
        "split": "val",
        "data_source": f"divek/flags/{side}",
        "image_id": f"val_{truth.lower()}_{number}",
        "image": str(folder / f"{truth}.png"),
        "truth": truth,
        "truncated": 0,
        "failed_samples": 0,
        "votes_from": "policy",
        "vote_age": step % 3,
        "waves": 1,
        "option_source": "policy",
        "num_options": 2,
        "injected": False,
        "skip": None,
        "failure": None,
        "detail": None,
        "rollout_failures": {},
        "mining_seconds": 1.5,
        "rollout_seconds": 0.4,
        "cached_share": 0.9,
        **count_votes(answers, truth),
        **ask(rng, side, truth, answers, skill),
    }


def make_answers(rng: random.Random, truth: str, skill: float) -> list[str]:
    other = LOOK_ALIKE[truth]
    wrong_answers = [other, other, "Andorra", ""]
    return [truth if rng.random() < skill else rng.choice(wrong_answers) for _ in range(SAMPLES)]


def count_votes(answers: list[str], truth: str) -> Record:
    votes = {name: answers.count(name) for name in named_classes(answers, truth)}
    return {
        "votes": votes,
        "unknown": {"Andorra": answers.count("Andorra")} if "Andorra" in answers else {},
        "unanswered": answers.count(""),
        "one_step": answers.count(truth) / SAMPLES,
        "consistency": float(max(votes, key=lambda name: votes[name], default="") == truth),
        "pass_at_k": float(truth in votes),
    }


def ask(rng: random.Random, side: str, truth: str, answers: list[str], skill: float) -> Record:
    """The multiple-choice question and what the policy made of it."""
    options = draw_options(rng, side, truth, answers)
    answer = "AB"[options.index(truth)] if truth in options else None
    choice = answer if answer and rng.random() < skill + 0.1 else "A" if answer != "A" else "B"
    picture = options["AB".index(choice)]
    thought = f"<think>Three upright bands; the shades look more like {picture}.</think>"
    return {
        "options": options,
        "answer": answer,
        "choices": [choice],
        "completions": [f"{thought}\n<answer>{choice}</answer>"],
        "rewards": [1.0 + (choice == answer)],
        "recall": float(answer is not None),
    }


def named_classes(answers: list[str], truth: str) -> list[str]:
    """The most frequent first."""
    return sorted({truth, LOOK_ALIKE[truth]} & set(answers), key=lambda name: (-answers.count(name), name))


def draw_options(rng: random.Random, side: str, truth: str, answers: list[str]) -> list[str]:
    fillers = [name for name in SIDES[side] if name not in (truth, LOOK_ALIKE[truth])]
    return rng.sample((named_classes(answers, truth) + fillers)[:2], 2)


def training_metrics(rng: random.Random, step: int) -> dict[str, float]:
    gain = step / STEPS
    metrics = {
        "critic/score/mean": 1.1 + 0.5 * gain + rng.gauss(0, 0.06),
        "divek/images_mined": 16.0,
        "divek/one_step": 0.3 + 0.4 * gain + rng.gauss(0, 0.03),
        "divek/recall": 0.6 + 0.3 * gain,
        "divek/vote_age/mean": float(step % 3),
        "divek/truth_injected_share": max(0.0, 0.4 - 0.3 * gain + rng.gauss(0, 0.04)),
        "divek/unanswered_share": 0.1 * (1 - gain),
        "divek/unknown_share": 0.05 * (1 - gain),
        "training/rollout_actor_probs_pearson_corr": 0.9996 - rng.random() * 3e-4,
        "timing_s/step": 11 + rng.random() * 2,
        "divek/mining_seconds/mean": 1.5 + rng.random(),
        "divek/skips/easy": float(round(4 * gain + rng.random())),
        "divek/skips/total": float(round(4 * gain + rng.random())),
    }
    return metrics | ({"divek/skips/mining_timeout": 1.0} if step == 12 else {})


def averages(visits: list[Record]) -> dict[str, float]:
    """What verl logs of a validation."""
    logged: dict[str, float] = {}
    for source in sorted({visit["data_source"] for visit in visits}):
        own = [visit for visit in visits if visit["data_source"] == source]
        keys = ("one_step", "consistency", "recall", "pass_at_k")
        mean = {key: sum(visit[key] for visit in own) / len(own) for key in keys}
        logged |= {f"val-aux/{source}/{key}/mean@1": value for key, value in mean.items()}
        right = sum(visit["choices"] == [visit["answer"]] for visit in own)
        logged[f"val-core/{source}/acc/mean@1"] = right / len(own)
    return logged


def write_lines(path: Path, records: list[Record]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")


def read_lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
