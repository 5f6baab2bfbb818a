"""From a reader and the options to a prepared set on disk."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from divek_verl.console import terminal
from divek_verl.errors import SetupError
from divek_verl.prepare.folder import IMAGES_FOLDER, new_folder
from divek_verl.prepare.rows import Example
from divek_verl.prepare.source import Classes, Source
from divek_verl.prepare.splits import BASE_TO_NEW, VAL_FRACTION, Plan, Setting, plan_splits
from divek_verl.prepare.write import write_set
from divek_verl.prompts import Wording, parse_data_source
from divek_verl.question import QuestionRules
from divek_verl.votes_file import class_list_hash, read_votes_file


class OnError(str, Enum):
    """The action for a picture that cannot be used."""

    STOP = "stop"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """How a data set is prepared; each field is an option of every command."""

    out: Annotated[Path, typer.Option(help="Folder to write, replaced if it holds a prepared set.")]
    embed_images: Annotated[bool, typer.Option("--embed-images", help="Put images, not paths, into the files.")] = False
    votes: Annotated[Path | None, typer.Option(help="Votes of `divek mine`: leave out easy training images.")] = None
    new_classes: Annotated[
        Path | None, typer.Option(help="Names of the classes to hold out, one per line; unset: the second half.")
    ] = None
    on_error: Annotated[OnError, typer.Option(help="Stop at an image that cannot be used, or skip it.")] = OnError.STOP


def prepare_set(read: Callable[[Path], Source], wording: Wording, options: Options) -> None:
    """Prepare what `read` finds; it may put images into "images" of the new folder, which it is given."""
    with new_folder(options.out) as folder:
        source = read(folder)
        dataset = source.dataset
        if not dataset or "/" in dataset:
            raise SetupError(f"The name {dataset!r} cannot be a data set's: give --name one without a slash.")
        if options.new_classes is not None:
            source = source.with_new(_labels(source, options))
        planned = plan_splits(source, options)
        classes = planned.classes
        lines = [f"{dataset}: {len(classes.all)} classes, divided: {source.division}"]
        # "pretrain" asks about all classes beside those of the two sides.
        lists = {split.side: classes.of(split.side).names for split in planned.splits if split.stage != "pretrain"}
        lines += [f"{side} ({len(names)}): {', '.join(names)}" for side, names in lists.items()]
        if empty := [name for name in source.classes.all if name not in classes.all]:
            lines.append(f"left out, no training image: {', '.join(empty)}")
        if planned.unused:
            kinds = ", ".join(f"{count} {kind}" for kind, count in planned.unused.items())
            total = sum(map(len, source.parts.values()))
            lines.append(f"in no file: {planned.unused.total()} of {total} images ({kinds})")
        terminal().print("\n".join(lines), markup=False, highlight=False)
        if "val" in source.parts and options.val_fraction != VAL_FRACTION:
            print(f"--val-fraction has no effect: {dataset} has a validation part of its own")
        facts: dict[str, object] = {
            "setting": options.setting.value,
            "eval_split": options.eval_split.value,
            "seed": options.seed,
            "division": source.division,
        }
        if options.setting in (Setting.FEW_SHOT, Setting.PRETRAIN_SHOTS):
            facts["shots"] = options.shots
        if "val" not in source.parts:
            facts["val_fraction"] = options.val_fraction
        if options.votes is not None:
            facts["votes"] = options.votes.name
        write_set(
            folder,
            dataset,
            classes,
            planned.splits,
            wording=wording,
            root=source.root,
            place=options.out,
            held_out=planned.held_out,
            skip_bad=options.on_error is OnError.SKIP,
            embed=options.embed_images,
            is_easy=None if options.votes is None else easy_by_votes(options.votes, dataset, classes),
            facts=facts,
        )
        if options.embed_images and source.root is None:
            shutil.rmtree(folder / IMAGES_FOLDER)


def _labels(source: Source, options: Options) -> set[int]:
    """The labels that --new-classes names."""
    file = options.new_classes
    assert file is not None
    if options.setting not in BASE_TO_NEW:
        raise SetupError(f"--new-classes holds no class out with --setting {options.setting.value}: leave out either.")
    try:
        lines = file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"--new-classes {file} cannot be read ({error}): give a text file of names.") from None
    names = source.classes.of("all")
    matches = {line.strip(): names.match(line) for line in lines if line.strip()}
    if unknown := [line for line, match in matches.items() if match is None]:
        raise SetupError(
            f"{file} names {', '.join(unknown)}: no class of {source.dataset}, write names as its list does."
        )
    return {names.names.index(match) for match in matches.values() if match is not None}


def easy_by_votes(path: Path, dataset: str, classes: Classes) -> Callable[[str, Example], bool]:
    """Whether an example of a data source is easy by a votes file, which must fit the set's class lists."""
    file = read_votes_file(path)
    by_key = {mined.key: mined for mined in file.votes if parse_data_source(mined.data_source)[0] == dataset}
    if not by_key:
        raise SetupError(f"{path} holds no votes on {dataset}: give the votes mined on this data set.")
    for source, digest in file.origin.class_lists.items():
        name, side = parse_data_source(source)
        if name == dataset and digest != class_list_hash(classes.of(side)):
            raise SetupError(f"The votes of {path} on {source} were counted by another class list: mine them again.")
    if file.torn or not file.complete:
        print(f"{path} was cut short: {file.torn} torn lines; images without votes are kept")
    rules = QuestionRules()

    def is_easy(data_source: str, example: Example) -> bool:
        mined = by_key.get((data_source, example.image_id))
        names = classes.of(parse_data_source(data_source)[1])
        return mined is not None and rules.is_easy(mined.votes, names, example.truth)

    return is_easy
