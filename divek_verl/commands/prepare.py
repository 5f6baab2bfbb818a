"""``divek prepare NAME``: one sub-command for each data set; data_prep/NAME.py runs it too."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from divek_verl.engines.options import with_options
from divek_verl.errors import SetupError
from divek_verl.prepare.mix import main as mix
from divek_verl.prepare.official import Official
from divek_verl.prepare.prepare_set import Options, prepare_set
from divek_verl.prepare.sets import OFFICIAL_SETS, Reader, flags
from divek_verl.prepare.sets import hf as hf_set
from divek_verl.prepare.sets import image_folder as image_folder_set
from divek_verl.prepare.sets.image_folder import Depth
from divek_verl.prepare.source import Part
from divek_verl.prompts import Wording

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Prepare a data set for training.",
)

Name = Annotated[str | None, typer.Option(help="The data set's key in data_source; by default its folder's name.")]
Thing = Annotated[str, typer.Option(help="What is in the pictures, such as 'bird'; the questions ask about it.")]
Kind = Annotated[str, typer.Option(help="What a class is, such as 'species'; the questions ask for it.")]


def _official(official: Official, read: Reader) -> Callable[..., None]:
    def main(
        data_root: Annotated[Path, typer.Option(help="The official folder, or the folder that holds it.")],
        options: Options,
    ) -> None:
        prepare_set(lambda _: read(data_root, options.seed), official.wording, options)

    main.__doc__ = f"{official.topic}: {official.title}."
    return with_options(main)


@with_options
def image_folder(
    data_root: Annotated[Path, typer.Option(help="A folder with a sub-folder of images for each class.")],
    *,
    thing: Thing = Wording.thing,
    kind: Kind = Wording.kind,
    name: Name = None,
    depth: Annotated[
        Depth | None, typer.Option(help="Classes of nested folders: the topmost folders, or those that hold images.")
    ] = None,
    options: Options,
) -> None:
    """Your own images: each sub-folder is a class; train, val and test folders above them are followed.

    Say what the images show and what a class is, since the questions ask for it: --thing bird --kind species.
    """
    prepare_set(lambda _: image_folder_set.read(data_root, name, depth), Wording(thing, kind), options)


@with_options
def huggingface(
    path: Annotated[str | None, typer.Argument(help="A folder, a parquet file, or a name on the hub.")] = None,
    *,
    data_root: Annotated[str | None, typer.Option(help="The same as PATH.")] = None,
    thing: Thing = Wording.thing,
    kind: Kind = Wording.kind,
    name: Name = None,
    config: Annotated[str | None, typer.Option(help="Configuration of the set, if it has several.")] = None,
    image_column: Annotated[str, typer.Option(help="Column of the images.")] = "image",
    label_column: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    class_names: Annotated[Path | None, typer.Option(help="Class names, one per line, for labels as numbers.")] = None,
    train_split: Annotated[str, typer.Option(help="Split to train on.")] = "train",
    val_split: Annotated[
        str | None, typer.Option(help="Split to validate on; unset: a share of --train-split.")
    ] = None,
    test_split: Annotated[str | None, typer.Option(help="Split that --eval-split test validates on.")] = None,
    options: Options,
) -> None:
    """Any image-classification set of the library datasets.

    Say what the images show and what a class is, since the questions ask for it: --thing bird --kind species.
    """
    if (path is None) == (data_root is None):
        raise SetupError("Give one set to prepare: a folder, a parquet file, or a name on the hub.")
    found = str(path or data_root)
    named: dict[Part, str | None] = {"train": train_split, "val": val_split, "test": test_split}
    splits = {part: split for part, split in named.items() if split is not None}
    columns = {"image_column": image_column, "label_column": label_column}
    prepare_set(
        lambda folder: hf_set.read(
            found, folder, name=name, config=config, splits=splits, class_names=class_names, **columns
        ),
        Wording(thing, kind),
        options,
    )


COMMANDS: dict[str, Callable[..., None]] = {
    **{official.name: _official(official, read) for official, read in OFFICIAL_SETS},
    "image_folder": image_folder,
    "hf": huggingface,
    "mix": mix,
    "flags": flags.main,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
