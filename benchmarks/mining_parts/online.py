"""Mining inside a training step: verl's own trainer, Ray, TransferQueue and rollout engine, beside the bare engine.

Each arm is a short training run of verl's entry point; what is timed is the rollout phase of its steps
(``timing_s/gen``): from when its prompts have been handed out until a whole batch is there. The first steps pay for
kernels, caches and the start of processes and are not counted.
"""

import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from divek_verl.cpu.machine import prepare_machine
from divek_verl.demo.processes import running
from divek_verl.demo.run import environment, read_metrics
from divek_verl.engines.pictures import PromptBuilder
from divek_verl.errors import SetupError
from divek_verl.files import read_lines
from mining_parts.measuring import Section, Workload
from mining_parts.offline import BareEngine
from mining_parts.processor_time import Watch
from mining_parts.workload import read_rows

BENCHMARKS = Path(__file__).resolve().parents[1]
MINING_ONLY = "actor_rollout_ref.rollout.agent.agent_loop_manager_class=mining_parts.mining_only.MiningOnlyManager"
# A batch has to have a rollout of each image: one, of one token.
ALONE = (MINING_ONLY, "actor_rollout_ref.rollout.n=1")
MINING, SINGLY = "mining", "mining with K requests an image"
ARMS: dict[str, tuple[str, ...]] = {
    MINING: ALONE,
    SINGLY: (*ALONE, "divek.group_requests=false"),
    # Options from the class list: these questions cost no sampling.
    "rollouts": ("divek.option_source=random",),
    "mining and rollouts": (),
}
ROLLOUTS = 8
FIRST_STEPS = 2
# A step without rollouts takes seconds, one with them half a minute.
STEPS = {MINING: 9, SINGLY: 6, "rollouts": 3, "mining and rollouts": 3}
ALL_CORES = "vllm.LLM.generate, all cores"
SECONDS_OF_ONE_RUN = 1800
LEAST_SHARE_OF_THE_ENGINE = 0.80


@dataclass(frozen=True)
class Steps:
    """The counted steps of one run: seconds of their rollout phases, and what their images report."""

    seconds: list[float]
    mining_seconds: float
    cached_share: float | None
    processor_seconds: dict[str, float]


def run_arm(name: str, workload: Workload, seed: int) -> Steps:
    """One training run of an arm, from start to end.

    Raises:
        SetupError: verl ended with an error; the end of its log is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="divek-online-") as scratch:
        folder, log = Path(scratch) / "run", Path(scratch) / "log"
        with running(_command(name, workload, folder, seed), log, _environment(folder)) as process:
            # The images of the first steps are not counted.
            first = workload.images * FIRST_STEPS
            watch = Watch(lambda: _family(process.pid), lambda: _visits(folder) >= first)
            with watch.looking():
                status = process.wait(timeout=SECONDS_OF_ONE_RUN)
        if status:
            raise SetupError(f"verl ended with status {status}:\n{log.read_text(errors='replace')[-4000:]}")
        return _read(folder, watch.used)


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _visits(folder: Path) -> int:
    records = folder / "questions.jsonl"
    return records.read_bytes().count(b"\n") if records.is_file() else 0


def _environment(folder: Path) -> dict[str, str]:
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")]
    on_cpu = environment() if prepare_machine() else {}
    # The same priority as the bare engine has, which Ray's workers would give up otherwise.
    return {**on_cpu, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "RAY_worker_niceness": "0"}


def _command(name: str, workload: Workload, folder: Path, seed: int) -> list[str]:
    on_cpu = prepare_machine()
    settings = {
        "data.train_files": workload.data,
        "data.val_files": workload.data,
        "data.train_batch_size": workload.images,
        "data.max_prompt_length": 256 if on_cpu else 2048,
        "data.max_response_length": workload.max_new_tokens,
        "data.seed": seed,
        "actor_rollout_ref.model.path": workload.model,
        "actor_rollout_ref.actor.ppo_mini_batch_size": workload.images,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 32 if on_cpu else 4,
        "actor_rollout_ref.actor.use_kl_loss": "false",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 32 if on_cpu else 4,
        "actor_rollout_ref.rollout.n": ROLLOUTS,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
        "divek.num_samples": workload.samples,
        "divek.repetition_penalty": 1.0,
        "divek.max_images_in_flight": workload.images,
        # Every step has the same images whatever the policy says, so that arms can be compared.
        "divek.skip_easy": "false",
        # Polls of the trainer's take processor time from the engine, and each is waited for: between the two.
        "divek.poll_interval": 0.05,
        "trainer.n_gpus_per_node": 1,
        "trainer.total_epochs": 1000,
        "trainer.total_training_steps": FIRST_STEPS + STEPS[name],
        "trainer.val_before_train": "false",
        "trainer.test_freq": -1,
        "trainer.save_freq": -1,
        "trainer.logger": "[console]",
        "trainer.default_local_dir": folder,
        "hydra.run.dir": folder / "hydra",
    }
    overrides = [f"{key}={value}" for key, value in settings.items()] + list(ARMS[name])
    config = "divek_cpu" if on_cpu else "divek_trainer"
    return [sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", config, *overrides]


def _read(folder: Path, processor_seconds: dict[str, float]) -> Steps:
    metrics = read_metrics(folder)
    visits = [visit for visit in read_lines(folder / "questions.jsonl")[0] if visit["step"] > FIRST_STEPS]
    shares = [visit["cached_share"] for visit in visits if visit["cached_share"] is not None]
    return Steps(
        seconds=[metrics[step]["timing_s/gen"] for step in sorted(metrics) if step > FIRST_STEPS],
        mining_seconds=statistics.mean(visit["mining_seconds"] for visit in visits),
        cached_share=statistics.mean(shares) if shares else None,
        processor_seconds=processor_seconds,
    )


def measure(workload: Workload, section: Section, arms: Sequence[str] = tuple(ARMS)) -> Section:
    """Seconds of each arm for one batch, in turns with the bare engine; what follows from their medians."""
    from transformers import AutoProcessor

    prepare_machine()
    rows = read_rows(workload.data, workload.images)
    prompts = PromptBuilder(AutoProcessor.from_pretrained(workload.model))
    # The threads that verl's engine has; and, to be seen beside it, all cores, which here the trainer needs as well.
    bare = BareEngine(workload, rows, prompts, shares=os.cpu_count() or 1)
    unshared = BareEngine(workload, rows, prompts)
    for engine in (bare, unshared):
        engine.rate(len(rows))
    found: dict[str, list[Steps]] = {}
    for repetition in range(max(1, workload.repetitions // min(STEPS.values()))):
        for name in arms:
            for _ in range(STEPS[name]):
                section.add(bare.name, len(rows) / bare.rate(len(rows)))
                section.add(ALL_CORES, len(rows) / unshared.rate(len(rows)))
            found.setdefault(name, []).append(run_arm(name, workload, repetition))
            for seconds in found[name][-1].seconds:
                section.add(name, seconds)
                print(f"[{section.name}] {name}: {seconds:.2f} s", flush=True)
    _conclude_on_mining(section, found[MINING], bare.name, len(rows))
    if len(found) == len(ARMS):
        _conclude_on_rollouts(section)
    return section


def _breakdown(runs: list[Steps], images: int) -> dict[str, float]:
    """The engine's own part, and what else a training step's mining costs; below a millisecond is left out."""
    total: Counter[str] = Counter()
    for run in runs:
        total.update(run.processor_seconds)
    counted = images * sum(len(run.seconds) for run in runs)
    each = {name: round(1000 * seconds / counted, 1) for name, seconds in total.most_common()}
    return {name: milliseconds for name, milliseconds in each.items() if milliseconds >= 1}


def _conclude_on_mining(section: Section, runs: list[Steps], bare: str, images: int) -> None:
    mining = section.median(MINING)
    section.claim(
        "images/s of mining in a training step, as a share of the bare engine's",
        section.median(bare) / mining,
        LEAST_SHARE_OF_THE_ENGINE,
    )
    section.facts["the same, of the bare engine's on all cores"] = round(section.median(ALL_CORES) / mining, 3)
    section.facts["processor milliseconds an image, by process"] = _breakdown(runs, images)
    shares = [run.cached_share for run in runs if run.cached_share is not None]
    section.facts["cached share of the K prompts"] = round(statistics.mean(shares), 3)
    seconds = statistics.mean(run.mining_seconds for run in runs)
    section.facts["seconds from first to last answer of one image"] = round(seconds, 2)


def _conclude_on_rollouts(section: Section) -> None:
    mining = section.median(MINING)
    section.claim(
        "seconds of mining and rollouts together, as a share of the sum of both alone",
        section.median("mining and rollouts") / (mining + section.median("rollouts")),
        1.0,
        at_most=True,
    )
    singly = section.median(SINGLY)
    section.facts["times that K requests take, to one request with n=K"] = round(singly / mining, 2)
