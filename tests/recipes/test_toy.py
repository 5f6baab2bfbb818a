"""One recipe end to end in `make test`; all of them in `make test-recipes` (--recipes)."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from recipe import compose_recipe
from toy import NAMES, STEPS, as_override, run_toy, toy_settings, write_data

from divek_verl.estimate import data_files
from divek_verl.labels import ClassNames
from divek_verl.provenance import flatten
from divek_verl.votes_file import read_votes_file

from .cases import COMBINATIONS, KINDS, overrides


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


def check_run(vlm: str, task: str, method: str, variant: str, home: Path) -> None:
    logged = run_toy(overrides(vlm, task, method, variant), home)
    lines = [json.loads(line) for line in logged.read_text().splitlines()]
    last = next(line["data"] for line in lines if line["step"] == STEPS)
    # The paper's top_k=50 cuts much off an untrained model's flat distribution.
    assert last["training/rollout_actor_probs_pearson_corr"] >= (0.9 if method == "paper" else 0.98)
    assert any(key.startswith("val-core/divek/") and key.endswith("/acc/mean@1") for key in last)
    assert ("divek/images_mined" in last) is not method.startswith("virft")
    # `divek report` compares runs by it, the baseline too.
    assert (logged.parent / "metrics.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_baseline_runs_two_steps_by_overrides_alone(home: Path) -> None:
    """The tests of the plugin itself run the two-step methods."""
    check_run("qwen25vl_7b", "cub", "virft", "none", home)


@pytest.mark.recipes
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("case", COMBINATIONS, ids="-".join)
def test_every_recipe_runs_two_steps(case: tuple[str, str, str, str], home: Path) -> None:
    check_run(*case, home)


@pytest.mark.recipes
@pytest.mark.timeout(1000)
def test_trained_adapters_reach_the_engine(home: Path) -> None:
    """An untrained model gets no advantage, so the entropy bonus moves it, far enough to be measured."""
    moved = ["actor_rollout_ref.actor.entropy_coeff=1", "actor_rollout_ref.actor.optim.lr=0.03"]
    lines = run_toy(["variant=lora", *moved], home).read_text().splitlines()
    first, last = (entry["data"] for entry in map(json.loads, lines) if entry["step"] in (1, STEPS))
    assert last["actor/entropy"] > first["actor/entropy"] + 0.5
    # With the adapter of the step before, the engine would sample from another policy than the actor's.
    assert last["training/rollout_actor_probs_pearson_corr"] >= 0.98


def test_toy_data_is_what_the_recipe_asks_for(tmp_path: Path) -> None:
    for task in KINDS:
        config = compose_recipe(f"task={task}", f"recipe.data_dir={tmp_path}", "method=paper")
        write_data(config)
        for file in tmp_path.rglob("*.parquet"):
            for row in pq.read_table(file).to_pylist():
                dataset, side = row["data_source"].split("/")[1:]
                lists = json.loads((file.parent / "classes.json").read_text())
                assert ClassNames(lists[side]).match(row["reward_model"]["ground_truth"])
                assert (file.parent / row["images"][0]["image"]).is_file()
        votes = read_votes_file(Path(config.divek.votes_file))
        rows = sum(pq.read_metadata(file).num_rows for file in data_files(config, "train_files"))
        assert votes.complete and len(votes.votes) == rows


def test_every_set_has_names_for_both_sides() -> None:
    for names_of_set in NAMES.values():
        assert len(ClassNames(names_of_set)) >= 4


def test_overrides_are_written_in_hydras_grammar() -> None:
    assert as_override("a.b", None) == "++a.b=null"
    assert as_override("a.b", True) == "++a.b=true"
    assert as_override("a.b", ["x", "y"]) == '++a.b=["x", "y"]'
    assert as_override("a.b", "some text") == "++a.b='some text'"
    assert as_override("a.b", "${c.d}") == "++a.b=${c.d}"
    assert as_override("hydra.run.dir", "/x") == "hydra.run.dir='/x'"
    assert dict(flatten({"a": {"b": 1, "c": {"d": 2}}, "e": {}})) == {"a.b": 1, "a.c.d": 2, "e": {}}


def test_a_toy_run_changes_sizes_and_the_machine_and_leaves_the_method_alone(tmp_path: Path) -> None:
    plain = compose_recipe("method=paper")
    changed = toy_settings(plain, tmp_path, tmp_path / "run")
    assert not [
        key for key in changed if key.startswith(("algorithm.", "reward.custom", "actor_rollout_ref.actor.optim"))
    ]
    assert [key for key in changed if key.startswith("divek.")] == ["divek.num_samples"]
    small = compose_recipe(
        "method=paper", *(as_override(*item) for item in changed.items() if not item[0].startswith("hydra."))
    )
    assert small.actor_rollout_ref.rollout.n == plain.actor_rollout_ref.rollout.n == 4
    assert small.trainer.device == "cpu" and small.trainer.total_training_steps == STEPS
