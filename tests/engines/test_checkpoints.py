"""A verl checkpoint becomes a model folder by verl's own merger, once."""

import json
import shutil
from pathlib import Path

import pytest

from divek_verl.engines.base import Sampling
from divek_verl.engines.checkpoints import MERGED, generation_sampling, model_folder
from divek_verl.errors import SetupError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # As Qwen2.5-VL's: near-greedy.
        (
            {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05},
            Sampling(1e-6, 1.0, 50, 1.05, 64, 3),
        ),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}, Sampling(0.7, 0.8, 20, 1.0, 64, 3)),
        ({"temperature": 0.7, "repetition_penalty": 1.1}, Sampling(0.0, 1.0, -1, 1.1, 64, 3)),
    ],
)
def test_a_model_samples_as_its_generation_config_says(
    tmp_path: Path, given: dict[str, object], expected: Sampling
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(given))
    assert generation_sampling(str(tmp_path), max_new_tokens=64, seed=3) == expected


@pytest.mark.parametrize("content", [None, "[]", '{"do_sample": true, "top_k": "many"}'])
def test_a_generation_config_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(SetupError, match="give --model a folder with that file"):
        generation_sampling(str(tmp_path), max_new_tokens=64, seed=3)


def test_a_model_folder_and_a_name_that_is_no_folder_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model_folder(str(tmp_path)) == str(tmp_path)
    assert model_folder("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"


@pytest.mark.parametrize("name", ["/models/qwen", "./qwen", "qwen", "runs/mine/global_step_5", "~/qwen", "{tmp}/mdoel"])
def test_a_path_that_is_not_there_is_refused_at_once(name: str, tmp_path: Path) -> None:
    """Taken for a name on the hub, it would be asked for again and again."""
    with pytest.raises(SetupError, match="There is no folder .* or a name on the hub, such as Qwen"):
        model_folder(name.format(tmp=tmp_path))


def test_a_folder_with_neither_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds neither a model .* nor a verl checkpoint"):
        model_folder(str(tmp_path))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as verl leaves it, of a small untrained model, sharded over one process."""
    import torch

    from divek_verl.demo.model import build_model, build_processor, build_tokenizer, save

    run = tmp_path_factory.mktemp("run")
    actor = run / "global_step_2" / "actor"
    actor.mkdir(parents=True)
    tokenizer = build_tokenizer(["which flag is this?"], ["Chad", "Romania"])
    network = build_model(tokenizer, seed=0)
    save(network, build_processor(tokenizer), run / "whole")
    shutil.copytree(run / "whole", actor / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(network.state_dict(), actor / "model_world_size_1_rank_0.pt")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    (run / "latest_checkpointed_iteration.txt").write_text("2")
    return run


@pytest.mark.slow
def test_shards_are_merged_once_and_again_when_they_change(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file
    from torch import equal

    actor = checkpoint / "global_step_2" / "actor"
    merged = Path(model_folder(str(checkpoint)))
    assert merged == actor.parent / MERGED
    whole, again = load_file(checkpoint / "whole" / "model.safetensors"), load_file(merged / "model.safetensors")
    assert whole.keys() == again.keys()
    # verl writes bfloat16, whatever the shards hold.
    assert all(equal(whole[name].to(again[name].dtype), again[name]) for name in whole)
    assert {"config.json", "tokenizer_config.json"} <= {path.name for path in merged.iterdir()}
    assert "merging" in capfd.readouterr().out

    written = (merged / "model.safetensors").stat().st_mtime_ns
    assert {model_folder(str(path)) for path in (checkpoint, actor.parent, actor)} == {str(merged)}
    assert (merged / "model.safetensors").stat().st_mtime_ns == written

    shard = actor / "model_world_size_1_rank_0.pt"
    shard.write_bytes(b"cut short")
    with pytest.raises(SetupError, match="merger could not merge"):
        model_folder(str(checkpoint))
    assert {path.name for path in actor.parent.iterdir()} == {"actor", MERGED}
