"""A model folder from a verl checkpoint: verl's own merger merges its FSDP shards once, into a folder beside them."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from divek_verl.cpu.machine import prepare_machine
from divek_verl.engines.base import Sampling
from divek_verl.engines.options import EngineOptions
from divek_verl.errors import SetupError
from divek_verl.files import folder_aside, parse_json

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
MERGED = "actor_merged"
MERGED_FROM = "merged_from.json"
# verl's names
SHARDED = "fsdp_config.json"
LATEST = "latest_checkpointed_iteration.txt"


def model_folder(model: str) -> str:
    """A folder in Hugging Face's format for ``model``; a name on the hub is returned as it is.

    Accepted are such a folder itself, an ``actor`` folder of FSDP shards, the ``global_step_N`` above it, and the run
    folder above that, which stands for its latest checkpoint. Merging unpickles the shards: use only your own.

    Raises:
        SetupError: there is no such folder, it holds no model, or verl's merger fails.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if HUB_NAME.fullmatch(model) is None or folder.parent.is_dir():
            raise SetupError(
                f"There is no folder {model}: give the folder of a model or of a run, or a name on the hub, such as "
                "Qwen/Qwen2.5-VL-7B-Instruct."
            )
        return model
    if (folder / "config.json").is_file():
        return str(folder)
    candidates = [folder, folder / "actor"]
    if (folder / LATEST).is_file():
        step = (folder / LATEST).read_text(encoding="utf-8").strip()
        candidates.append(folder / f"global_step_{step}" / "actor")
    for candidate in candidates:
        if (candidate / SHARDED).is_file():
            return str(_merged(candidate))
    raise SetupError(
        f"{model} holds neither a model (config.json) nor a verl checkpoint ({SHARDED}): give a Hugging Face "
        "folder, a run folder, or its global_step_N."
    )


def with_model_folder(options: EngineOptions) -> EngineOptions:
    """``options`` with the ``model_folder`` that is loaded here; a server's model keeps its name."""
    return options if options.base_url else replace(options, model=model_folder(options.model))


def generation_sampling(model: str, *, max_new_tokens: int, seed: int | None) -> Sampling:
    """The sampling of the model's own ``generation_config.json``, with transformers' defaults for what it leaves out.

    Raises:
        SetupError: there is no such file.
    """
    file = Path(model) / "generation_config.json"
    try:
        given = parse_json(file.read_text(encoding="utf-8"))
        draws = bool(given.get("do_sample", False))
        return Sampling(
            temperature=float(given.get("temperature") or 1.0) if draws else 0.0,
            top_p=float(given.get("top_p") or 1.0) if draws else 1.0,
            top_k=int(given.get("top_k") or 50) if draws else -1,
            repetition_penalty=float(given.get("repetition_penalty") or 1.0),
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
    except (OSError, ValueError, TypeError, AttributeError):
        raise SetupError(
            f"{file} cannot be read: --protocol paper samples as it says; give --model a folder with that file."
        ) from None


def _merged(actor: Path) -> Path:
    target = actor.parent / MERGED
    shards = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(actor.glob("model_*.pt"))}
    try:
        known = parse_json((target / MERGED_FROM).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if known == shards and (target / "config.json").is_file():
        return target
    # The merger imports verl, which needs environment variables without a GPU.
    prepare_machine()
    print(f"divek_verl: merging the FSDP shards of {actor} (once)", flush=True)
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp", "--local_dir", str(actor)]
    with folder_aside(target) as folder:
        done = subprocess.run([*command, "--target_dir", str(folder)], capture_output=True, text=True)
        if done.returncode or not (folder / "config.json").is_file():
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise SetupError(f"verl's merger could not merge {actor}: {lines[-1]}")
        (folder / MERGED_FROM).write_text(json.dumps(shards), encoding="utf-8")
    return target
