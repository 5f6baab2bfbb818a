"""Runs a recipe for two steps on a CPU, with tiny data and a tiny untrained model: `run_qwen25vl_7b_cub.sh --toy`.

It shows that the parts of the recipe fit together in verl. Nothing is learned.
"""

import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from recipe import RECIPES, compose_recipe, package_folder, votes_file

from divek_verl.demo.processes import running
from divek_verl.demo.run import environment
from divek_verl.errors import SetupError
from divek_verl.estimate import data_files
from divek_verl.prepare.sets import WORDINGS
from divek_verl.prompts import multiple_choice, open_question, user_prompt
from divek_verl.provenance import flatten
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import Origin, model_name, write_votes_file

NAMES = {
    "cub": ("Sooty Albatross", "Laysan Albatross", "Common Tern", "Arctic Tern", "Least Tern", "Common Raven"),
    "flowers": ("pink primrose", "sweet pea", "tiger lily", "fire lily", "moon orchid", "bird of paradise"),
    "pets": ("abyssinian", "bengal", "birman", "boxer", "beagle", "pug"),
    "cars": ("2012 Acura RL Sedan", "2012 Acura TL Sedan", "2012 Audi R8 Coupe", "2012 BMW M3 Coupe"),
    "aircraft": ("707-320", "727-200", "737-200", "737-300", "A300B4", "A310"),
}
IMAGES = 48
STEPS = 2
TIMEOUT_S = 900  # a run that takes longer hangs


def toy_settings(config: DictConfig, home: Path, run_dir: Path) -> dict[str, Any]:
    """The options that a toy run changes: those of `--config-name divek_cpu`, and sizes."""
    cpu: Any = OmegaConf.to_container(OmegaConf.load(package_folder("divek_verl") / "config" / "divek_cpu.yaml"))
    del cpu["defaults"]
    small = {
        "recipe.data_dir": str(home / "data"),
        "recipe.model_path": str(home / "model"),
        "recipe.prompts": 6,
        "data.max_prompt_length": 384,
        "data.max_response_length": 8,
        # The untrained model is a Qwen2.5-VL and vLLM serves it, whatever the recipe's own model and engine are.
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
    if "divek" in config:
        small["divek.num_samples"] = 4
    return {**dict(flatten(cpu)), **small}


def as_override(name: str, value: Any) -> str:
    """An override in Hydra's grammar; ``++`` changes a key that exists and adds one that does not."""
    # Interpolations stay interpolations; other strings are quoted.
    text = json.dumps(value) if not isinstance(value, str) else value if "${" in value else f"'{value}'"
    return f"{'' if name.startswith('hydra.') else '++'}{name}={text}"


def write_data(config: DictConfig) -> None:
    """Write every prepared set that the recipe names, and made-up votes if it reads a votes file."""
    for folder in sorted(
        {file.parent for file in [*data_files(config, "train_files"), *data_files(config, "val_files")]}
    ):
        write_set(folder, folder.name.removesuffix("_4shot"), config.recipe.few_shot)
    if (votes := votes_file(config)) is None:
        return
    mined = []
    for file in data_files(config, "train_files"):
        for row in pq.read_table(file).to_pylist():
            source, truth = row["data_source"], row["reward_model"]["ground_truth"]
            # The truth and another class of the same side; the first two classes are on it in every setting.
            other = next(name for name in NAMES[source.split("/")[1]] if name != truth)
            mined.append(MinedVotes(source, row["extra_info"]["image_id"], Votes({truth: 3, other: 1})))
    write_votes_file(votes, Origin(model_name(config.actor_rollout_ref.model.path)), mined)


def write_set(folder: Path, dataset: str, few_shot: bool) -> None:
    """Write a prepared set of plain pictures."""
    names, wording = NAMES[dataset], WORDINGS[dataset]
    half = (len(names) + 1) // 2
    lists = {"base": names[:half], "new": names[half:], "all": names}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_text(json.dumps({**lists, "wording": asdict(wording)}))
    sides = {"train": "all", "val": "all"} if few_shot else {"train": "base", "val_base": "base", "val_new": "new"}
    for split, side in sides.items():
        rows = []
        for index in range(IMAGES if split == "train" else 3):
            image_id = f"{split}-{index}"
            rng = random.Random(f"{dataset}-{image_id}")
            colour = tuple(rng.randrange(256) for _ in range(3))
            Image.new("RGB", (112, 84), colour).save(folder / f"images/{image_id}.png")
            row = {
                "data_source": f"divek/{dataset}/{side}",
                "prompt": user_prompt(open_question(wording, lists[side])),
                "images": [{"image": f"images/{image_id}.png"}],
                "ability": "classification",
                "reward_model": {"style": "rule", "ground_truth": lists[side][index % len(lists[side])]},
                "extra_info": {"index": index, "split": split, "image_id": image_id, "dataset": dataset},
            }
            rows.append(row)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")


def make_model(folder: Path) -> None:
    """Write a small untrained Qwen2.5-VL whose tokenizer knows the words of all toy sets."""
    if (folder / "config.json").is_file():
        return
    from divek_verl.demo.model import build_model, build_processor, build_tokenizer, save

    texts = ["user assistant"]
    for dataset, names in NAMES.items():
        wording = WORDINGS[dataset]
        texts += [open_question(wording, names), multiple_choice(wording, f"A. {names[0]}\nB. {names[1]}")]
    tokenizer = build_tokenizer(texts, [name for names in NAMES.values() for name in names])
    save(build_model(tokenizer, seed=0), build_processor(tokenizer), folder)


def run_toy(overrides: Sequence[str], home: Path) -> Path:
    """Run a recipe in small and return the file of verl's metrics; SetupError if verl fails or logs no last step."""
    plain = compose_recipe(*overrides)
    run_dir = home / plain.trainer.experiment_name
    given = [*overrides, *(as_override(*item) for item in toy_settings(plain, home, run_dir).items())]
    make_model(home / "model")
    write_data(compose_recipe(*(each for each in given if not each.startswith("hydra."))))
    metrics, log = run_dir / "metrics_of_verl.jsonl", run_dir / "train.log"
    metrics.unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, [str(RECIPES.parent), os.environ.get("PYTHONPATH")]))
    variables = {**environment(), "PYTHONPATH": path, "VERL_FILE_LOGGER_PATH": str(metrics)}
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-dir", str(RECIPES), "--config-name", "recipe"]
    print(f"{STEPS} steps of verl with a small untrained model, some minutes; its log: {log}", flush=True)
    with running([*command, *given], log, variables) as process:
        status = process.wait(timeout=TIMEOUT_S)
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    if status or not any(json.loads(line)["step"] == STEPS for line in lines):
        print("\n".join(log.read_text(errors="replace").splitlines()[-40:]), file=sys.stderr)
        raise SetupError(f"The toy run of {run_dir.name} ended with status {status}: see the end of {log} above.")
    return metrics


if __name__ == "__main__":
    try:
        logged = run_toy(sys.argv[1:], Path(os.environ.get("TOY_DIR", "runs/toy")).resolve())
        print(f"{STEPS} steps done, metrics in {logged}")
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
