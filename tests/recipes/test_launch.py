"""The run scripts and the checks that they make before verl starts."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from recipe import RECIPES, check_division, compose_recipe, missing
from toy import write_data, write_set

from divek_verl.errors import SetupError
from divek_verl.estimate import counted_steps

SCRIPTS = sorted(RECIPES.glob("run_*.sh"))
CUB = RECIPES / "run_qwen25vl_7b_cub.sh"


def start(script: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    command = ["bash", str(script), *overrides]
    return subprocess.run(command, capture_output=True, text=True, env={**path, **environment})


def commands(*overrides: str) -> list[str]:
    return [command for _, command in missing(compose_recipe(*overrides))]


def test_everything_that_is_missing_comes_with_the_command_that_makes_it(tmp_path: Path) -> None:
    where = (f"recipe.data_dir={tmp_path}", f"recipe.model_path={tmp_path / 'model'}", "method=paper")
    assert commands(*where) == [
        f"hf download Qwen/Qwen2.5-VL-7B-Instruct --local-dir {tmp_path / 'model'}",
        f"divek prepare cub --data-root /path/to/cub --setting base-to-novel --out {tmp_path / 'cub'}",
        f"divek mine --data {tmp_path}/cub/train.parquet --model {tmp_path / 'model'} "
        f"--out {tmp_path}/votes/qwen25vl_7b_cub.jsonl",
    ]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    for name in ("cub/train.parquet", "cub/val_base.parquet", "cub/val_new.parquet", "votes/qwen25vl_7b_cub.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert commands(*where) == []


def test_few_shot_data_is_prepared_as_such_and_mixed_data_set_by_set() -> None:
    assert any("--setting few-shot --out data/pets_4shot" in each for each in commands("task=pets_4shot"))
    prepared = [shlex.split(each)[2] for each in commands("task=mixed") if each.startswith("divek prepare")]
    assert prepared == ["cub", "flowers", "pets", "cars", "aircraft"]


def test_commands_can_be_pasted_whatever_the_paths_are_called(tmp_path: Path) -> None:
    prepare = commands(f"recipe.data_dir='{tmp_path}/my data'")[1]
    assert shlex.split(prepare)[-1] == f"{tmp_path}/my data/cub"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.n_gpus_per_node=5", r"48 prompts x 4 rollouts = 192 sequences do not spread over 5 GPUs"),
        ("trainer.nnodes=5", r"192 sequences do not spread over 40 GPUs"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=10", r"data.train_batch_size=48 is no multiple of"),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=3", r"=3 does not divide the 8 GPUs"),
    ],
)
def test_what_does_not_divide_is_refused(override: str, sentence: str) -> None:
    with pytest.raises(SetupError, match=sentence):
        check_division(compose_recipe(override))


def test_the_script_stops_before_verl_where_something_is_missing(tmp_path: Path) -> None:
    done = start(CUB, f"recipe.data_dir={tmp_path}", "variant=nnodes", NNODES="3")
    assert done.returncode == 2
    assert f"missing: {tmp_path}/cub/train.parquet" in done.stderr
    assert "verl.trainer.main_ppo" not in done.stderr


def test_an_override_that_does_not_fit_is_named_with_what_would() -> None:
    done = start(CUB, "method=magic")
    assert done.returncode == 2
    assert "error: The recipe does not compose with" in done.stderr
    assert "Could not find 'method/magic' Available options in 'method': auto online paper" in done.stderr
    assert "Did you mean divek.num_options?" in start(CUB, "divek.num_option=3").stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_hands_its_task_and_all_overrides_over(script: Path, tmp_path: Path) -> None:
    prints = tmp_path / "python_that_prints"
    prints.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    prints.chmod(0o755)
    # --toy is found anywhere on the line.
    done = start(script, "variant=lora", "--toy", "trainer.save_freq=7", PYTHON=str(prints))
    toy, *given = done.stdout.splitlines()
    task = script.stem.removeprefix("run_qwen25vl_7b_")
    assert Path(toy).name == "toy.py"
    assert given == ["vlm=qwen25vl_7b", f"task={task}", "variant=lora", "trainer.save_freq=7"]


def test_there_is_a_script_for_each_set_and_for_all_of_them() -> None:
    tasks = [script.stem.removeprefix("run_qwen25vl_7b_") for script in SCRIPTS]
    assert tasks == ["aircraft", "cars", "cub", "flowers", "mixed", "pets"]


@pytest.fixture
def ready(tmp_path: Path) -> dict[str, str]:
    """Environment in which a script finds model and data, in a folder whose name has to be quoted."""
    folder = tmp_path / "it's a, b=(c) folder"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").touch()
    write_set(folder / "cub", "cub", few_shot=False)
    # The real Python for the recipes' own scripts; verl's start is printed instead.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\n[[ "$1" == -m ]] || exec {sys.executable} "$@"\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    where = {"DATA_DIR": str(folder), "MODEL_PATH": str(folder / "model"), "CKPT_DIR": str(folder / "ckpt")}
    return {"PYTHON": str(python), **where}


def test_the_script_starts_verl_with_what_the_environment_says(ready: dict[str, str]) -> None:
    done = start(CUB, "vlm=qwen25vl_3b", "trainer.save_freq=7", N_GPUS_PER_NODE="4", **ready)
    assert done.returncode == 0, done.stderr
    module, *arguments = done.stdout.splitlines()[1:]
    assert module == "verl.trainer.main_ppo"
    assert arguments[:4] == ["--config-dir", str(RECIPES), "--config-name", "recipe"]
    assert arguments[-4:] == ["vlm=qwen25vl_7b", "task=cub", "vlm=qwen25vl_3b", "trainer.save_freq=7"]
    config = compose_recipe(*arguments[4:])
    assert (config.trainer.n_gpus_per_node, config.trainer.save_freq) == (4, 7)
    assert config.recipe.vlm == "qwen25vl_3b"
    assert config.actor_rollout_ref.model.path == ready["MODEL_PATH"]
    assert config.data.train_files == f"{ready['DATA_DIR']}/cub/train.parquet"
    assert config.trainer.default_local_dir.startswith(ready["CKPT_DIR"])
    assert (config.data.train_batch_size, config.trainer.total_training_steps) == (48, 50)


def test_a_dry_run_checks_and_prints_the_command(ready: dict[str, str]) -> None:
    done = start(CUB, "--dry-run", "trainer.save_freq=7", **ready)
    assert done.returncode == 0, done.stderr
    python, *arguments = shlex.split(done.stdout)
    assert python == ready["PYTHON"] and arguments[:2] == ["-m", "verl.trainer.main_ppo"]
    assert "trainer.total_training_steps=50" in arguments and arguments[-1] == "trainer.save_freq=7"


def test_the_script_explains_itself_and_names_the_python_that_it_needs(tmp_path: Path) -> None:
    shown = start(CUB, "--help").stdout
    assert "--dry-run" in shown and "CKPT_DIR" in shown and "set -euo" not in shown
    assert "--wrong is no option" in start(CUB, "--wrong").stderr
    broken = tmp_path / "python"
    broken.write_text("#!/bin/bash\nexit 1\n")
    broken.chmod(0o755)
    assert f"{broken} has no divek_verl: set PYTHON" in start(CUB, PYTHON=str(broken)).stderr


def test_an_override_of_the_steps_comes_after_the_count(ready: dict[str, str]) -> None:
    given = start(CUB, "trainer.total_training_steps=9", **ready).stdout.splitlines()
    assert [each for each in given if "total_training_steps" in each][-1] == "trainer.total_training_steps=9"


def test_n_nodes_take_fewer_steps_of_more_prompts(ready: dict[str, str]) -> None:
    given = start(CUB, "variant=nnodes", NNODES="3", **ready).stdout.splitlines()
    assert {"trainer.nnodes=3", "data.train_batch_size=144", "trainer.total_training_steps=17"} <= set(given)
    assert (
        compose_recipe(*given[given.index("recipe") + 1 :]).trainer.experiment_name == "qwen25vl_7b_cub_3nodes_online"
    )


# ------------------------------------------------------------------------------------------------- counted steps


def test_steps_follow_from_the_batch_or_from_epochs(tmp_path: Path) -> None:
    where = (f"recipe.data_dir={tmp_path}", "method=paper")

    def steps(*overrides: str) -> int:
        return counted_steps(compose_recipe(*where, *overrides))

    assert (steps(), steps("data.train_batch_size=12"), steps("recipe.steps=100")) == (400, 200, 100)
    # Before it is prepared, the images of the reference's split count.
    assert steps("recipe.epochs=1.5") == 600
    write_data(compose_recipe(*where))
    assert (steps(), steps("recipe.epochs=1.5")) == (400, 12)
