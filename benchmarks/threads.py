"""How many threads should the warm start of the demo use on a machine that also does other work?

    python benchmarks/threads.py

runs the same optimiser steps with several thread settings in short alternating bursts: alone, and beside a process
that keeps one core busy. Prints seconds per step and their ratio. The machine must be idle otherwise.
"""

import os
import random
import statistics
import subprocess
import sys
import time

import typer

CORES = str(os.cpu_count())
ARMS = {
    "the demo's (1 thread)": {},
    f"{CORES} threads": {"OMP_NUM_THREADS": CORES},
    f"{CORES} threads, waiting asleep": {"OMP_NUM_THREADS": CORES, "OMP_WAIT_POLICY": "passive"},
}
BUSY = [sys.executable, "-c", "while True: pass"]


def serve() -> None:
    """For each number on standard input, take that many optimiser steps and print seconds per step."""
    import torch

    from divek_verl.demo import lessons, model, warm_start
    from divek_verl.prepare.sets.flags import WORDING

    model.use_one_thread()
    names = tuple(f"country {first}{second}" for first in "ABCD" for second in "ABCDEFGHIJ")
    base, settings, rng = names[:20], warm_start.Settings(), random.Random(0)
    pixels = torch.randint(0, 256, (240, 3, 84, 112), dtype=torch.uint8)
    images = lessons.Pictures(pixels, base * 12)
    processor = model.build_processor(model.build_tokenizer(lessons.tokenizer_texts(WORDING), names))
    teacher = lessons.Teacher(
        processor.tokenizer, model.image_tokens(processor, pixels[0]), (base, names[20:]), WORDING
    )
    course = warm_start.Course(teacher, images.names, settings)
    trainer = warm_start.Trainer(model.build_model(processor.tokenizer, 0).train(), processor, images, settings)
    batches = [course.questions(rng, warm_start.Guesses(base, [[0.05] * 20] * 240)) for _ in range(20)]
    for line in sys.stdin:
        started = time.perf_counter()
        for number in range(int(line)):
            trainer.step(batches[number % len(batches)], 1e-4)
        print((time.perf_counter() - started) / int(line), flush=True)


def burst(server: subprocess.Popen[str], steps: int) -> float:
    """Seconds per step of one arm."""
    assert server.stdin is not None and server.stdout is not None
    print(steps, file=server.stdin, flush=True)
    return float(server.stdout.readline())


def main(rounds: int = 5, steps: int = 5) -> None:
    """Print for each arm the median over the rounds; each round has two bursts of some steps."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    start = {"args": [sys.executable, __file__, "serve"], "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    servers = {arm: subprocess.Popen(**start, env={**inherited, **own}, text=True) for arm, own in ARMS.items()}
    seconds: dict[str, tuple[list[float], list[float]]] = {arm: ([], []) for arm in ARMS}
    for server in servers.values():
        burst(server, 2)
    for _ in range(rounds):
        for beside in (0, 1):
            # Linux shares the cores among sessions, so the neighbour has its own, as in another terminal.
            neighbours = [subprocess.Popen(BUSY, start_new_session=True) for _ in range(beside)]
            for arm, server in servers.items():
                seconds[arm][beside].append(burst(server, steps))
            for neighbour in neighbours:
                neighbour.kill()
    for arm, server in servers.items():
        server.kill()
        alone, beside = (statistics.median(values) for values in seconds[arm])
        print(f"{arm:28} alone {alone:.2f} s, beside a busy process {beside:.2f} s: {beside / alone:.1f} times")


if __name__ == "__main__":
    serve() if "serve" in sys.argv else typer.run(main)
