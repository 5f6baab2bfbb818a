"""The data of the question browser: every record as columns of small numbers, with pictures and texts beside them."""

import base64
import gzip
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from divek_verl.records import QuestionRecord
from divek_verl.report.pictures import thumbnails
from divek_verl.report.reading import Run
from divek_verl.report.validation import source_order
from divek_verl.templates import label, shorten, visible

MAX_QUESTIONS = 20_000
# Answers of a question that are listed by name; the others are one number.
ANSWERS_SHOWN = 12
# Texts are compressed in chunks of this many questions, and unpacked when one of them is opened.
QUESTIONS_PER_CHUNK = 50
CHUNKS_TRIED = 8
# Rollouts per question and characters per text; the largest that fits is used.
TEXT_LIMITS = ((16, 6000), (8, 3000), (4, 2000), (2, 1200), (1, 800), (1, 400), (1, 150))
# Shares of the bytes that are left for the browser.
SHARE_OF_COLUMNS, SHARE_OF_TEXTS = 0.35, 0.3
NO_NAME = -1


@dataclass(frozen=True)
class Entry:
    run: int
    record: QuestionRecord


@dataclass(frozen=True)
class Browser:
    """``data`` goes into the page as JSON; ``notes`` say what is missing or was left out to keep the page small."""

    data: dict[str, object]
    notes: list[str]


def browser(runs: Mapping[str, Run], limit: int) -> Browser | None:
    """Build the browser data of ``runs`` in about ``limit`` bytes; None if no question was recorded."""
    recorded = []
    for index, run in enumerate(runs.values()):
        # In the order of the run: the training of a step, then its validation.
        records = sorted(
            [*run.training, *run.validation_records],
            key=lambda r: (r.step, r.split == "val", source_order(r.data_source), r.image_id),
        )
        recorded += [Entry(index, record) for record in records]
    if not recorded:
        return None
    entries, columns, names, paths = _fit_columns(recorded, round(SHARE_OF_COLUMNS * limit))
    used = len(json.dumps([columns, names]))
    texts, rollouts, characters = _fit_texts(entries, round(SHARE_OF_TEXTS * (limit - used)))
    used += sum(map(len, texts))
    pictures = thumbnails(paths, max(limit - used, 0))
    data = {
        "runs": [label(name) for name in runs],
        "names": names,
        "columns": columns,
        "mime": pictures.mime,
        "pictures": pictures.encoded,
        "chunk": QUESTIONS_PER_CHUNK,
        "texts": texts,
    }
    all_texts = [entry.record.completions for entry in entries]
    shortened = sum(len(text) > characters for own in all_texts for text in own[:rollouts])
    beyond = sum(len(own[rollouts:]) for own in all_texts)
    unreadable = pictures.encoded.count(None) - pictures.left_out
    hidden = len(recorded) - len(entries)
    kept = f"; the first {rollouts} of each question are shown" if rollouts else ""
    notes = {
        f"{len(entries):,} of {len(recorded):,} questions are shown: all those of randomly chosen images.": hidden,
        f"{shortened:,} texts are cut after {characters:,} characters.": shortened,
        f"{beyond:,} texts are left out{kept}.": beyond,
        f"{unreadable:,} of {len(pictures.encoded):,} pictures cannot be read on this machine.": unreadable,
        f"{pictures.left_out:,} pictures are left out.": pictures.left_out,
    }
    return Browser(data, [note for note, count in notes.items() if count])


def _fit_columns(recorded: Sequence[Entry], limit: int) -> tuple[list[Entry], dict[str, list], list[str], list[str]]:
    """Entries, columns, names and picture paths, with as many questions as ``limit`` bytes allow."""
    most = MAX_QUESTIONS
    while True:
        entries = _some_images(recorded, most)
        names, paths = Index(), Index()
        columns = make_columns(entries, names, paths)
        size = len(json.dumps([columns, list(names)]))
        if size <= limit or len(entries) <= 1:
            return entries, columns, list(names), list(paths)
        most = min(most - 1, int(0.9 * len(entries) * limit / size))


def _some_images(recorded: Sequence[Entry], most: int) -> list[Entry]:
    """All records, or all those of randomly chosen images, so that the history of an image stays whole."""
    if len(recorded) <= most:
        return list(recorded)
    images: dict[tuple[str, str], list[int]] = {}
    for index, entry in enumerate(recorded):
        images.setdefault(entry.record.key, []).append(index)
    order = sorted(images)
    random.Random("some images").shuffle(order)
    chosen: list[int] = []
    for key in order:
        if len(chosen) + len(images[key]) <= most or not chosen:
            chosen += images[key]
    return [recorded[index] for index in sorted(chosen)]


class Index(dict[str, int]):
    """Each text once, numbered in the order of first use."""

    def add(self, text: str | None) -> int:
        return NO_NAME if text is None else self.setdefault(text, len(self))

    def add_name(self, name: str | None) -> int:
        """The number of a name as the page shows it."""
        return NO_NAME if name is None else self.add(label(name))


def make_columns(entries: Iterable[Entry], names: Index, paths: Index) -> dict[str, list]:
    """Column -> its value for each entry; names and picture paths are numbers of ``names`` and ``paths``.

    ``votes`` and ``unknown`` are flat: name, count, name, count. ``choices``: one letter per rollout, ``-`` for none.
    """
    rows = [_row(entry, names, paths) for entry in entries]
    return {column: [row[column] for row in rows] for column in (rows[0] if rows else {})}


def _row(entry: Entry, names: Index, paths: Index) -> dict[str, object]:
    record = entry.record
    rollouts = len(record.choices) + sum(record.rollout_failures.values())
    answers = [(count, name, True) for name, count in record.votes.items() if count]
    answers += [(count, name, False) for name, count in record.unknown.items() if count]
    answers.sort(key=lambda answer: -answer[0])

    def flat(known: bool) -> list[int]:
        shown = [(name, count) for count, name, listed in answers[:ANSWERS_SHOWN] if listed == known]
        return [part for name, count in shown for part in (names.add_name(name), count)]

    return {
        "run": entry.run,
        "step": record.step,
        "training": int(record.split == "train"),
        "source": names.add_name(record.data_source),
        "image": names.add_name(record.image_id),
        "picture": paths.add(record.image or None),
        "truth": names.add_name(record.truth),
        "votes": flat(known=True),
        "unknown": flat(known=False),
        "rest": sum(count for count, _, _ in answers[ANSWERS_SHOWN:]),
        "unanswered": record.unanswered,
        "options": [names.add_name(name) for name in record.options[: len(ascii_uppercase)]],
        "answer": _letter_index(record.answer),
        "choices": "".join("-" if _letter_index(letter) < 0 else str(letter) for letter in record.choices),
        "rewards": [round(reward, 3) if math.isfinite(reward) else None for reward in record.rewards],
        "rollouts": rollouts,
        "right": round(record.accuracy * rollouts),
        "injected": int(record.injected),
        "reason": names.add_name(record.reason),
        "votes_from": names.add_name(record.votes_from),
        "vote_age": None if record.votes_from == "none" else record.vote_age,
        "option_source": names.add_name(record.option_source),
        "num_options": None if record.num_options is None else label(str(record.num_options)),
        "version": record.policy_version,
    }


def _letter_index(letter: str | None) -> int:
    return ascii_uppercase.find(letter) if letter and len(letter) == 1 else -1


def _fit_texts(entries: Sequence[Entry], limit: int) -> tuple[list[str], int, int]:
    """The packed texts, and the rollouts per question and characters per text that are kept."""
    starts = range(0, len(entries), QUESTIONS_PER_CHUNK)
    chunks = [[entry.record.completions for entry in entries[start : start + QUESTIONS_PER_CHUNK]] for start in starts]
    tried = chunks[:: max(1, len(chunks) // CHUNKS_TRIED)]
    for rollouts, characters in TEXT_LIMITS:
        # Estimate the size from some chunks, so that few are compressed twice.
        estimate = sum(len(_pack(chunk, rollouts, characters)) for chunk in tried) * len(chunks)
        if estimate <= 0.95 * limit * len(tried):
            packed = [_pack(chunk, rollouts, characters) for chunk in chunks]
            if sum(map(len, packed)) <= limit:
                return packed, rollouts, characters
    return [], 0, 0


def _pack(chunk: Sequence[Sequence[str]], rollouts: int, characters: int) -> str:
    kept = [[visible(shorten(text, characters)) for text in texts[:rollouts]] for texts in chunk]
    compressed = gzip.compress(json.dumps(kept, ensure_ascii=False).encode(), mtime=0)
    return base64.b64encode(compressed).decode("ascii")
