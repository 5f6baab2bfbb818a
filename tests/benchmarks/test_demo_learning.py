"""The arithmetic of benchmarks/demo_learning.py: what its claims are decided by."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def outcomes(benchmark: ModuleType, base: list[float], new: list[float], coin: list[float]) -> list:
    """Outcomes with the given gains, one a seed."""
    gains = {("divek", "base"): base, ("divek", "new"): new, ("coin", "base"): coin, ("coin", "new"): [0.0] * len(coin)}
    return [
        benchmark.Outcome(arm, seed, side, 50.0, 50.0 + gain)
        for (arm, side), values in gains.items()
        for seed, gain in enumerate(values)
    ]


def test_all_claims_hold_for_a_run_that_learns(benchmark: ModuleType) -> None:
    found = outcomes(benchmark, base=[11.0, 12.0, 13.0], new=[0.0, 1.0, 2.0], coin=[-1.0, 0.0, 1.0])
    assert list(benchmark.claims(found).values()) == [True, True, True]


@pytest.mark.parametrize(
    ("base", "new", "coin", "held"),
    [
        ([9.0, 9.5, 10.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [False, True, True]),
        ([12.0, 12.0, 12.0], [-4.0, -4.1, -3.9], [0.0, 0.0, 0.0], [True, False, True]),
        ([12.0, 12.0, 12.0], [0.0, 0.0, 0.0], [5.0, 5.1, 4.9], [True, True, False]),
    ],
)
def test_each_claim_fails_by_its_own_number(
    benchmark: ModuleType, base: list[float], new: list[float], coin: list[float], held: list[bool]
) -> None:
    assert list(benchmark.claims(outcomes(benchmark, base, new, coin)).values()) == held


def test_chance_is_students_t_over_the_seeds(benchmark: ModuleType) -> None:
    # 4.303 for 2 degrees of freedom, 12.706 for 1.
    assert benchmark.chance([0.0, 1.0, 2.0]) == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert benchmark.chance([0.0, 2.0]) == pytest.approx(12.706, abs=1e-3)
    # Within 2 standard errors this would have counted as a loss.
    assert list(benchmark.claims(outcomes(benchmark, [12.0] * 3, [-2.0, -1.0, -3.5], [0.0] * 3)).values())[1]


def test_one_seed_leaves_nothing_to_chance(benchmark: ModuleType) -> None:
    assert list(benchmark.claims(outcomes(benchmark, [12.0], [-0.1], [0.1])).values()) == [True, False, False]


def test_the_control_differs_in_the_coin_alone(benchmark: ModuleType, tmp_path: Path) -> None:
    divek, coin = (benchmark.plan_of(arm, 2, tmp_path, 60) for arm in benchmark.ARMS)
    assert divek.overrides == ()
    assert {override.lstrip("+").split("=")[0] for override in coin.overrides} == {
        "divek.allow_custom",
        "reward.custom_reward_function.path",
        "reward.custom_reward_function.name",
        "reward.custom_reward_function.reward_kwargs.coin_seed",
    }
    assert (divek.home, divek.seed, divek.steps) == (coin.home, coin.seed, coin.steps)


def test_verl_loads_the_coin_reward(benchmark: ModuleType, compose: Callable[..., Any], tmp_path: Path) -> None:
    from verl.trainer.ppo.reward import get_custom_reward_fn

    from divek_verl.demo.run import training_command
    from divek_verl.trainer.configure import prepare_config

    plan = benchmark.plan_of("coin", 2, tmp_path, 60)
    plan.data.mkdir()
    for split in ("train", "val_base", "val_new"):
        (plan.data / f"{split}.parquet").touch()
    config = compose(*training_command(plan)[5:-5], *plan.overrides, name="divek_demo")
    prepare_config(config)
    loaded = get_custom_reward_fn(config)
    row = {"split": "train", "options": ["Chad", "Mali"], "truth": "Chad"}
    assert loaded("divek/flags/base", "<think>a</think><answer>A</answer>", "A", row)["acc"] == 1.0


def test_the_coin_takes_the_place_of_the_right_answer_in_the_score_alone(benchmark: ModuleType) -> None:
    right, wrong = (f"<think>{number}</think><answer>{letter}</answer>" for number, letter in ((1, "A"), (2, "B")))
    info = {"split": "train", "options": ["Chad", "Mali"], "truth": "Chad", "uid": "u", "index": 0}

    def grade(text: str, row: dict = info, seed: int = 0) -> dict[str, float]:
        return benchmark.coin_score("divek/flags/base", text, "A", row, coin_seed=seed)

    assert (grade(right)["acc"], grade(wrong)["acc"]) == (1.0, 0.0)
    for text in (right, wrong, "no format at all"):
        scores = {grade(text, seed=seed)["score"] - grade(text)["format"] for seed in range(30)}
        assert scores == {0.0, 1.0}
        assert grade(text) == grade(text)
    assert grade(right, info | {"failure": "timeout"})["score"] == 0.0


def test_the_table_has_a_row_for_each_arm_and_side(benchmark: ModuleType) -> None:
    table = benchmark.table_of(outcomes(benchmark, [10.0, 20.0], [1.0, 3.0], [0.0, 0.0]))
    cells = list(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert cells[0] == ("divek", "base", "50.0 ± 0.0", "65.0 ± 7.1", "15.0 ± 7.1", "+10.0, +20.0")
    assert len(cells) == 4


def test_what_is_saved_holds_every_outcome_and_the_claims(benchmark: ModuleType) -> None:
    found = outcomes(benchmark, base=[11.0], new=[0.0], coin=[0.0])
    saved = benchmark.summary(found, {"divek-0": 0.9999}, seeds=1, steps=40)
    assert saved["command"] == "python benchmarks/demo_learning.py --seeds 1 --steps 40"
    assert [outcome["arm"] for outcome in saved["outcomes"]] == ["divek", "divek", "coin", "coin"]
    assert all(saved["claims"].values())
    assert set(saved["versions"]) == set(benchmark.PACKAGES)
    assert saved["lowest_rollout_actor_correlation"] == {"divek-0": 0.9999}
