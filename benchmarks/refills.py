"""What asking ahead for skipped images saves in real training (divek.ask_ahead).

    python benchmarks/refills.py --home runs/demo

trains the demo's warm-started model (made first if it is not there) at a learning rate of almost 0, so that the share
of easy images stays what it is, with and without asking ahead, once with few and once with many easy images. Prints
and saves rounds of mining and seconds of a step. Finished runs are kept and reused.
"""

import json
import statistics
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from divek_verl.demo.run import Plan, prepare_model, train
from divek_verl.report.reading import read_metrics

RESULTS = Path(__file__).resolve().parent / "results" / "refills.json"
# In the first steps nothing is known about the share of skipped images.
WARM_UP = 5


def summary(metrics: dict[int, dict[str, float]]) -> dict[str, float]:
    """Means over the steps after the warm-up."""
    steps = [data for step, data in metrics.items() if step > WARM_UP and "divek/mining_rounds" in data]
    mined = sum(data["divek/images_mined"] for data in steps)
    return {
        "steps": len(steps),
        "skipped_share": sum(data["divek/skips/total"] for data in steps) / mined,
        "rounds": statistics.mean(data["divek/mining_rounds"] for data in steps),
        "most_rounds": max(data["divek/mining_rounds"] for data in steps),
        "groups_left_over": statistics.mean(data["divek/groups_left_over"] for data in steps),
        "seconds_of_sampling": statistics.median(data["timing_s/gen"] for data in steps),
    }


def main(
    home: Annotated[Path, typer.Option(help="Folder of the demo's data and model, and of the runs.")] = Path(
        "runs/demo"
    ),
    steps: Annotated[int, typer.Option(min=WARM_UP + 1)] = 25,
    batch: Annotated[int, typer.Option(min=1)] = 6,
    easy_share: Annotated[list[float], typer.Option(help="divek.easy_share of each pair of runs.")] = [1.0, 0.5],  # noqa: B006
) -> None:
    """Two runs for each share."""
    console = Console()
    found = []
    for share in easy_share:
        for ask_ahead in (True, False):
            run_dir = home.resolve() / f"refills-{batch}-{share}-{'ahead' if ask_ahead else 'exact'}"
            overrides = (
                f"divek.ask_ahead={str(ask_ahead).lower()}",
                f"divek.easy_share={share}",
                f"data.train_batch_size={batch}",
                f"actor_rollout_ref.actor.ppo_mini_batch_size={batch}",
                "actor_rollout_ref.actor.optim.lr=1e-9",
                f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={batch}",
                f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={batch}",
                "trainer.val_before_train=false",
                "trainer.test_freq=-1",
                "trainer.save_freq=-1",
            )
            plan = Plan(run_dir=run_dir, home=home.resolve(), steps=steps, overrides=overrides)
            prepare_model(plan, console)
            train(plan, console)
            found.append({"ask_ahead": ask_ahead, "easy_share": share, **summary(read_metrics(run_dir))})
    table = Table(*found[0], title=f"{batch} images in a batch")
    for row in found:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    RESULTS.write_text(json.dumps({"batch": batch, "runs": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
