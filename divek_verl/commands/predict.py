"""``divek predict``: the two-step answer for a person's own pictures, on the terminal or as JSON lines."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from divek_verl.commands.options import AnsweringModel, TwoStepOptions
from divek_verl.engines.options import with_options
from divek_verl.errors import SetupError
from divek_verl.images import PictureLimits
from divek_verl.labels import ClassNames
from divek_verl.predict import Prediction, TwoStepClassifier
from divek_verl.prompts import Wording
from divek_verl.templates import plain

FAILED = 1


def predict(
    images: Annotated[list[str], typer.Argument(help="Picture files.")],
    model: AnsweringModel,
    asked: TwoStepOptions,
    classes: Annotated[Path | None, typer.Option(help="File of class names: one a line, or a JSON list.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of a prepared set, whose class list is used.")] = None,
    side: Annotated[str, typer.Option(help="Which list of --data: base, new or all.")] = "all",
    dataset: Annotated[str | None, typer.Option(help="Which set of a mixed --data.")] = None,
    thing: Annotated[str | None, typer.Option(help="What is in the pictures, such as 'bird' [as --data says].")] = None,
    kind: Annotated[str | None, typer.Option(help="What a class is, such as 'species' [as --data says].")] = None,
    max_bytes: Annotated[int, typer.Option(help="Largest size of a picture's file.")] = PictureLimits.max_bytes,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a picture, and nothing else.")] = False,
) -> None:
    """Name the class of each picture: the class, the votes, the options and the reasoning.

    Ends with status 1 where a picture got no answer.
    """
    names, wording = _class_list(classes, data, side, dataset)
    wording = Wording(thing or wording.thing, kind or wording.kind)
    predictions = _predict(images, model, asked, names, wording, PictureLimits(max_bytes), as_json)
    for prediction in predictions:
        if as_json:
            # Escaped, so that what a model wrote can neither break the line nor speak to the terminal.
            print(json.dumps(prediction.to_json()))
        else:
            show(prediction, Console())
    if any(prediction.answer is None for prediction in predictions):
        raise typer.Exit(FAILED)


predict_command = with_options(predict)


def _predict(
    images: list[str],
    model: AnsweringModel,
    asked: TwoStepOptions,
    names: ClassNames,
    wording: Wording,
    limits: PictureLimits,
    quiet: bool,
) -> list[Prediction]:
    options = {
        "wording": wording,
        "settings": asked.settings(),
        "limits": limits,
        "min_pixels": asked.min_pixels,
        "max_pixels": asked.max_pixels,
    }
    with _stdout_on_stderr(quiet), TwoStepClassifier.from_options(_merged(model), names, **options) as classifier:
        return classifier.classify_all(images)


@contextmanager
def _stdout_on_stderr(wanted: bool) -> Iterator[None]:
    """Whatever libraries and the engine's processes print must not stand among the JSON lines."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _merged(model: AnsweringModel) -> AnsweringModel:
    from divek_verl.engines.checkpoints import model_folder

    return model if model.base_url else replace(model, model=model_folder(model.model))


def _class_list(classes: Path | None, data: Path | None, side: str, dataset: str | None) -> tuple[ClassNames, Wording]:
    """The class list, and the nouns of the prompts."""
    if (classes is None) == (data is None):
        raise SetupError("Which classes are there? Give either --classes FILE or --data DIR.")
    if classes is not None:
        return ClassNames(read_class_file(classes)), Wording()
    assert data is not None
    from divek_verl.class_lists import load_classes, load_wording

    folder = str(data.expanduser())
    return load_classes(folder, side, dataset), load_wording(folder, dataset)


def read_class_file(path: Path) -> list[str]:
    """Class names of a JSON list, or of a text file with one name a line.

    Raises:
        SetupError: the file cannot be read or holds something else.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} cannot be read ({error}): give --classes a text file, one name a line.") from None
    if not text.lstrip().startswith(("[", "{")):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = json.loads(text)
    except ValueError as error:
        raise SetupError(f"{path} is no JSON list ({error}): correct it, or write one name a line.") from None
    if not isinstance(names, list):
        raise SetupError(
            f"{path} is a JSON object: give --data the folder of a prepared set, or --classes a JSON list of names."
        )
    return names


def show(prediction: Prediction, console: Console) -> None:
    """Print a prediction for a reader; nothing in it is read as markup or control code."""
    console.rule(plain(prediction.source))
    if prediction.failure is not None:
        detail = f": {plain(prediction.detail)}" if prediction.detail else ""
        console.print(f"no answer, {plain(prediction.failure)}{detail}")
    else:
        console.print(f"[bold]{plain(prediction.answer or '')}[/]")
    if prediction.options:
        console.print(_votes_table(prediction))
    if prediction.reasoning or prediction.completion:
        console.print(plain(prediction.reasoning or prediction.completion or ""))


def _votes_table(prediction: Prediction) -> Table:
    table = Table("option", "class", "votes", box=None)
    letters = {name: chr(ord("A") + index) for index, name in enumerate(prediction.options)}
    names = dict.fromkeys([*prediction.votes, *prediction.options])
    for name in names:
        style = "bold" if name == prediction.answer else None
        table.add_row(letters.get(name, ""), plain(name), str(prediction.votes.get(name, 0)), style=style)
    for name, count in prediction.unknown.items():
        table.add_row("", f"{plain(name)} (not in the class list)", str(count), style="dim")
    if prediction.unanswered:
        table.add_row("", "no answer", str(prediction.unanswered), style="dim")
    return table
