"""Runs a recipe for two steps on a CPU: its own YAML, overrides for what a CPU cannot do, tiny data, a tiny model.

bash recipes/run_qwen25vl_7b_cub.sh --toy

shows that the recipe's parts fit together in verl; it says nothing about learning, since the model is untrained.
"""

import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from composing import compose_recipe, files, package_folder
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from divek_verl.demo.processes import running
from divek_verl.demo.run import environment
from divek_verl.errors import SetupError
from divek_verl.prepare.sets import WORDINGS
from divek_verl.prompts import Wording, multiple_choice, open_question, user_prompt
from divek_verl.trainer.vote_origin import model_name
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import Origin, write_votes_file

NAMES = {
    "cub": ("Sooty Albatross", "Laysan Albatross", "Common Tern", "Arctic Tern", "Least Tern", "Common Raven"),
    "flowers": ("pink primrose", "sweet pea", "tiger lily", "fire lily", "moon orchid", "bird of paradise"),
    "pets": ("abyssinian", "bengal", "birman", "boxer", "beagle", "pug"),
    "cars": (
        "2012 Acura RL Sedan",
        "2012 Acura TL Sedan",
        "2012 Audi R8 Coupe",
        "2012 BMW M3 Coupe",
        "2007 BMW X5 SUV",
    ),
    "aircraft": ("707-320", "727-200", "737-200", "737-300", "A300B4", "A310"),
}
IMAGES = 12
STEPS = 2
# A run that takes longer than this hangs.
SECONDS = 900


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``a.b.c`` and value of each leaf of a mapping."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def cpu_settings() -> dict[str, Any]:
    """What `--config-name divek_cpu` sets for a machine without an accelerator."""
    node: Any = OmegaConf.to_container(OmegaConf.load(package_folder("divek_verl") / "config" / "divek_cpu.yaml"))
    del node["defaults"]
    return dict(flatten(node))


def toy_settings(config: DictConfig, home: Path, run_dir: Path) -> dict[str, Any]:
    """All overrides of a recipe's toy run."""
    small = {
        "recipe.data_dir": str(home / "data"),
        "recipe.model_path": str(home / "model"),
        "data.max_prompt_length": 384,
        "data.max_response_length": 8,
        # The untrained model is a Qwen2.5-VL and is served by vLLM, whatever the recipe's own model and engine are.
        "data.image_patch_size": 14,
        "actor_rollout_ref.rollout.name": "vllm",
        "actor_rollout_ref.rollout.layered_summon": False,
        "trainer.total_training_steps": STEPS,
        "trainer.test_freq": STEPS,
        "trainer.save_freq": -1,
        "trainer.logger": ["console", "file"],
        "trainer.default_local_dir": str(run_dir),
        "hydra.run.dir": str(run_dir / "hydra"),
    }
    if OmegaConf.select(config, "divek") is not None:
        small["divek.num_samples"] = 4
    return {**cpu_settings(), **small}


def as_override(name: str, value: Any) -> str:
    """In Hydra's grammar; ``++`` changes a key that is there and adds one that is not."""
    text = "null" if value is None else json.dumps(value) if not isinstance(value, str) else value
    # What is an interpolation stays one, all else is quoted.
    quoted = text if not isinstance(value, str) or "${" in text else f"'{text}'"
    return f"{'' if name.startswith('hydra.') else '++'}{name}={quoted}"


def sides(few_shot: bool, names: Sequence[str]) -> dict[str, tuple[str, Sequence[str]]]:
    """File name -> side and classes of its rows."""
    half = (len(names) + 1) // 2
    if few_shot:
        return {"train": ("all", names), "val": ("all", names)}
    return {"train": ("base", names[:half]), "val_base": ("base", names[:half]), "val_new": ("new", names[half:])}


def write_set(folder: Path, dataset: str, few_shot: bool) -> None:
    """A prepared set of plain pictures."""
    names = NAMES[dataset]
    half = (len(names) + 1) // 2
    lists = {"base": names[:half], "new": names[half:], "all": names, "wording": asdict(WORDINGS[dataset])}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_text(json.dumps(lists))
    for name, (side, classes) in sides(few_shot, names).items():
        count = IMAGES if name == "train" else 3
        rows = [build_row(folder, dataset, side, name, classes, index) for index in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def build_row(folder: Path, dataset: str, side: str, split: str, classes: Sequence[str], index: int) -> dict[str, Any]:
    """A row in verl's schema, and its picture."""
    image_id = f"{split}-{index}"
    rng = random.Random(f"{dataset}-{image_id}")
    Image.new("RGB", (112, 84), tuple(rng.randrange(256) for _ in range(3))).save(folder / f"images/{image_id}.png")
    return {
        "data_source": f"divek/{dataset}/{side}",
        "prompt": user_prompt(open_question(WORDINGS[dataset], classes)),
        "images": [{"image": f"images/{image_id}.png"}],
        "ability": "classification",
        "reward_model": {"style": "rule", "ground_truth": classes[index % len(classes)]},
        "extra_info": {"index": index, "split": split, "image_id": image_id, "dataset": dataset},
    }


def write_data(config: DictConfig) -> None:
    """Every prepared set that the recipe names, and its votes file."""
    for folder in sorted({file.parent for file in [*files(config, "train_files"), *files(config, "val_files")]}):
        write_set(folder, folder.name.removesuffix("_4shot"), config.recipe.few_shot)
    if OmegaConf.select(config, "divek.votes_file") is not None:
        write_votes(config)


def write_votes(config: DictConfig) -> None:
    """Made-up votes in the form of `divek mine`: the truth and a neighbour."""
    mined = []
    for file in files(config, "train_files"):
        for row in pq.read_table(file).to_pylist():
            source = row["data_source"]
            names = sides(config.recipe.few_shot, NAMES[source.split("/")[1]])["train"][1]
            truth = row["reward_model"]["ground_truth"]
            other = next(name for name in names if name != truth)
            mined.append(MinedVotes(source, row["extra_info"]["image_id"], Votes({truth: 3, other: 1})))
    # Of the run's own model; no settings, which would have to be the run's own too.
    write_votes_file(Path(config.divek.votes_file), Origin(model_name(config.actor_rollout_ref.model.path)), mined)


def make_model(folder: Path) -> None:
    """A small Qwen2.5-VL, untrained, whose tokenizer knows the words of all toy sets."""
    if (folder / "config.json").is_file():
        return
    from divek_verl.demo.model import build_model, build_processor, build_tokenizer, save

    names = [name for listed in NAMES.values() for name in listed]
    texts = [ask(WORDINGS[dataset], listed) for dataset, listed in NAMES.items() for ask in (open_question, _choices)]
    tokenizer = build_tokenizer([*texts, "user assistant"], names)
    save(build_model(tokenizer, seed=0), build_processor(tokenizer), folder)


def _choices(wording: Wording, names: Sequence[str]) -> str:
    return multiple_choice(wording, f"A. {names[0]}\nB. {names[1]}")


def run_toy(name: str, overrides: Sequence[str], home: Path) -> Path:
    """The file of metrics of a toy run, a JSON object a line.

    Raises:
        SetupError: verl ended with an error (the end of its log is printed) or logged no last step.
    """
    plain = compose_recipe(name, *overrides)
    run_dir = home / plain.trainer.experiment_name
    settings = [as_override(*item) for item in toy_settings(plain, home, run_dir).items()]
    given = [*overrides, *settings]
    make_model(home / "model")
    write_data(compose_recipe(name, *(each for each in given if not each.startswith("hydra."))))
    metrics, log = run_dir / "metrics_of_verl.jsonl", run_dir / "train.log"
    metrics.unlink(missing_ok=True)
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-dir", str(Path(__file__).parent)]
    with running([*command, "--config-name", name, *given], log, variables(metrics)) as process:
        status = process.wait(timeout=SECONDS)
    if status or not _has_step(metrics):
        print("\n".join(log.read_text(errors="replace").splitlines()[-40:]), file=sys.stderr)
        raise SetupError(f"The toy run of {name} ended with status {status}: see the end of {log} above.")
    return metrics


def variables(metrics: Path) -> dict[str, str]:
    """Environment of a toy run."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    return {**environment(), "PYTHONPATH": path, "VERL_FILE_LOGGER_PATH": str(metrics)}


def _has_step(metrics: Path) -> bool:
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    return any(json.loads(line)["step"] == STEPS for line in lines)


def main(arguments: Sequence[str]) -> int:
    """Exit status of ``toy.py RECIPE [OVERRIDES...]``."""
    name, *overrides = arguments
    home = Path(os.environ.get("TOY_DIR", "runs/toy")).resolve()
    try:
        metrics = run_toy(name, overrides, home)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{name}: {STEPS} steps done, metrics in {metrics}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
