"""Does a long run survive the death of its processes, with nothing lost and nothing counted twice?

    python benchmarks/soak.py --home runs/soak --steps 300 --kills 20

trains the demo's model, and kills one process (-9) at random moments: verl's trainer, an agent-loop worker, vLLM's
engine or the recorder. The run has to end by itself, and the same command continues it. Only where the engine dies
during verl's weight sync, which waits for it for ever, the run is ended from outside, and that is counted. Resumable:
the kills that are done are in the results file. At the end the records are checked; prints what does not hold.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from divek_verl.demo.processes import MARK, marked, running
from divek_verl.demo.run import Plan, environment, last_step, prepare_model, training_command
from divek_verl.report.reading import read_metrics, read_run
from divek_verl.trainer.vote_store import CHECKPOINT_FILE
from divek_verl.votes_file import read_votes_file

RESULTS = Path(__file__).resolve().parent / "results" / "soak.json"
VICTIMS = {
    "trainer": "ray::TaskRunner",
    "worker": "ray::TwoStageAgentLoopWorker",
    "engine": "VLLM::EngineCore",
    "recorder": "ray::RunRecorder",
}
BATCH = 4
SAVE_EVERY, VALIDATE_EVERY, VALIDATION_IMAGES = 5, 50, 16
SECONDS_TO_END, SECONDS_OF_A_STEP = 150.0, 600.0
OVERRIDES = (
    f"data.train_batch_size={BATCH}",
    f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.optim.lr=1e-6",
    "divek.num_samples=6",
    "divek.max_vote_age=100",
    f"divek.val_max_images={VALIDATION_IMAGES}",
    f"trainer.save_freq={SAVE_EVERY}",
    f"trainer.test_freq={VALIDATE_EVERY}",
    "trainer.val_before_train=false",
    "trainer.max_actor_ckpt_to_keep=2",
)


def schedule(steps: int, kills: int, seed: int) -> list[tuple[int, str, float]]:
    """(step, victim, seconds into it) of each kill; every victim about equally often, and none in the last steps."""
    rng = random.Random(seed)
    victims = [name for _ in range(kills) for name in VICTIMS][:kills]
    rng.shuffle(victims)
    when = sorted(rng.sample(range(1, max(kills + 1, steps - SAVE_EVERY)), kills))
    return [(step, victim, round(rng.uniform(0, 4), 2)) for step, victim in zip(when, victims, strict=True)]


def mark_of(pid: int) -> str:
    """What all processes of a run have in their environment; empty before the command has started."""
    environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next((entry.split("=", 1)[1] for entry in environ if entry.startswith(f"{MARK}=")), "")


def run_until(plan: Plan, kill: tuple[int, str, float] | None) -> dict[str, Any]:
    """Start or continue the run; kill the victim in its step, or wait for the end."""
    log = plan.run_dir / "train.log"
    started = time.monotonic()
    with running(training_command(plan), log, environment()) as process:
        killed, mark = None, ""
        seen, seen_at = -1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.5)
            mark = mark or mark_of(process.pid)
            if (step := last_step(plan.run_dir)) != seen:
                seen, seen_at = step, time.monotonic()
            if killed is None and kill is not None and seen >= kill[0]:
                time.sleep(kill[2])
                found = [each for each in marked(mark) if VICTIMS[kill[1]] in " ".join(each.cmdline())]
                for each in found[:1]:
                    os.kill(each.pid, signal.SIGKILL)
                killed = time.monotonic()
            if time.monotonic() - (killed or seen_at) > (SECONDS_TO_END if killed else SECONDS_OF_A_STEP):
                break
        status = process.poll()
        ended = time.monotonic()
    return {
        "step": seen,
        "status": status,
        "seconds": round(ended - started),
        "seconds_to_end": None if killed is None else round(ended - killed, 1),
        "processes_left": len(marked(mark)),
    }


def problems(plan: Plan, done: list[dict[str, Any]]) -> list[str]:
    """What does not hold after the run; empty if all does."""
    found = []
    hung = [each for each in done if each["status"] is None and each["planned"][1] != "engine"]
    found += [f"{len(hung)} runs did not end by themselves: {hung}"] if hung else []
    left = sum(each["processes_left"] for each in done)
    found += [f"{left} processes were left"] if left else []
    # verl logs a step after its checkpoint and its weight sync: one that ended there is not trained again.
    unlogged = set(range(1, plan.steps + 1)) - set(read_metrics(plan.run_dir))
    if len(unlogged) > sum(each["status"] is None for each in done):
        found.append(f"steps are missing: {sorted(unlogged)}")
    run = read_run(plan.run_dir)
    visits = Counter((record.step, record.image_id) for record in run.training if record.reason is None)
    twice = [key for key, count in visits.items() if count > 1]
    found += [f"visits count twice: {twice[:5]}"] if twice else []
    # A group that was asked ahead is recorded in the step that asked for it.
    if len(visits) < BATCH * plan.steps:
        found.append(f"{len(visits)} groups are recorded for {plan.steps} steps of {BATCH}")
    for source, by_step in run.validation.items():
        for step in range(VALIDATE_EVERY, plan.steps + 1, VALIDATE_EVERY):
            count = len(by_step.get(step, {}))
            if count != VALIDATION_IMAGES:
                found.append(f"validation {step} of {source} has {count} of {VALIDATION_IMAGES} images")
    log = (plan.run_dir / "train.log").read_text(errors="replace")
    resumed = log.count("Resuming from")
    loaded = log.count("loaded the votes on")
    if loaded < resumed:
        found.append(f"the votes of {resumed - loaded} of {resumed} checkpoints were not used again")
    last = plan.run_dir / f"global_step_{plan.steps}" / CHECKPOINT_FILE
    if not (last.is_file() and read_votes_file(last).complete):
        found.append("the last checkpoint has no whole votes file")
    parts = [str(path) for path in plan.run_dir.rglob("*.part")]
    found += [f"unfinished files: {parts}"] if parts else []
    return found


def main(
    home: Annotated[Path, typer.Option(help="Folder of the demo's data and model, and of the run.")] = Path(
        "runs/soak"
    ),
    steps: Annotated[int, typer.Option(min=2)] = 300,
    kills: Annotated[int, typer.Option(min=1)] = 20,
    seed: int = 0,
    results: Path = RESULTS,
) -> None:
    """Run, kill, continue, check."""
    console, where = Console(), home.resolve()
    plan = Plan(run_dir=where / f"soak-{steps}-{kills}-{seed}", home=where, seed=seed, steps=steps, overrides=OVERRIDES)
    prepare_model(plan, console)
    planned = schedule(steps, kills, seed)
    asked = {"steps": steps, "kills": [list(each) for each in planned], "seed": seed}
    state = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    if state.get("asked") != asked:
        state = {"asked": asked, "done": [], "problems": None}
    while last_step(plan.run_dir) < steps:
        kill = planned[len(state["done"])] if len(state["done"]) < kills else None
        outcome = run_until(plan, kill)
        if kill is None:
            if outcome["status"]:
                raise SystemExit(f"the run ended with status {outcome['status']} without a kill: see its log")
            break
        state["done"].append({"planned": list(kill), **outcome})
        results.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        console.print(f"{len(state['done'])} of {kills}: {kill[1]} killed after step {outcome['step']}", outcome)
    state["hung_in_weight_sync"] = sum(each["status"] is None for each in state["done"])
    state["problems"] = problems(plan, state["done"])
    results.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    console.print(f"{state['hung_in_weight_sync']} runs waited for a dead engine in verl's weight sync")
    console.print(state["problems"] or "everything holds")


if __name__ == "__main__":
    typer.run(main)
