"""Writes a prepared set: each row checked, streamed into parquet, counted and reported."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import ascii_uppercase

from rich.table import Table
from tqdm import tqdm

from divek_verl.answers import parse_option
from divek_verl.class_lists import CLASSES_FILE, SET_FILE
from divek_verl.console import terminal
from divek_verl.errors import SetupError
from divek_verl.prepare.folder import printable, recorded_root, versions, write_json
from divek_verl.prepare.pictures import Picture, check_picture, hash_file, in_threads
from divek_verl.prepare.rows import (
    EMBEDDED_SCHEMA,
    ROWS_PER_GROUP,
    SCHEMA,
    Example,
    Row,
    Split,
    build_row,
    check_row,
    write_rows,
)
from divek_verl.prepare.source import Classes
from divek_verl.progress import progress
from divek_verl.prompts import Wording, open_question, user_prompt

EMBEDDED_ROWS_PER_GROUP = 64
NAMED_DUPLICATES = 5


@dataclass
class Written:
    """One parquet file: rows per class, and what was left out of it by reason."""

    name: str
    rows: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0

    def to_json(self) -> dict[str, object]:
        facts: dict[str, object] = {"rows": self.rows.total(), "classes": len(self.rows), "duplicates": self.duplicates}
        return {**facts, "left_out": dict(self.left_out)} if self.left_out else facts


def write_set(
    folder: Path,
    dataset: str,
    classes: Classes,
    splits: Sequence[Split],
    *,
    wording: Wording = Wording(),
    root: Path | None = None,
    place: Path | None = None,
    held_out: Sequence[str] = (),
    skip_bad: bool = False,
    embed: bool = False,
    is_easy: Callable[[str, Example], bool] | None = None,
    facts: Mapping[str, object] | None = None,
) -> None:
    """Check every row and write the parquet file of each split, classes.json, set.json and a report on the screen.

    Image paths start from `root`, by default `folder`, which will lie at `place` in the end. Training may hold neither
    the path nor the content of `held_out`. With `skip_bad`, a picture that cannot be used is left out; otherwise it is
    a SetupError. `is_easy` says of a data source and a training example whether its votes are all right, which leaves
    it out. `facts` go into set.json.
    """
    classes.of("all")  # refuses two classes of one name, also if they are on different sides
    for name in classes.all:
        if (option := parse_option(f"<answer>{name}</answer>", len(ascii_uppercase))) is not None:
            letter = ascii_uppercase[option]
            raise SetupError(f"The class {name!r} would be read as the option {letter} of a question: write it out.")
    writer = _SetWriter(folder, dataset, classes, wording, root or folder, skip_bad, embed, is_easy)
    # Validation first: it decides what may not be in training. What is set apart may be in neither.
    ordered = sorted(splits, key=lambda split: ("val", "pretrain", "train").index(split.stage))
    written = {split.name: writer.write(split) for split in ordered if split.stage != "train"}
    hashes = in_threads(lambda image: hash_file(writer.root / image), held_out)
    for image, digest in progress(hashes, "hash held-out classes", len(held_out), unit="image", disable=not held_out):
        writer.hold_out(image, digest)
    written |= {split.name: writer.write(split) for split in ordered if split.stage == "train"}
    if writer.problems:
        number = f"{len(writer.problems)} images cannot be used:\n" if len(writer.problems) > 1 else ""
        found = "\n".join(writer.problems)
        raise SetupError(f"{number}{found}: fix or remove it, or leave such images out with --on-error skip.")
    files = [written[split.name] for split in splits]
    write_json(folder / CLASSES_FILE, {**classes.to_json(), "wording": asdict(wording)})
    roots = {} if embed or root is None else {"image_roots": {dataset: recorded_root(root, place or folder)}}
    made = {"files": {file.name: file.to_json() for file in files}, "versions": versions()}
    write_json(folder / SET_FILE, {"dataset": dataset, **roots, **(facts or {}), **made})
    writer.report(files)


@dataclass
class _SetWriter:
    """Writes splits one after another and remembers the pictures of all of them."""

    folder: Path
    dataset: str
    classes: Classes
    wording: Wording
    root: Path
    skip_bad: bool
    embed: bool
    is_easy: Callable[[str, Example], bool] | None
    # (example, an earlier one with the same content)
    duplicates: list[tuple[Example, Example]] = field(default_factory=list)
    # What stops the set from being written, a sentence for each image.
    problems: list[str] = field(default_factory=list)
    _written: dict[bytes, Example] = field(default_factory=dict)
    _held_out: dict[bytes, str] = field(default_factory=dict)
    _held_out_paths: set[str] = field(default_factory=set)

    def hold_out(self, image: str, digest: bytes | None) -> None:
        """Training may hold neither this path nor this content."""
        self._held_out_paths.add(image)
        if digest:
            self._held_out.setdefault(digest, image)

    def write(self, split: Split) -> Written:
        written = Written(split.name)
        if not split.examples:
            raise SetupError(f"{split.name} of {self.dataset} would hold no image: add some, or change the setting.")
        schema, size = (EMBEDDED_SCHEMA, EMBEDDED_ROWS_PER_GROUP) if self.embed else (SCHEMA, ROWS_PER_GROUP)
        write_rows(self.folder / f"{split.name}.parquet", schema, self._rows(split, written), size)
        if not written.rows and not self.problems:
            raise SetupError(f"No image of {split.name} of {self.dataset} can be used: fix or replace them.")
        if split.stage == "pretrain":
            for digest, example in self._written.items():
                self.hold_out(example.image, digest)
        return written

    def _rows(self, split: Split, written: Written) -> Iterator[Row]:
        names = self.classes.of(split.side)
        prompt = user_prompt(open_question(self.wording, names.names))

        def check(example: Example) -> Picture:
            if any("\ud800" <= character <= "\udfff" for character in example.image):
                return Picture("has a name that is not UTF-8")
            return check_picture(self.root / example.image, keep_content=self.embed)

        checked = in_threads(check, split.examples)
        for example, picture in progress(checked, f"check {split.name}", len(split.examples), unit="image"):
            reason = self._reason_to_leave_out(split, example, picture)
            if reason is not None:
                written.left_out[reason] += 1
                continue
            first = self._written.setdefault(picture.digest, example)
            if first is not example:
                self.duplicates.append((example, first))
                written.duplicates += 1
            row = build_row(self.dataset, split, prompt, example, written.rows.total(), picture.content)
            check_row(row, names)
            written.rows[example.truth] += 1
            yield row

    def _reason_to_leave_out(self, split: Split, example: Example, picture: Picture) -> str | None:
        """Why an example does not go into its file, in the words of the report; None to keep it."""
        problem, reason = picture.problem, "bad image"
        if split.stage == "val":
            self.hold_out(example.image, picture.digest)
        elif problem is None and example.image in self._held_out_paths:
            problem, reason = "is held out too", "held out"
        elif problem is None and picture.digest in self._held_out:
            twin = self._held_out[picture.digest]
            problem, reason = f"has the same content as {twin}, which is held out", "held out"
        if problem is not None:
            sentence = f"{printable(self.root / example.image)} {problem}"
            if self.skip_bad:
                tqdm.write(f"left out: {sentence}")
            else:
                self.problems.append(sentence)
            return reason
        easy = split.stage == "train" and self.is_easy and self.is_easy(f"divek/{self.dataset}/{split.side}", example)
        return "easy" if easy else None

    def report(self, files: Sequence[Written]) -> None:
        """Show the counts of each file, the duplicates, and what was compared to keep held-out images out."""
        console = terminal()
        table = Table("file", "images", "classes", "duplicates", "left out")
        for file in files:
            left_out = ", ".join(f"{count} {reason}" for reason, count in file.left_out.items()) or "0"
            table.add_row(file.name, str(file.rows.total()), str(len(file.rows)), str(file.duplicates), left_out)
        console.print(table)
        lines = [
            f"duplicate: {example.image} ({example.truth}) has the content of {first.image} ({first.truth})"
            for example, first in self.duplicates[:NAMED_DUPLICATES]
        ]
        if len(self.duplicates) > NAMED_DUPLICATES:
            lines.append(f"duplicate: {len(self.duplicates) - NAMED_DUPLICATES} more")
        if self.duplicates:
            conflicts = sum(example.truth != first.truth for example, first in self.duplicates)
            lines.append(f"{len(self.duplicates)} duplicates, {conflicts} of them under another class")
        lines.append(
            f"train holds none of the {len(self._held_out_paths)} images of validation files and held-out classes: "
            "compared by path and by content"
        )
        total = sum(file.left_out["bad image"] + file.left_out["held out"] for file in files)
        if total:
            lines.append(f"left out {total} images in all, each is named above")
        for line in lines:
            console.print(line, markup=False, highlight=False)
