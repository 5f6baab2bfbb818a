"""How many threads should the demo's warm start use on a machine that also does something else?

    python benchmarks/threads.py

times the same optimiser steps with several thread settings, alone and beside one process that keeps a core busy, in
short bursts that alternate, and prints seconds a step and what the neighbour costs. Needs two cores and no data.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from typing import Annotated

import typer

CORES = os.cpu_count() or 1
ARMS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    f"{CORES} threads": {"OMP_NUM_THREADS": str(CORES)},
    f"{CORES} threads, passive wait": {"OMP_NUM_THREADS": str(CORES), "OMP_WAIT_POLICY": "passive"},
}


def serve() -> None:
    """In a process of its own: for each line of input, do that number of steps and print seconds a step."""
    import torch

    from divek_verl.demo import lessons, model, warm_start

    names = tuple(f"country {chr(65 + number // 26)}{chr(65 + number % 26)}" for number in range(40))
    base, settings, rng = names[:20], warm_start.Settings(), random.Random(0)
    pixels = torch.randint(0, 256, (240, 3, 84, 112), dtype=torch.uint8)
    images = lessons.Pictures(pixels, base * 12)
    processor = model.build_processor(model.build_tokenizer(lessons.tokenizer_texts(names), names))
    teacher = lessons.Teacher(processor.tokenizer, model.image_tokens(processor, pixels[0]), base, names)
    course = warm_start.Course(teacher, images.names, settings)
    network = model.build_model(processor.tokenizer, 0).train()
    trainer = warm_start.Trainer(network, processor, images, settings)
    guesses = warm_start.Guesses(base, [[0.05] * 20] * 240)
    batches = [course.questions(rng, guesses) for _ in range(20)]
    for line in sys.stdin:
        started = time.perf_counter()
        for number in range(int(line)):
            trainer.step(batches[number % len(batches)], 1e-4)
        print((time.perf_counter() - started) / int(line), flush=True)


def burst(server: subprocess.Popen[str], steps: int) -> float:
    """Seconds a step of one arm."""
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(f"{steps}\n")
    server.stdin.flush()
    return float(server.stdout.readline())


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each burst.")] = 10,
) -> None:
    """Print the median over the rounds for each arm."""
    start = [sys.executable, __file__, "serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    servers = {arm: subprocess.Popen(start, env={**os.environ, **env}, **pipes) for arm, env in ARMS.items()}
    seconds: dict[tuple[str, bool], list[float]] = {}
    for each in range(rounds + 1):
        for busy in (False, True):
            neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
            for arm, server in servers.items():
                found = burst(server, steps if each else 2)
                if each:
                    seconds.setdefault((arm, busy), []).append(found)
            if neighbour is not None:
                neighbour.kill()
    for arm, server in servers.items():
        alone, beside = (statistics.median(seconds[arm, busy]) for busy in (False, True))
        print(f"{arm:28} alone {alone:.2f} s, beside a busy process {beside:.2f} s: {beside / alone:.2f} times")
        server.kill()


if __name__ == "__main__":
    serve() if "serve" in sys.argv else typer.run(main)
