"""``divek predict``: the two-step answer for a person's own pictures, on the terminal or as JSON lines."""

import asyncio
import json
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from divek_verl.class_lists import load_classes, load_wording
from divek_verl.commands.options import TwoStepOptions
from divek_verl.console import STOPPED, terminal
from divek_verl.engines import open_engine
from divek_verl.engines.checkpoints import with_model_folder
from divek_verl.engines.options import EngineOptions, with_options
from divek_verl.engines.watchdog import redirected
from divek_verl.errors import SetupError
from divek_verl.files import parse_json
from divek_verl.images import PictureLimits, UnreadableImage, load_picture
from divek_verl.labels import ClassNames
from divek_verl.predict import AsyncTwoStepClassifier, ClassifierOptions, Prediction, two_or_more
from divek_verl.prepare.sets.image_folder import find_images
from divek_verl.prompts import Wording
from divek_verl.records import FailureReason
from divek_verl.templates import plain

FAILED = 1


def predict(
    images: Annotated[list[Path], typer.Argument(help="Picture files, or folders of them.")],
    model: EngineOptions,
    asked: TwoStepOptions,
    classes: Annotated[Path | None, typer.Option(help="File of class names: one per line, or a JSON list.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="A prepared set, its folder or a parquet file in it; its class list is used.")
    ] = None,
    side: Annotated[str, typer.Option(help="The class list of --data: base, new or all.")] = "all",
    dataset: Annotated[str | None, typer.Option(help="The data set within a mixed --data.")] = None,
    thing: Annotated[
        str | None, typer.Option(help="What the pictures show, such as 'bird'; by default what --data says.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="What a class is, such as 'species'; by default what --data says.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Name only the first N pictures.")] = None,
    max_bytes: Annotated[int, typer.Option(help="Maximum size of a picture file in bytes.")] = PictureLimits.max_bytes,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line per picture, and nothing else.")] = False,
) -> None:
    """Name the class of each picture: the class, the votes, the options and the reasoning.

    Exits with status 1 if a picture got no answer.
    """
    if (classes is None) == (data is None):
        raise SetupError("The class list is missing or given twice: give either --classes FILE or --data DIR.")
    if classes is not None:
        names, wording = ClassNames(read_class_file(classes)), Wording()
    else:
        found = (data or Path()).expanduser()
        folder = str(found.parent if found.is_file() else found)
        names, wording = load_classes(folder, side, dataset), load_wording(folder, dataset)
    model = with_model_folder(model)
    names = two_or_more(names)
    limits = PictureLimits(max_bytes)
    options: ClassifierOptions = {
        "wording": Wording(thing or wording.thing, kind or wording.kind),
        "settings": asked.settings(),
        "limits": limits,
        "min_pixels": asked.min_pixels,
        "max_pixels": asked.max_pixels,
    }
    pictures = [picture for given in images for picture in pictures_of(given)][:limit]
    # The engine takes minutes to start, so one picture has to be readable; those after it are read when they are asked.
    predictions: list[Prediction] = []
    for picture in pictures:
        if (failed := unreadable(picture, limits)) is None:
            break
        predictions.append(failed)
    usable = pictures[len(predictions) :]

    async def classify() -> list[Prediction]:
        async with open_engine(model) as engine:
            return await AsyncTwoStepClassifier(engine, names, **options).classify_all(usable)

    # What libraries and the engine's processes print goes to stderr, so that stdout holds JSON lines only.
    with redirected(2, 1) if as_json else nullcontext():
        try:
            predictions += asyncio.run(classify()) if usable else []
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            raise typer.Exit(STOPPED) from None
    for prediction in predictions:
        if as_json:
            # Escaped, so that a model's text can neither break the line nor control the terminal.
            print(json.dumps(prediction.to_json()))
        else:
            show(prediction, terminal())
    if not usable:
        raise SetupError(f"None of {len(pictures)} pictures can be read: give picture files, or folders of them.")
    if any(prediction.answer is None for prediction in predictions):
        raise typer.Exit(FAILED)


predict_command = with_options(predict)


def pictures_of(given: Path) -> list[str]:
    """The picture itself, or the pictures below a folder, by name; a line counts the files that are none."""
    given = given.expanduser()
    if not given.is_dir():
        return [str(given)]
    ignored: Counter[str] = Counter()
    pictures = sorted(str(given / path) for path in find_images(given, "", ignored))
    if not pictures:
        raise SetupError(f"{given} holds no picture: give picture files, or folders of them.")
    if ignored:
        print(f"{given}: {ignored.total()} files are no pictures by their suffix, left out", file=sys.stderr)
    return pictures


def unreadable(picture: str, limits: PictureLimits) -> Prediction | None:
    """Why there will be no answer; None for a picture that can be read."""
    try:
        load_picture(picture, limits)
    except UnreadableImage as error:
        return Prediction(picture, failure=str(FailureReason.UNREADABLE_IMAGE), detail=str(error))
    return None


def read_class_file(path: Path) -> list[str]:
    """Class names from a JSON list, or from a text file with one name per line; a SetupError for anything else."""
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(
            f"{path} cannot be read ({error}): give --classes a text file with one name per line."
        ) from None
    if not text.lstrip().startswith(("[", "{")):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = parse_json(text)
    except ValueError as error:
        raise SetupError(f"{path} is not a JSON list ({error}): correct it, or write one name per line.") from None
    if not isinstance(names, list):
        raise SetupError(
            f"{path} is a JSON object: give --data the folder of a prepared set, or --classes a JSON list of names."
        )
    return names


def show(prediction: Prediction, console: Console) -> None:
    """Print a prediction; nothing in it is read as markup or control code."""
    console.print(f"[bold]{plain(prediction.source)}[/]")
    if prediction.failure is not None:
        detail = f": {plain(prediction.detail)}" if prediction.detail else ""
        console.print(f"no answer, {plain(prediction.failure)}{detail}")
    else:
        console.print(f"[bold]{plain(prediction.answer or '')}[/]")
    if prediction.options:
        table = Table("option", "class", "votes", box=None)
        letters = dict(zip(prediction.options, ascii_uppercase, strict=False))
        for name in dict.fromkeys([*prediction.votes, *prediction.options]):
            style = "bold" if name == prediction.answer else None
            table.add_row(letters.get(name, ""), plain(name), str(prediction.votes.get(name, 0)), style=style)
        for name, count in prediction.unknown.items():
            table.add_row("", f"{plain(name)} (not in the class list)", str(count), style="dim")
        if prediction.unanswered:
            table.add_row("", "no answer", str(prediction.unanswered), style="dim")
        console.print(table)
    if prediction.reasoning or prediction.completion:
        console.print(plain(prediction.reasoning or prediction.completion or ""))
