"""A model folder of a verl checkpoint: FSDP shards are merged by verl's own merger, once, into a folder beside them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from divek_verl.errors import SetupError

MERGED = "actor_merged"
MERGED_FROM = "merged_from.json"
# verl's names
SHARDED = "fsdp_config.json"
LATEST = "latest_checkpointed_iteration.txt"


def model_folder(model: str) -> str:
    """A folder in Hugging Face's format for ``model``; a name that is no folder stays as it is.

    Accepted are such a folder itself, an ``actor`` folder of FSDP shards, the ``global_step_N`` above it, and the run
    folder above that, which stands for its latest checkpoint. Merging unpickles the shards: give it your own ones.

    Raises:
        SetupError: a folder that holds no model, or verl's merger fails.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    if (folder / "config.json").is_file():
        return str(folder)
    actor = _sharded_actor(folder)
    if actor is None:
        raise SetupError(
            f"{model} holds neither a model (config.json) nor a verl checkpoint ({SHARDED}): give a Hugging Face "
            "folder, a run folder, or its global_step_N."
        )
    return str(_merged(actor))


def _sharded_actor(folder: Path) -> Path | None:
    candidates = [folder, folder / "actor"]
    latest = folder / LATEST
    if latest.is_file():
        candidates.append(folder / f"global_step_{latest.read_text(encoding='utf-8').strip()}" / "actor")
    return next((path for path in candidates if (path / SHARDED).is_file()), None)


def _merged(actor: Path) -> Path:
    target = actor.parent / MERGED
    shards = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(actor.glob("model_*.pt"))}
    if _read(target / MERGED_FROM) == shards and (target / "config.json").is_file():
        return target
    # Beside the target, so that renaming is one step and no half model is ever seen.
    scratch = Path(tempfile.mkdtemp(prefix=f".{MERGED}-", dir=actor.parent))
    try:
        _run_merger(actor, scratch / "model")
        (scratch / "model" / MERGED_FROM).write_text(json.dumps(shards), encoding="utf-8")
        if target.exists():
            target.rename(scratch / "old")
        (scratch / "model").rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _run_merger(actor: Path, target: Path) -> None:
    from divek_verl.cpu.machine import prepare_machine

    # The merger imports verl, which has to be told where there is no GPU.
    prepare_machine()
    print(f"divek_verl: merging the FSDP shards of {actor} (once)", flush=True)
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    command += ["--local_dir", str(actor), "--target_dir", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ.copy())
    if done.returncode or not (target / "config.json").is_file():
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise SetupError(f"verl's merger could not merge {actor}: {lines[-1]}")
