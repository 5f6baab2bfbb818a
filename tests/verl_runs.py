"""Small real runs of verl: data, model, command, and how to watch and kill them."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from PIL import Image
from ray.cluster_utils import Cluster

from divek_verl.demo.model import build_model, build_processor, build_tokenizer, save
from divek_verl.demo.processes import MARK, end_all, marked
from divek_verl.demo.run import environment
from divek_verl.files import read_lines
from divek_verl.prepare import Classes, Example, Split, new_folder, write_set
from divek_verl.prompts import Wording, multiple_choice, open_question
from divek_verl.records import QUESTIONS_FILE, QuestionRecord

CLASSES = Classes(("Chad", "Romania", "Moldova", "Mali", "Guinea", "Senegal"))
ROLLOUTS = 4
SAMPLES = 6
SECONDS_OF_ONE_RUN = 800


def paint(folder: Path, split: str, side: str, count: int) -> Split:
    names = CLASSES.of(side).names
    rng = random.Random(split)
    examples = []
    for index in range(count):
        path = Path("images", f"{split}-{index}.png")
        (folder / "images").mkdir(exist_ok=True)
        Image.new("RGB", (112, 84), tuple(rng.randrange(256) for _ in range(3))).save(folder / path)
        examples.append(Example(image=path.as_posix(), truth=names[index % len(names)], image_id=path.stem))
    return Split(split, side, examples)


def prepare(folder: Path, train: int = 12) -> None:
    """A small set of plain colours; one validation picture is cut short."""
    with new_folder(folder) as scratch:
        splits = [paint(scratch, "train", "base", train), paint(scratch, "val_base", "base", 5)]
        write_set(scratch, "flags", CLASSES, [*splits, paint(scratch, "val_new", "new", 4)])
    # Cut short after it was prepared: its header can still be read, its pixels cannot.
    broken = folder / "images" / "val_base-4.png"
    noise = Image.effect_noise((112, 84), 80)
    noise.save(broken)
    broken.write_bytes(broken.read_bytes()[:2000])


def make_model(folder: Path) -> None:
    """An untrained Qwen2.5-VL that knows the words of both questions."""
    names = CLASSES.all
    texts = [open_question(Wording(), names), multiple_choice(Wording(), "A. Chad\nB. Mali"), "user assistant"]
    tokenizer = build_tokenizer(texts, names)
    save(build_model(tokenizer, seed=0), build_processor(tokenizer), folder)


def command(data: Path, model: Path, run_dir: Path, **changes: object) -> list[str]:
    """verl's entry point with small sizes; ``changes`` name options with ``__`` for each dot."""
    settings = {
        "data.train_files": data / "train.parquet",
        "data.val_files": f"[{data / 'val_base.parquet'},{data / 'val_new.parquet'}]",
        "data.train_batch_size": 4,
        "data.max_prompt_length": 256,
        "data.max_response_length": 8,
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 4,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 4,
        "actor_rollout_ref.actor.use_kl_loss": "false",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 4,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 4,
        "actor_rollout_ref.rollout.n": ROLLOUTS,
        "divek.num_samples": SAMPLES,
        "trainer.total_epochs": 100,
        "trainer.val_before_train": "false",
        "trainer.test_freq": -1,
        "trainer.save_freq": 1,
        "trainer.logger": "[console]",
        "trainer.default_local_dir": run_dir,
        "hydra.run.dir": run_dir / "hydra",
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    overrides = [f"{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "divek_cpu", *overrides]


@contextmanager
def two_ray_nodes() -> Iterator[tuple[dict[str, object], str]]:
    """Two Ray nodes on this machine, each with one logical GPU.

    Yields the options with which a run joins them, and the mark that all processes of both nodes carry.
    """
    mark = uuid.uuid4().hex
    resources = {"num_cpus": 16, "num_gpus": 1}
    # The nodes' processes inherit this environment, and give it to verl's workers.
    with mock.patch.dict(os.environ, {**environment(), MARK: mark}):
        cluster = Cluster(initialize_head=True, head_node_args={**resources, "include_dashboard": False})
        try:
            cluster.add_node(**resources)
            joining = {
                "trainer__nnodes": 2,
                "actor_rollout_ref__rollout__agent__num_workers": 2,
                "ray_kwargs__ray_init__num_cpus": "null",
                "ray_kwargs__ray_init__num_gpus": "null",
                "+ray_kwargs__ray_init__address": cluster.address,
            }
            yield joining, mark
        finally:
            cluster.shutdown()
            for process in marked(mark):
                process.kill()


def wait_until(happened: Callable[[], bool], process: subprocess.Popen, log: Path, what: str) -> None:
    """Wait while verl runs; if it ends or takes too long, the message holds the end of its log."""
    deadline = time.monotonic() + SECONDS_OF_ONE_RUN
    while not happened():
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-8000:]
            raise AssertionError(f"{'verl ended before' if ended else 'waited too long until'} {what}\n{tail}")
        time.sleep(0.2)


def wait_for(path: Path, process: subprocess.Popen, log: Path) -> None:
    wait_until(path.is_file, process, log, f"there was {path.name}")


def read_records(folder: Path) -> list[QuestionRecord]:
    """The records that a run has written so far."""
    return [QuestionRecord.from_json(line) for line in read_lines(folder / QUESTIONS_FILE)[0]]


def finish(process: subprocess.Popen, log: Path) -> None:
    """Wait for an orderly end."""
    status = process.wait(timeout=SECONDS_OF_ONE_RUN)
    assert status == 0, log.read_text(errors="replace")[-8000:]


def mark_of(process: subprocess.Popen) -> str:
    """The value that all processes of a run carry in their environment (divek_verl/demo/processes.py)."""
    entries = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
    return next(entry.split("=", 1)[1] for entry in entries if entry.startswith(f"{MARK}="))


def kill_without_warning(process: subprocess.Popen) -> None:
    """kill -9 all processes of the run, as when a node goes down."""
    mark = mark_of(process)
    for other in marked(mark):
        os.kill(other.pid, signal.SIGKILL)
    end_all(mark, process)
    assert marked(mark) == []
