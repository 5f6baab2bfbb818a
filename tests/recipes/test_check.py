import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from check import check_division, main, missing
from composing import RECIPES, compose_recipe
from steps import counted_steps
from toy import write_data, write_set

from divek_verl.errors import SetupError
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import Origin, write_votes_file


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


@pytest.fixture
def ready(tmp_path: Path) -> dict[str, str]:
    """Environment of a script for which model and data are there, under a name that Hydra's grammar and shells read."""
    folder = tmp_path / "it's a, b=(c) folder"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").touch()
    write_set(folder / "cub", "cub", few_shot=False)
    # The real Python for our own scripts; what it is told to start of verl is printed.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\n[[ "$1" == -m ]] || exec {sys.executable} "$@"\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    where = {"DATA_DIR": str(folder), "MODEL_PATH": str(folder / "model"), "CKPT_DIR": str(folder / "ckpt")}
    return {"PATH": "/usr/bin:/bin", "PYTHON": str(python), **where}


def test_the_script_starts_verl_with_what_the_environment_says(ready: dict[str, str]) -> None:
    script = ["bash", str(RECIPES / "run_qwen25vl_7b_cub.sh"), "trainer.save_freq=7"]
    done = subprocess.run(script, capture_output=True, text=True, env={**ready, "N_GPUS_PER_NODE": "4"})
    assert done.returncode == 0, done.stderr
    module, *arguments = done.stdout.splitlines()[1:]
    assert module == "verl.trainer.main_ppo"
    config = compose_recipe("qwen25vl_7b_cub", *arguments[arguments.index("qwen25vl_7b_cub") + 1 :])
    assert (config.trainer.n_gpus_per_node, config.trainer.save_freq) == (4, 7)
    assert config.actor_rollout_ref.model.path == ready["MODEL_PATH"]
    assert config.data.train_files == f"{ready['DATA_DIR']}/cub/train.parquet"
    assert config.trainer.default_local_dir.startswith(ready["CKPT_DIR"])
    # 1.5 epochs of the 12 rows of the prepared set, 6 a step: not of the reference's 2400.
    assert config.trainer.total_training_steps == 3


def test_an_override_of_the_steps_goes_before_the_count(ready: dict[str, str]) -> None:
    script = ["bash", str(RECIPES / "run_qwen25vl_7b_cub.sh"), "trainer.total_training_steps=9"]
    done = subprocess.run(script, capture_output=True, text=True, env=ready)
    given = [line for line in done.stdout.splitlines() if "total_training_steps" in line]
    assert given[-1] == "trainer.total_training_steps=9"


def test_n_nodes_take_fewer_steps_of_more_prompts(ready: dict[str, str]) -> None:
    script = ["bash", str(RECIPES / "run_qwen25vl_7b_cub_nnodes.sh")]
    done = subprocess.run(script, capture_output=True, text=True, env={**ready, "NNODES": "3"})
    given = done.stdout.splitlines()
    assert {"trainer.nnodes=3", "data.train_batch_size=18", "trainer.total_training_steps=1"} <= set(given)


def test_a_toy_run_is_asked_for_anywhere_on_the_line(ready: dict[str, str], tmp_path: Path) -> None:
    """Scripts put settings of their own before what they are given."""
    seen = tmp_path / "python_that_prints"
    seen.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    seen.chmod(0o755)
    script = ["bash", str(RECIPES / "run_qwen25vl_7b_cub_nnodes.sh"), "trainer.save_freq=7", "--toy"]
    done = subprocess.run(script, capture_output=True, text=True, env={**ready, "PYTHON": str(seen), "NNODES": "2"})
    toy, name, *settings = done.stdout.splitlines()
    assert (Path(toy).name, name) == ("toy.py", "qwen25vl_7b_cub")
    assert settings == ["recipe.variant=_2nodes", "data.train_batch_size=12", "trainer.save_freq=7"]


def test_commands_can_be_pasted_whatever_the_paths_are_called(tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    prepare = commands("qwen25vl_7b_cub", f"recipe.data_dir='{folder}'", "method=paper")[1]
    assert shlex.split(prepare)[-1] == str(folder / "cub")
    base = {"PATH": "/usr/bin:/bin", "MODEL_PATH": f"{tmp_path}/a model"}
    done = subprocess.run(["bash", str(RECIPES / "run_base_eval.sh")], capture_output=True, text=True, env=base)
    assert shlex.split(done.stderr.splitlines()[1])[-1] == base["MODEL_PATH"]


@pytest.mark.parametrize("script", sorted(path.name for path in RECIPES.glob("*.sh")))
def test_every_script_is_shell(script: str) -> None:
    assert subprocess.run(["bash", "-n", str(RECIPES / script)]).returncode == 0


# ------------------------------------------------------------------------------------------------- counted steps


def test_rows_that_offline_votes_call_easy_do_not_count(tmp_path: Path) -> None:
    """The reference drops them before it trains, and counts its epochs in what is left."""
    config = compose_recipe("qwen25vl_7b_cub", f"recipe.data_dir={tmp_path}", "method=paper")
    # Not prepared: the task's own number.
    assert counted_steps(config) == 600
    write_data(config)
    assert counted_steps(config) == round(1.5 * 12 / 6)
    rows = pq.read_table(tmp_path / "cub" / "train.parquet").to_pylist()
    mined = [
        MinedVotes(row["data_source"], row["extra_info"]["image_id"], Votes({row["reward_model"]["ground_truth"]: 20}))
        for row in rows[:4]
    ]
    write_votes_file(Path(config.divek.votes_file), Origin("m"), mined)
    assert counted_steps(config) == round(1.5 * 8 / 6)
    # Where nothing is skipped for its votes, or they are mined again, every row counts.
    for change in ("divek.skip_easy=false", "divek.max_vote_age=3"):
        changed = compose_recipe("qwen25vl_7b_cub", f"recipe.data_dir={tmp_path}", "method=paper", change)
        assert counted_steps(changed) == 3


def test_votes_that_leave_no_row_are_refused(tmp_path: Path) -> None:
    config = compose_recipe("qwen25vl_7b_cub", f"recipe.data_dir={tmp_path}", "method=paper")
    write_data(config)
    rows = pq.read_table(tmp_path / "cub" / "train.parquet").to_pylist()
    mined = [
        MinedVotes(row["data_source"], row["extra_info"]["image_id"], Votes({row["reward_model"]["ground_truth"]: 20}))
        for row in rows
    ]
    write_votes_file(Path(config.divek.votes_file), Origin("m"), mined)
    with pytest.raises(SetupError, match="are easy by their votes: train on harder data"):
        counted_steps(config)


def test_the_evaluation_of_the_base_model_says_what_it_lacks(tmp_path: Path) -> None:
    arguments = ["bash", str(RECIPES / "run_base_eval.sh")]
    environment = {"PATH": "/usr/bin:/bin", "MODEL_PATH": "models/Qwen2.5-VL-3B-Instruct", "SET": "pets"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert "hf download Qwen/Qwen2.5-VL-3B-Instruct --local-dir models/Qwen2.5-VL-3B-Instruct" in done.stderr


def test_an_override_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qwen25vl_7b_cub", "method=magic"]) == 2
    assert "does not compose" in capsys.readouterr().err
