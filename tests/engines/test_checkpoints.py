"""A verl checkpoint becomes a model folder by verl's own merger, once."""

import json
import shutil
from pathlib import Path

import pytest

from divek_verl.engines.checkpoints import MERGED, model_folder
from divek_verl.errors import SetupError


def test_a_model_folder_and_a_name_that_is_no_folder_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model_folder(str(tmp_path)) == str(tmp_path)
    assert model_folder("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"


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
