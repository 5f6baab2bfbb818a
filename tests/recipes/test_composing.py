"""Every recipe with every method: it composes, verl's own checks pass, and its numbers fit together."""

import contextlib
import copy
import functools
import io
import re
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import files as installed_files
from pathlib import Path
from typing import Any

import pytest
from check import check_division
from composing import METHODS, RECIPES, TASKS, compose_recipe, files, names, package_folder
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from toy import flatten, write_data

from divek_verl.engines.options import SamplingOptions
from divek_verl.errors import SetupError
from divek_verl.prepare.sets import WORDINGS
from divek_verl.prompts import multiple_choice, open_question
from divek_verl.settings import read_settings
from divek_verl.trainer.vote_origin import sampling_of

from .class_lists import NAMES, class_list

# images of the reference's training splits and its epochs
REFERENCE = {
    "cub": (2400, 1.5, 800, 1.5),
    "flowers": (1744, 3.2, 408, 3),
    "pets": (1508, 4.1, 148, 8.2),
    "cars": (3240, 1.1, 784, 1.6),
    "aircraft": (1667, 1.9, 400, 3),
}
# A method's file meets the same keys in every recipe: each with one recipe of each kind is enough.
KINDS = ("qwen25vl_7b_cub", "qwen25vl_7b_pets_4shot", "qwen25vl_7b_mixed")
ALL = [(name, "online") for name in names()] + [(n, method) for n in KINDS for method in METHODS if method != "online"]

Composed = Callable[[str, str], Any]


def entry_point(name: str, method: str) -> Any:
    """What ``python -m verl.trainer.main_ppo ... --cfg job`` prints; here, as each start of verl takes ten seconds."""
    from verl.trainer import main_ppo

    command = ["main_ppo", "--config-dir", str(RECIPES), "--config-name", name, f"method={method}", "--cfg", "job"]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr("sys.argv", command)
        main_ppo.main()
    config = OmegaConf.create(printed.getvalue())
    OmegaConf.set_struct(config, True)
    return config


@pytest.fixture(scope="module")
def composed() -> Composed:
    """A recipe with a method, by verl's own entry point; a copy, because tests change it."""
    cached = functools.cache(entry_point)
    return lambda name, method: copy.deepcopy(cached(name, method))


def verl_checks(config: Any) -> None:
    """What verl's entry point does between composing and starting Ray, ours included (see plugin.py)."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


@pytest.mark.parametrize(("name", "method"), ALL)
def test_a_recipe_passes_verls_own_checks(composed: Composed, name: str, method: str, tmp_path: Path) -> None:
    config = composed(name, method)
    config.recipe.data_dir = str(tmp_path)
    OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    write_data(config)
    verl_checks(config)
    check_division(config)
    # Groups of rollouts need no critic, and skipped images a refill, wherever there is a second step.
    assert config.algorithm.adv_estimator == "grpo"
    assert config.trainer.v1.sampler.sync_refill_failed_groups is (method != "virft")


# ------------------------------------------------------------------------------------------- options that verl reads


def set_by_recipes() -> set[str]:
    """Options of verl's in the bodies of all files; Hydra takes any key of a file, so that a misspelt one is silent."""
    bodies = (OmegaConf.to_container(OmegaConf.load(path)) for path in RECIPES.rglob("*.yaml"))
    found = {name for body in bodies if isinstance(body, dict) for name, _ in flatten(body)}
    return {name for name in found if not name.startswith(("defaults", "recipe.", "divek."))}


def read_by_verl(name: str) -> bool:
    """Whether the last part of an option stands in verl's code outside its declarations."""
    return re.search(rf"\b{name.rpartition('.')[2]}\b", verl_code()) is not None


@functools.cache
def verl_code() -> str:
    folder = package_folder("verl")
    declared = (folder / "workers" / "config", folder / "trainer" / "config")
    paths = (path for path in folder.rglob("*.py") if not any(path.is_relative_to(each) for each in declared))
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def test_every_option_that_a_recipe_sets_is_one_of_verls() -> None:
    with initialize_config_dir(str(package_folder("verl") / "trainer" / "config"), version_base=None):
        own = compose("ppo_trainer")
    known = {name for name, _ in flatten(OmegaConf.to_container(own))}
    assert not set_by_recipes() - known


def test_no_recipe_sets_an_option_that_verl_reads_nowhere() -> None:
    assert len(set_by_recipes()) > 30
    assert not [name for name in set_by_recipes() if not read_by_verl(name)]
    # Shows that it can fail.
    assert not read_by_verl("actor_rollout_ref.actor.freeze_vision_tower")


@pytest.mark.parametrize(("name", "strategy"), [("qwen25vl_7b_cub", "fsdp2"), ("qwen25vl_7b_cub_fsdp1", "fsdp")])
def test_the_strategy_is_the_one_that_the_workers_are_given(composed: Composed, name: str, strategy: str) -> None:
    """They read it from their engine's configuration, not from the option that a recipe sets."""
    from verl.utils.config import omega_conf_to_dataclass

    config = composed(name, "online")
    assert omega_conf_to_dataclass(config.actor_rollout_ref.actor).engine.strategy == strategy
    assert config.actor_rollout_ref.ref.strategy == strategy


def test_there_is_a_script_for_every_recipe_and_a_recipe_for_every_script() -> None:
    scripts = {path.stem.removeprefix("run_"): path for path in RECIPES.glob("run_*.sh")}
    del scripts["base_eval"]
    assert set(scripts) - {"qwen25vl_7b_cub_nnodes"} == set(names())
    for path in scripts.values():
        text = path.read_text()
        assert text.startswith("#!/usr/bin/env bash\n# ") and "set -xeuo pipefail" in text and '"$@"' in text
        recipe = path.stem.removeprefix("run_").removesuffix("_nnodes")
        assert f'launch.sh" {recipe} ' in text


@pytest.mark.parametrize("name", KINDS)
def test_the_scripts_compose_as_verls_entry_point_does(composed: Composed, name: str) -> None:
    assert compose_recipe(name, "method=virft") == composed(name, "virft")


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_the_papers_epochs(task: str) -> None:
    config = compose_recipe(f"qwen25vl_7b_{task}")
    images, epochs, few_images, few_epochs = REFERENCE.get(task.removesuffix("_4shot"), (0, 1.0, 0, 0))
    if task == "mixed":
        images = sum(each[0] for each in REFERENCE.values())
    if config.recipe.few_shot:
        images, epochs = few_images, few_epochs
    assert (config.recipe.train_images, config.recipe.epochs) == (images, epochs)
    assert config.trainer.total_training_steps == round(epochs * images / config.data.train_batch_size)


@pytest.mark.parametrize("name", names())
def test_a_recipe_sees_as_many_images_as_its_task_says(composed: Composed, name: str) -> None:
    config = composed(name, "online")
    seen = config.trainer.total_training_steps * config.data.train_batch_size
    assert seen == pytest.approx(config.recipe.epochs * config.recipe.train_images, abs=config.data.train_batch_size)


def test_paper_and_online_differ_in_their_votes_and_top_k_alone(composed: Composed) -> None:
    paper, online = (composed("qwen25vl_7b_cub", method) for method in ("paper", "online"))
    assert (paper.divek.max_vote_age, online.divek.max_vote_age) == (None, 0)
    assert (paper.actor_rollout_ref.rollout.top_k, online.actor_rollout_ref.rollout.top_k) == (50, -1)
    paper.divek, paper.data.divek, paper.recipe.method = online.divek, online.data.divek, "online"
    paper.actor_rollout_ref.rollout.top_k = -1
    assert paper == online


def test_the_optimisation_is_that_of_the_reference(composed: Composed) -> None:
    config = composed("qwen25vl_7b_cub", "paper")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (config.data.train_batch_size, rollout.n, rollout.temperature) == (6, 4, 1.0)
    assert (actor.optim.lr, actor.kl_loss_coef, actor.kl_loss_type) == (1e-6, 0.04, "low_var_kl")
    # verl has no rate that falls in a line.
    assert (actor.optim.weight_decay, actor.optim.lr_scheduler_type) == (0.0, "cosine")
    assert (actor.loss_agg_mode, actor.ppo_epochs) == ("seq-mean-token-mean", 1)
    # One update on all of a step: nothing to clip.
    assert actor.ppo_mini_batch_size == config.data.train_batch_size
    settings = config.divek
    assert (settings.num_samples, settings.temperature, settings.top_p) == (20, 1.0, 0.95)
    assert (settings.repetition_penalty, settings.max_pixels, settings.min_pixels) == (1.1, 401408, 3136)
    assert config.data.max_response_length == 1024


def test_votes_mined_by_default_are_the_ones_that_the_paper_recipe_takes(composed: Composed) -> None:
    """The command that is printed gives no sampling settings: votes drawn otherwise would be refused by the run."""
    mined = asdict(SamplingOptions())
    mined["num_samples"] = mined.pop("samples")
    config = composed("qwen25vl_7b_cub", "paper")
    wanted = sampling_of(read_settings(config.divek), config.data.max_response_length)
    assert {name: mined.get(name, value) for name, value in wanted.items()} == wanted


def test_validation_reads_both_sides_of_every_set_that_is_trained_on(composed: Composed) -> None:
    for name in names():
        config = composed(name, "online")
        trained = {file.parent for file in files(config, "train_files")}
        assert {file.parent for file in files(config, "val_files")} == trained
        assert {folder.name.removesuffix("_4shot") for folder in trained} == set(config.recipe.sets)
        expected = {"val"} if config.recipe.few_shot else {"val_base", "val_new"}
        assert {file.stem for file in files(config, "val_files")} == expected
        assert len(files(config, "val_files")) == len(trained) * len(expected)


# ---------------------------------------------------------------------------------------------- prompts that fit


@pytest.fixture(scope="module")
def count_tokens() -> Callable[[str], int]:
    """Length of a text for Qwen2's real tokenizer, rebuilt from its published ranks."""
    import base64

    import tiktoken
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    path = next(file for file in installed_files("dashscope") or [] if file.name == "qwen.tiktoken").locate()
    lines = Path(str(path)).read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    encoding = tiktoken.Encoding("qwen2", pat_str=PRETOKENIZE_REGEX, mergeable_ranks=ranks, special_tokens={})
    return lambda text: len(encoding.encode(text))


# Qwen2.5-VL's chat form: <|im_start|>, <|im_end|>, the two vision marks and the role lines with a system message.
CHAT = "system\nYou are a helpful assistant.\nuser\n\nassistant\n"
MARKS = 7


def image_tokens(patch_size: int, max_pixels: int) -> int:
    """The most tokens that a picture takes, over all shapes of it, by the real image processor's arithmetic."""
    from transformers import Qwen2VLImageProcessor

    processor = Qwen2VLImageProcessor(patch_size=patch_size, min_pixels=3136, max_pixels=max_pixels)
    shapes = [(1000, 1000), (3000, 2000), (2000, 3000), (4000, 1000), (1792, 896), (634, 634), (640, 480), (5000, 100)]
    sizes = {"min_pixels": 3136, "max_pixels": max_pixels}
    return max(processor.get_number_of_image_patches(*shape, sizes) for shape in shapes) // 4


def test_a_picture_takes_at_most_max_pixels_by_the_pixels_of_a_token() -> None:
    assert image_tokens(14, 401408) == 401408 // 28**2 == 512
    assert image_tokens(16, 401408) <= 401408 // 32**2 == 392


@pytest.mark.parametrize("name", names())
def test_the_longest_open_question_fits_with_a_picture_of_max_pixels(
    composed: Composed, count_tokens: Callable[[str], int], name: str
) -> None:
    config = composed(name, "online")
    limit = config.data.max_prompt_length
    picture = image_tokens(config.data.image_patch_size, config.divek.max_pixels)
    for dataset in config.recipe.sets:
        listed = class_list(dataset, every_class=config.recipe.few_shot)
        asked = count_tokens(open_question(WORDINGS[dataset], listed)) + count_tokens(CHAT) + MARKS + picture
        assert asked <= limit, f"{dataset}: {asked} tokens"
        # The second question has 26 options at most.
        options = "\n".join(f"A. {name}" for name in sorted(NAMES[dataset], key=len)[-1:] * 26)
        assert count_tokens(multiple_choice(WORDINGS[dataset], options)) + count_tokens(CHAT) + MARKS + picture <= limit
    assert config.actor_rollout_ref.rollout.max_model_len == limit + config.data.max_response_length


def test_cars_do_not_fit_into_the_references_1024_tokens(count_tokens: Callable[[str], int]) -> None:
    """Shows that the test above can fail."""
    names_alone = count_tokens(", ".join(class_list("cars", every_class=False)))
    assert names_alone > 1024


# ----------------------------------------------------------------------------------------------------- LoRA


def test_lora_leaves_the_vision_tower_out(processor: Any) -> None:
    """By the very arguments that verl hands to peft (verl/workers/engine/fsdp/transformer_impl.py)."""
    from peft import LoraConfig, TaskType, get_peft_model

    from divek_verl.demo.model import build_model

    model = compose_recipe("qwen25vl_7b_cub_lora").actor_rollout_ref.model
    arguments = {"r": model.lora_rank, "lora_alpha": model.lora_alpha, "target_modules": model.target_modules}
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, exclude_modules=model.exclude_modules, bias="none", **arguments)
    adapted = get_peft_model(build_model(processor.tokenizer, seed=0), config)
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert trained and not [name for name in trained if "visual" in name]


def test_a_recipe_that_is_none_is_refused_with_the_list_of_those_that_are() -> None:
    with pytest.raises(SetupError, match=r"'nothing' is no recipe: use one of .*qwen25vl_7b_cub"):
        compose_recipe("nothing")
