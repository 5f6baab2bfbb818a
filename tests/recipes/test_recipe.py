"""Every recipe composes through verl's entry point, passes verl's own checks, and its numbers fit together."""

import contextlib
import copy
import functools
import io
import re
from collections.abc import Callable
from importlib.metadata import files as installed_files
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from recipe import RECIPES, check_division, choices, compose_recipe, package_folder
from tables import EQUAL
from toy import write_data

from divek_verl.engines.options import SamplingOptions
from divek_verl.estimate import ASSUMED, counted_steps, data_files, memory, planned_gb
from divek_verl.prepare.sets import WORDINGS
from divek_verl.prompts import multiple_choice, open_question
from divek_verl.provenance import flatten
from divek_verl.settings import read_settings

from . import cases
from .cases import COMBINATIONS, NAMES, class_list, overrides

# images of the reference's training splits and its epochs
REFERENCE = {
    "cub": (2400, 800),
    "flowers": (1744, 408),
    "pets": (1508, 148),
    "cars": (3240, 784),
    "aircraft": (1667, 400),
}
Composed = Callable[..., Any]
each_recipe = pytest.mark.parametrize("case", cases.RECIPES, ids="-".join)


def entry_point(*given: str) -> Any:
    """Output of ``python -m verl.trainer.main_ppo ... --cfg job``; called here, as each start of verl takes 10 s."""
    from verl.trainer import main_ppo

    command = ["main_ppo", "--config-dir", str(RECIPES), "--config-name", "recipe", *given, "--cfg", "job"]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr("sys.argv", command)
        main_ppo.main()
    config = OmegaConf.create(printed.getvalue())
    OmegaConf.set_struct(config, True)
    return config


@pytest.fixture(scope="module")
def composed() -> Composed:
    """A recipe by verl's own entry point; a copy, because tests change it."""
    cached = functools.cache(entry_point)
    return lambda *case, **chosen: copy.deepcopy(cached(*overrides(*case, **chosen)))


def verl_checks(config: Any) -> None:
    """The checks of verl's entry point between composing and starting Ray, with DiVE-k's (see plugin.py)."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


@pytest.mark.parametrize("case", COMBINATIONS, ids="-".join)
def test_a_recipe_passes_verls_own_checks(composed: Composed, case: tuple[str, ...], tmp_path: Path) -> None:
    config = composed(*case)
    config.recipe.data_dir = str(tmp_path)
    OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    write_data(config)
    verl_checks(config)
    check_division(config)
    # GRPO needs no critic. Where there is a second question, skipped images are replaced.
    assert config.algorithm.adv_estimator == "grpo"
    assert config.trainer.v1.sampler.sync_refill_failed_groups is not case[2].startswith("virft")


# ------------------------------------------------------------------------------------------- options that verl reads


def set_by_recipes() -> set[str]:
    """verl's options in the bodies of all files; Hydra takes any key of a file, so a misspelt one causes no error."""
    bodies = (OmegaConf.to_container(OmegaConf.load(path)) for path in RECIPES.rglob("*.yaml"))
    found = {name for body in bodies if isinstance(body, dict) for name, _ in flatten(body)}
    return {name for name in found if not name.startswith(("defaults", "recipe.", "divek.", "data.divek."))}


def read_by_verl(name: str) -> bool:
    """Whether the last part of an option stands in verl's code outside its declarations."""
    return re.search(rf"\b{name.rpartition('.')[2]}\b", verl_code()) is not None


@functools.cache
def verl_code() -> str:
    folder = package_folder("verl")
    declared = (folder / "workers" / "config", folder / "trainer" / "config")
    paths = (path for path in folder.rglob("*.py") if not any(path.is_relative_to(each) for each in declared))
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def test_verl_has_every_option_that_a_recipe_sets() -> None:
    with initialize_config_dir(str(package_folder("verl") / "trainer" / "config"), version_base=None):
        own = compose("ppo_trainer")
    known = {name for name, _ in flatten(OmegaConf.to_container(own))}
    assert not set_by_recipes() - known


def test_verl_reads_every_option_that_a_recipe_sets() -> None:
    assert len(set_by_recipes()) > 30
    assert not [name for name in set_by_recipes() if not read_by_verl(name)]
    # Shows that it can fail.
    assert not read_by_verl("actor_rollout_ref.actor.freeze_vision_tower")


@pytest.mark.parametrize(("variant", "strategy"), [("none", "fsdp2"), ("fsdp1", "fsdp")])
def test_the_workers_get_the_strategy_of_the_recipe(composed: Composed, variant: str, strategy: str) -> None:
    """They read it from their engine's configuration, not from the option that a recipe sets."""
    from verl.utils.config import omega_conf_to_dataclass

    config = composed(variant=variant)
    assert omega_conf_to_dataclass(config.actor_rollout_ref.actor).engine.strategy == strategy
    assert config.actor_rollout_ref.ref.strategy == strategy


def test_every_file_of_a_group_is_in_the_cases() -> None:
    for index, group in enumerate(("vlm", "task", "method", "variant")):
        assert {case[index] for case in COMBINATIONS} == set(choices(group))


@pytest.mark.parametrize("task", cases.KINDS)
def test_the_scripts_compose_as_verls_entry_point_does(composed: Composed, task: str) -> None:
    assert compose_recipe(*overrides(task=task, method="virft")) == composed(task=task, method="virft")


@pytest.mark.parametrize("case", COMBINATIONS, ids="-".join)
def test_every_run_trains_on_as_many_images_as_the_reference(composed: Composed, case: tuple[str, ...]) -> None:
    config = composed(*case)
    assert config.recipe.steps * config.recipe.prompts == 400 * 6
    images = sum(REFERENCE[name][config.recipe.few_shot] for name in config.recipe.sets)
    assert config.recipe.train_images == images
    if config.recipe.prompts_per_node is None:
        assert counted_steps(config) == config.trainer.total_training_steps == config.recipe.steps


def test_in_a_table_paper_and_online_differ_in_their_votes_and_top_k_alone() -> None:
    paper, online = (compose_recipe(*overrides(method=method), *EQUAL) for method in ("paper", "online"))
    assert (paper.divek.max_vote_age, online.divek.max_vote_age) == (None, 0)
    assert (paper.actor_rollout_ref.rollout.top_k, online.actor_rollout_ref.rollout.top_k) == (50, -1)
    paper.divek, paper.data.divek, paper.recipe.method = online.divek, online.data.divek, "online"
    paper.actor_rollout_ref.rollout.top_k = -1
    assert paper == online


def test_the_optimisation_is_that_of_the_reference(composed: Composed) -> None:
    config = composed(method="paper")
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
    options = SamplingOptions()
    config = composed(method="paper")
    wanted = read_settings(config.divek).sampling(config.data.max_response_length)
    assert options.as_training().sampling(options.max_new_tokens) == wanted


def test_validation_reads_both_sides_of_every_set_that_is_trained_on(composed: Composed) -> None:
    for case in cases.RECIPES:
        config = composed(*case)
        trained = {file.parent for file in data_files(config, "train_files")}
        assert {file.parent for file in data_files(config, "val_files")} == trained
        assert {folder.name.removesuffix("_4shot") for folder in trained} == set(config.recipe.sets)
        expected = {"val"} if config.recipe.few_shot else {"val_base", "val_new"}
        assert {file.stem for file in data_files(config, "val_files")} == expected
        assert len(data_files(config, "val_files")) == len(trained) * len(expected)


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


@each_recipe
def test_the_longest_open_question_fits_with_a_picture_of_max_pixels(
    composed: Composed, count_tokens: Callable[[str], int], case: tuple[str, ...]
) -> None:
    config = composed(*case)
    limit = config.data.max_prompt_length
    picture = image_tokens(config.data.image_patch_size, config.divek.max_pixels)
    for dataset in config.recipe.sets:
        listed = class_list(dataset, every_class=config.recipe.few_shot)
        asked = count_tokens(open_question(WORDINGS[dataset], listed)) + count_tokens(CHAT) + MARKS + picture
        assert asked <= limit, f"{dataset}: {asked} tokens"
        # The second question has 26 options at most.
        options = "\n".join(f"A. {name}" for name in sorted(NAMES[dataset], key=len)[-1:] * 26)
        assert count_tokens(multiple_choice(WORDINGS[dataset], options)) + count_tokens(CHAT) + MARKS + picture <= limit
    assert config.actor_rollout_ref.rollout.max_model_len >= limit + config.data.max_response_length


def test_cars_do_not_fit_into_the_references_1024_tokens(count_tokens: Callable[[str], int]) -> None:
    """Shows that the test above can fail."""
    names_alone = count_tokens(", ".join(class_list("cars", every_class=False)))
    assert names_alone > 1024


# ----------------------------------------------------------------------------------------------------- LoRA


def test_lora_leaves_the_vision_tower_out(processor: Any) -> None:
    """By the very arguments that verl hands to peft (verl/workers/engine/fsdp/transformer_impl.py)."""
    from peft import LoraConfig, TaskType, get_peft_model

    from divek_verl.demo.model import build_model

    model = compose_recipe("variant=lora").actor_rollout_ref.model
    arguments = {"r": model.lora_rank, "lora_alpha": model.lora_alpha, "target_modules": model.target_modules}
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, exclude_modules=model.exclude_modules, bias="none", **arguments)
    adapted = get_peft_model(build_model(processor.tokenizer, seed=0), config)
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert trained and not [name for name in trained if "visual" in name]


# --------------------------------------------------------------------------------------------------- memory


@each_recipe
def test_every_recipe_fits_on_80_gb_with_a_margin(composed: Composed, case: tuple[str, ...]) -> None:
    config = composed(*case)
    found = memory(config)
    assert planned_gb(config) < ASSUMED.gpu_gb
    # Half of the engine's share is left for its cache.
    assert found["engine weights"] < found["engine"] / 2


def test_one_gpu_cannot_hold_the_optimizer_of_a_7b_model_but_that_of_adapters() -> None:
    assert planned_gb(compose_recipe("trainer.n_gpus_per_node=1")) > 2 * ASSUMED.gpu_gb
    assert planned_gb(compose_recipe("variant=lora")) < planned_gb(compose_recipe()) - 16


def test_the_sizes_are_those_of_the_architectures() -> None:
    """Built from the published sizes without their weights."""
    import torch

    from divek_verl.cpu.torchvision_stub import define_missing_operators

    define_missing_operators()
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )

    def text(hidden: int, inner: int, layers: int, heads: int, groups: int, vocabulary: int) -> dict[str, Any]:
        return {
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": groups,
            "vocab_size": vocabulary,
        }

    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    built: dict[str, Any] = {
        "qwen25vl_7b": (
            Qwen2_5_VLForConditionalGeneration,
            Qwen2_5_VLConfig(
                text_config=text(3584, 18944, 28, 28, 4, 152064),
                vision_config={**vision, "out_hidden_size": 3584},
                tie_word_embeddings=False,
            ),
        ),
        "qwen25vl_3b": (
            Qwen2_5_VLForConditionalGeneration,
            Qwen2_5_VLConfig(
                text_config={**text(2048, 11008, 36, 16, 2, 151936), "tie_word_embeddings": True},
                vision_config={**vision, "out_hidden_size": 2048},
                tie_word_embeddings=True,
            ),
        ),
        "qwen3vl_8b": (
            Qwen3VLForConditionalGeneration,
            Qwen3VLConfig(
                text_config={**text(4096, 12288, 36, 32, 8, 151936), "head_dim": 128},
                vision_config={"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 4096},
                tie_word_embeddings=False,
            ),
        ),
    }
    assert set(built) == set(choices("vlm"))
    for name, (model_class, config) in built.items():
        with torch.device("meta"):
            model = model_class(config)
        count = sum(weight.numel() for weight in {id(each): each for each in model.parameters()}.values()) / 1e9
        recipe, sizes = compose_recipe(f"vlm={name}").recipe, config.text_config
        assert count == pytest.approx(recipe.billion_parameters, rel=0.03), name
        assert (recipe.layers, recipe.hidden_size) == (sizes.num_hidden_layers, sizes.hidden_size)
        assert recipe.vocabulary == sizes.vocab_size
