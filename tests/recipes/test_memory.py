from typing import Any

import pytest
from composing import compose_recipe, names
from memory import GPU, engine_weights, main, memory
from plan import PARAMETERS


def test_the_arithmetic_by_hand() -> None:
    """8.3 billion parameters on 8 GPUs: 16 bytes each for the policy, 4 for the reference."""
    found = memory(compose_recipe("qwen25vl_7b_cub"))
    assert found.state == pytest.approx(8.3 * 16 / 8)
    assert found.reference == pytest.approx(8.3 * 4 / 8)
    assert found.logits == pytest.approx(2560 * 152064 * 4 * 3 / 1e9)
    assert found.engine == pytest.approx(0.6 * 80)
    assert found.generating == pytest.approx(found.state + found.reference + found.engine)


@pytest.mark.parametrize("name", names())
def test_every_recipe_fits_on_80_gb_with_a_margin(name: str) -> None:
    config = compose_recipe(name)
    found = memory(config)
    assert max(found.generating, found.training) < 0.9 * GPU
    # Half of the engine's share is left for its cache.
    assert engine_weights(config) < found.engine / 2


def test_a_recipe_that_needs_more_would_be_seen() -> None:
    """Shows that the test above can fail: one GPU cannot hold a 7B model's optimiser."""
    assert memory(compose_recipe("qwen25vl_7b_cub", "trainer.n_gpus_per_node=1")).generating > GPU


def test_lora_and_offloading_take_less() -> None:
    whole = memory(compose_recipe("qwen25vl_7b_cub"))
    offload = "actor_rollout_ref.actor.fsdp_config.optimizer_offload=true"
    assert memory(compose_recipe("qwen25vl_7b_cub", offload)).state == whole.state / 2
    assert memory(compose_recipe("qwen25vl_7b_cub_lora")).state < whole.state / 10


def test_the_parameter_counts_are_those_of_the_architectures() -> None:
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
    assert set(built) == set(PARAMETERS)
    for name, (model_class, config) in built.items():
        with torch.device("meta"):
            model = model_class(config)
        count = sum(weight.numel() for weight in {id(each): each for each in model.parameters()}.values()) / 1e9
        assert count == pytest.approx(PARAMETERS[name], rel=0.03), name


def test_it_prints_a_table_that_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qwen25vl_3b_cub"]) == 0
    shown = capsys.readouterr().out
    assert "not measured" in shown and "Assumed: cards of 80 GB; 16 bytes for a trained parameter" in shown
    assert main(["qwen25vl_3b_nothing"]) == 2
