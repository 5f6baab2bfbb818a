"""How many steps a recipe's epochs are, counted from the rows that it really trains on.

python recipes/steps.py qwen25vl_7b_cub method=paper
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from composing import compose_recipe, environment_settings, files
from omegaconf import DictConfig, OmegaConf

from divek_verl.class_lists import classes_of
from divek_verl.errors import SetupError
from divek_verl.question import QuestionRules
from divek_verl.votes import Votes
from divek_verl.votes_file import read_votes_file


def counted_steps(config: DictConfig) -> int:
    """Epochs x training rows / prompts a step; the task's own number where the data is not prepared yet.

    Rows that offline votes call easy are never trained on (`divek.skip_easy`). They do not count, as they do not in the
    reference, which drops them before it trains.

    Raises:
        SetupError: the votes file is none, or the votes leave no row.
    """
    trained = files(config, "train_files")
    if not all(file.is_file() for file in trained):
        return int(config.trainer.total_training_steps)
    votes = _offline_votes(config)
    rows = sum(_trained_rows(file, votes) for file in trained)
    if not rows:
        raise SetupError(
            f"All rows of {', '.join(map(str, trained))} are easy by their votes: train on harder data, or set "
            "divek.skip_easy=false."
        )
    return max(1, round(config.recipe.epochs * rows / config.data.train_batch_size))


def _offline_votes(config: DictConfig) -> Mapping[tuple[str, str], Votes]:
    """Votes by data source and image, where they are never mined again and easy rows are left out."""
    file = OmegaConf.select(config, "divek.votes_file")
    for_ever = file is not None and config.divek.max_vote_age is None and config.divek.skip_easy
    if not for_ever or not Path(file).expanduser().is_file():
        return {}
    return {mined.key: mined.votes for mined in read_votes_file(Path(file).expanduser()).votes}


def _trained_rows(file: Path, votes: Mapping[tuple[str, str], Votes]) -> int:
    if not votes:
        return pq.read_metadata(file).num_rows
    rows = pq.read_table(file, columns=["data_source", "reward_model", "extra_info"]).to_pylist()
    return sum(not _is_easy(row, votes, file.parent) for row in rows)


def _is_easy(row: Mapping[str, Any], votes: Mapping[tuple[str, str], Votes], folder: Path) -> bool:
    source, truth = row["data_source"], row["reward_model"]["ground_truth"]
    cast = votes.get((source, str(row["extra_info"]["image_id"])))
    return cast is not None and QuestionRules().is_easy(cast, classes_of(str(folder.resolve()), source), truth)


def main(arguments: Sequence[str]) -> int:
    """Prints the number; status 2 for a recipe that does not compose."""
    name, *given = arguments
    try:
        print(counted_steps(compose_recipe(name, *environment_settings(os.environ), *given)))
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
