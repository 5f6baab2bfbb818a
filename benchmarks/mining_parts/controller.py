"""The controller's own part: from votes to a question to its reward, on one core, and its memory."""

import gc
import random
import time
from collections.abc import Callable

import psutil

from divek_verl.labels import ClassNames
from divek_verl.measures import measure_votes
from divek_verl.question import Skip, build_question
from divek_verl.reward import compute_score
from divek_verl.votes import Votes, count_votes
from mining_parts.common import Section, Workload

CLASSES = ClassNames([f"Black-footed Warbler of Region {number}" for number in range(100)])
SOURCE = "divek/cub/base"
SETS = 500
SAMPLES = 20
ROUNDS = 20_000
ROUNDS_OF_MEMORY = 1_000_000
LEAST_ROUNDS = 50_000
MOST_GROWTH = 2.0


def _completion(name: str) -> str:
    reason = "The bill is dark and hooked, the wings are long and the eye ring is pale, which tells it from the others"
    return f"<think>{reason}; so it is {name}.</think><answer>{name}</answer>"


def completion_sets() -> list[tuple[str, list[str]]]:
    """(truth, K completions) of images that the policy is unsure about; some answer off the list or not at all."""
    rng = random.Random(0)
    sets = []
    for _ in range(SETS):
        seen = rng.sample(CLASSES.names, 6)
        named = rng.choices(seen, weights=(8, 5, 3, 2, 1, 1), k=SAMPLES - 2)
        sets.append((rng.choice(seen[:3]), [*map(_completion, named), _completion("Common Gull"), "<think>The bill"]))
    return sets


def rounds(votes: list[tuple[str, Votes]], count: int, first: int = 0) -> None:
    """As the rollout does for every image: question, measures, and the reward of a completion."""
    completion = "<think>The bill is hooked, so the second option fits.</think><answer>B</answer>"
    for number in range(first, first + count):
        truth, counted = votes[number % len(votes)]
        question = build_question(counted, CLASSES, truth=truth, num_options=5, seed=f"0-{SOURCE}-{number}-3")
        measures = measure_votes(counted, truth, question)
        if isinstance(question, Skip):
            continue
        options = list(question.options)
        info = {"num_options": len(options), "options": options, "truth": truth, "measures": measures, "index": number}
        compute_score(SOURCE, completion, question.letter, info)


def _rate(work: Callable[[], object], count: int) -> float:
    """Per second of one core's time: other processes on the machine do not count."""
    started = time.process_time()
    work()
    return count / (time.process_time() - started)


def measure(workload: Workload, section: Section) -> None:
    """Rounds a second, images counted a second, and the growth of memory over a million rounds."""
    sets = completion_sets()
    votes = [(truth, count_votes(completions, CLASSES)) for truth, completions in sets]
    rounds(votes, ROUNDS // 10)
    arms = {
        "votes to question to reward": lambda: _rate(lambda: rounds(votes, ROUNDS), ROUNDS),
        "votes counted of 20 completions": lambda: _rate(
            lambda: [count_votes(completions, CLASSES) for _, completions in sets * 4], 4 * SETS
        ),
    }
    section.take_turns(arms, workload.repetitions)
    section.claim("rounds a second on one core", section.median("votes to question to reward"), LEAST_ROUNDS)
    process, resident = psutil.Process(), []
    for step in range(11):
        if step:
            rounds(votes, ROUNDS_OF_MEMORY // 10, first=step * ROUNDS_OF_MEMORY)
        gc.collect()
        resident.append(round(process.memory_info().rss / 2**20, 1))
    section.facts["megabytes during a million rounds"] = resident
    # The first tenth fills caches of bounded size.
    section.claim("megabytes more after a million rounds", resident[-1] - resident[1], MOST_GROWTH, at_most=True)
