"""From a reader and the options to a prepared set on disk."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from divek_verl.errors import SetupError
from divek_verl.prepare.classes import Classes
from divek_verl.prepare.easy import easy_by_votes
from divek_verl.prepare.folder import IMAGES_FOLDER, new_folder
from divek_verl.prepare.options import OnError, Options
from divek_verl.prepare.source import Source
from divek_verl.prepare.splits import VAL_FRACTION, Setting, plan_splits
from divek_verl.prepare.write import Policy, write_set
from divek_verl.prompts import Wording


def prepare_set(read: Callable[[Path], Source], wording: Wording, options: Options) -> None:
    """Reads a data set, divides, checks and writes it.

    `read` is given the folder that is being written, into which it may put images (into "images").
    """
    with new_folder(options.out) as folder:
        source = read(folder)
        if not source.dataset or "/" in source.dataset:
            raise SetupError(f"The name {source.dataset!r} cannot be a data set's: give --name one without a slash.")
        planned = plan_splits(source, options.plan)
        Console(soft_wrap=True).print(
            f"{source.dataset}: {len(planned.classes.all)} classes, divided: {source.division}", highlight=False
        )
        if "val" in source.parts and options.val_fraction != VAL_FRACTION:
            print(f"--val-fraction has no effect: {source.dataset} has a validation part of its own")
        write_set(
            folder,
            source.dataset,
            planned.classes,
            planned.splits,
            wording=wording,
            root=source.root,
            place=options.out,
            held_out=planned.held_out,
            policy=_policy(source, planned.classes, options),
            facts=_facts(source, options),
        )
        if options.embed_images and source.root is None:
            _remove_images(folder)


def _policy(source: Source, classes: Classes, options: Options) -> Policy:
    policy = Policy(skip_bad=options.on_error is OnError.SKIP, embed=options.embed_images)
    if options.votes is None:
        return policy
    return replace(policy, is_easy=easy_by_votes(options.votes, source.dataset, classes))


def _facts(source: Source, options: Options) -> dict[str, object]:
    """What set.json says of how a set was made."""
    facts: dict[str, object] = {
        "setting": options.setting.value,
        "eval_split": options.eval_split.value,
        "seed": options.seed,
        "division": source.division,
    }
    if options.setting is Setting.FEW_SHOT:
        facts["shots"] = options.shots
    if "val" not in source.parts:
        facts["val_fraction"] = options.val_fraction
    if options.votes is not None:
        facts["votes"] = options.votes.name
    return facts


def _remove_images(folder: Path) -> None:
    """The images that a reader wrote are in the parquet files now."""
    shutil.rmtree(folder / IMAGES_FOLDER)
