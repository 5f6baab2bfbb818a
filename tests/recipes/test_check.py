import subprocess
from pathlib import Path

import pytest
from check import check_division, main, missing
from composing import RECIPES, compose_recipe

from divek_verl.errors import SetupError


def commands(name: str, *overrides: str) -> list[str]:
    return [command for _, command in missing(compose_recipe(name, *overrides))]


def test_everything_that_is_missing_comes_with_the_command_that_makes_it(tmp_path: Path) -> None:
    where = (f"recipe.data_dir={tmp_path}", f"recipe.model_path={tmp_path / 'model'}", "method=paper")
    assert commands("qwen25vl_7b_cub", *where) == [
        f"hf download Qwen/Qwen2.5-VL-7B-Instruct --local-dir {tmp_path / 'model'}",
        f"divek prepare cub --data-root /path/to/CUB_200_2011 --setting base-to-novel --out {tmp_path / 'cub'}",
        f"divek mine --data {tmp_path}/cub/train.parquet --model {tmp_path / 'model'} "
        f"--out {tmp_path}/votes/qwen25vl_7b_cub.jsonl",
    ]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    for name in ("cub/train.parquet", "cub/val_base.parquet", "cub/val_new.parquet", "votes/qwen25vl_7b_cub.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert commands("qwen25vl_7b_cub", *where) == []


def test_few_shot_data_is_prepared_as_such_and_mixed_data_set_by_set() -> None:
    assert any("--setting few-shot --out data/pets_4shot" in each for each in commands("qwen25vl_7b_pets_4shot"))
    prepared = [each for each in commands("qwen25vl_7b_mixed") if each.startswith("divek prepare")]
    assert len(prepared) == 5


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.n_gpus_per_node=5", r"6 prompts x 4 rollouts = 24 sequences do not spread over 5 GPUs"),
        ("trainer.nnodes=2", r"24 sequences do not spread over 16 GPUs"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=4", r"data.train_batch_size=6 is no multiple of"),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=3", r"=3 does not divide the 8 GPUs"),
    ],
)
def test_what_does_not_divide_is_refused(override: str, sentence: str) -> None:
    with pytest.raises(SetupError, match=sentence):
        check_division(compose_recipe("qwen25vl_7b_cub", override))


def test_the_script_stops_before_verl_where_something_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(RECIPES / "run_qwen25vl_7b_cub_nnodes.sh"), f"recipe.data_dir={tmp_path}"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "NNODES": "3", "PYTHON": __import__("sys").executable},
    )
    assert done.returncode == 2
    assert f"missing: {tmp_path}/cub/train.parquet" in done.stderr
    assert "verl.trainer.main_ppo" not in done.stderr


def test_the_evaluation_of_the_base_model_says_what_it_lacks(tmp_path: Path) -> None:
    arguments = ["bash", str(RECIPES / "run_base_eval.sh")]
    environment = {"PATH": "/usr/bin:/bin", "MODEL_PATH": "models/Qwen2.5-VL-3B-Instruct", "SET": "pets"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert "hf download Qwen/Qwen2.5-VL-3B-Instruct --local-dir models/Qwen2.5-VL-3B-Instruct" in done.stderr


def test_an_override_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qwen25vl_7b_cub", "method=magic"]) == 2
    assert "does not compose" in capsys.readouterr().err
