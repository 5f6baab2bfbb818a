"""Mining inside a training step: verl's own trainer, Ray, TransferQueue and rollout engine, beside the bare engine.

Each arm is a short training run of verl's entry point; what is timed is the rollout phase of its steps
(``timing_s/gen``): from when its prompts have been handed out until a whole batch is there. The first steps pay for
kernels, caches and the start of processes and are not counted.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from divek_verl.cpu.machine import prepare_machine
from divek_verl.demo.processes import running
from divek_verl.demo.run import environment
from divek_verl.errors import SetupError
from divek_verl.files import read_lines
from mining_parts.common import Section, Workload
from mining_parts.offline import BareEngine

BENCHMARKS = Path(__file__).resolve().parents[1]
MINING_ONLY = "actor_rollout_ref.rollout.agent.agent_loop_manager_class=mining_parts.mining_only.MiningOnlyManager"
# A batch needs a rollout of each image: one, of one token.
ALONE = (MINING_ONLY, "actor_rollout_ref.rollout.n=1", "divek.allow_custom=true")
MINING, SINGLY, ROLLOUTS, BOTH = "mining", "mining with K requests an image", "rollouts", "mining and rollouts"
ARMS: dict[str, tuple[str, ...]] = {
    MINING: ALONE,
    SINGLY: (*ALONE, "divek.group_requests=false"),
    # Options from the class list: these questions cost no sampling.
    ROLLOUTS: ("divek.option_source=random",),
    BOTH: (),
}
FIRST_STEPS = 2
# A step without rollouts takes seconds, one with them half a minute.
STEPS = {MINING: 9, SINGLY: 6, ROLLOUTS: 3, BOTH: 3}
ALL_CORES = "vllm.LLM.generate, all cores"
SECONDS_OF_ONE_RUN = 1800
LEAST_SHARE_OF_THE_ENGINE = 0.80


def run_arm(name: str, workload: Workload, seed: int) -> tuple[list[float], list[Mapping[str, Any]]]:
    """One training run: seconds of the counted steps' rollout phases, and the records of their images.

    Raises:
        SetupError: verl ended with an error; the end of its log is in the message.
    """
    on_cpu = prepare_machine()
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")]
    variables = {**(environment() if on_cpu else {}), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # The priority of the bare engine, which Ray's workers would lower otherwise.
    variables["RAY_worker_niceness"] = "0"
    with tempfile.TemporaryDirectory(prefix="divek-online-") as scratch:
        folder, log = Path(scratch) / "run", Path(scratch) / "log"
        with running(_command(name, workload, folder, seed, on_cpu), log, variables) as process:
            status = process.wait(timeout=SECONDS_OF_ONE_RUN)
        if status:
            raise SetupError(f"verl ended with status {status}:\n{log.read_text(errors='replace')[-4000:]}")
        metrics, records = (read_lines(folder / name)[0] for name in ("metrics.jsonl", "questions.jsonl"))
    seconds = [line["data"]["timing_s/gen"] for line in metrics if line["step"] > FIRST_STEPS]
    return seconds, [record for record in records if record["step"] > FIRST_STEPS]


def _command(name: str, workload: Workload, folder: Path, seed: int, on_cpu: bool) -> list[str]:
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
        "actor_rollout_ref.rollout.n": 8,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
        "divek.num_samples": workload.samples,
        "divek.repetition_penalty": 1.0,
        "divek.max_images_in_flight": workload.images,
        # Every step has the same images whatever the policy says, so that arms can be compared.
        "divek.skip_easy": "false",
        # The trainer's polls take processor time from the engine, and the trainer waits for each.
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


def measure(workload: Workload, section: Section) -> None:
    """Seconds of each arm for one batch, in turns with the bare engine."""
    prepare_machine()
    rows = workload.rows(workload.images)
    # One with the threads of verl's engine; and one with all cores, which here the trainer needs as well.
    bare = {BareEngine.name: BareEngine(workload, rows, threads=1)}
    bare[ALL_CORES] = BareEngine(workload, rows, threads=os.cpu_count())
    for engine in bare.values():
        engine.rate(len(rows))
    del os.environ["OMP_NUM_THREADS"]
    mined: list[Mapping[str, Any]] = []
    for repetition in range(max(1, workload.repetitions // min(STEPS.values()))):
        for name, steps in STEPS.items():
            for _ in range(steps):
                for engine_name, engine in bare.items():
                    section.add(engine_name, len(rows) / engine.rate(len(rows)))
            measured, records = run_arm(name, workload, repetition)
            mined += records if name == MINING else []
            for seconds in measured:
                section.add(name, seconds)
                print(f"[{section.name}] {name}: {seconds:.2f} s", flush=True)
    mining = section.median(MINING)
    section.claim(
        "images/s of mining in a training step, as a share of the bare engine's",
        section.median(BareEngine.name) / mining,
        LEAST_SHARE_OF_THE_ENGINE,
    )
    section.claim(
        "seconds of mining and rollouts together, as a share of the sum of both alone",
        section.median(BOTH) / (mining + section.median(ROLLOUTS)),
        1.0,
        at_most=True,
    )
    cached = sum(record["cached_tokens"] for record in mined) / sum(record["prompt_tokens"] for record in mined)
    section.facts |= {
        "the same, of the bare engine's on all cores": round(section.median(ALL_CORES) / mining, 3),
        "cached share of the K prompts": round(cached, 3),
        "seconds from first to last answer of one image": round(
            statistics.mean(record["mining_seconds"] for record in mined), 2
        ),
        "times that K requests take, to one request with n=K": round(section.median(SINGLY) / mining, 2),
    }
