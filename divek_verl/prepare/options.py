"""The options that all data sets share, and the decorator that gives them to a command."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from divek_verl.prepare.splits import VAL_FRACTION, EvalSplit, Plan, Setting


class OnError(str, Enum):
    """What a picture that cannot be used does."""

    STOP = "stop"
    SKIP = "skip"


DataRoot = Annotated[Path, typer.Option(help="The official folder, or the folder that holds it.")]
DEFAULT_CACHE = Path("~/.cache/divek_verl/packages").expanduser()


@dataclass(frozen=True)
class Options:
    """How a data set is prepared; each field is an option of every command."""

    out: Annotated[Path, typer.Option(help="Folder to write, replaced if it holds a prepared set.")]
    setting: Annotated[Setting, typer.Option(help="Classes to train on: half, all with few images, or all.")] = (
        Setting.BASE_TO_NOVEL
    )
    eval_split: Annotated[EvalSplit, typer.Option(help="Validate on the reference's images or on the test part.")] = (
        EvalSplit.REFERENCE
    )
    shots: Annotated[int, typer.Option(min=1, help="Training images of a class with --setting few-shot.")] = 4
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.")] = 0
    val_fraction: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of training images to validate on, where no part is.")
    ] = VAL_FRACTION
    embed_images: Annotated[bool, typer.Option(help="Put the images into the parquet files, not their paths.")] = False
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images a file, for a trial.")] = None
    votes: Annotated[Path | None, typer.Option(help="Votes file: leave out training images it shows easy.")] = None
    on_error: Annotated[OnError, typer.Option(help="Stop at an image that cannot be used, or skip it.")] = OnError.STOP

    @property
    def plan(self) -> Plan:
        return Plan(self.setting, self.eval_split, self.shots, self.seed, self.val_fraction, self.limit)


def takes_options(main: Callable[..., None]) -> Callable[..., None]:
    """Makes of ``main(its own arguments, options)`` a typer function with the fields of ``Options`` as options."""
    own = [each for each in inspect.signature(main, eval_str=True).parameters.values() if each.name != "options"]
    shared = list(inspect.signature(Options, eval_str=True).parameters.values())

    @wraps(main)
    def command(**arguments: Any) -> None:
        options = Options(**{each.name: arguments.pop(each.name) for each in shared if each.name in arguments})
        main(**arguments, options=options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [each.replace(kind=keyword) for each in (*own, *shared)]
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
