"""The data of the question browser: every visit as columns of small numbers, pictures and texts beside them."""

import base64
import gzip
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from divek_verl.report.lines import RecordedVisit
from divek_verl.report.pictures import Thumbnails, thumbnails
from divek_verl.report.reading import Run
from divek_verl.report.scores import source_order
from divek_verl.report.text import cut, shown
from divek_verl.templates import visible

MOST_QUESTIONS = 20_000
# Of a visit: so many different answers by name, the others as one number.
ANSWERS_SHOWN = 12
# Texts are compressed so many questions at a time, and unpacked when one of them is looked at.
QUESTIONS_A_CHUNK = 50
CHUNKS_TRIED = 8
# Rollouts of a question and characters of a text, the most that fits.
TEXT_LIMITS = ((16, 6000), (8, 3000), (4, 2000), (2, 1200), (1, 800), (1, 400), (1, 150))
# Of the bytes left for the browser.
SHARE_OF_COLUMNS, SHARE_OF_TEXTS = 0.35, 0.3

NO_NAME = -1


@dataclass(frozen=True)
class Entry:
    """A visit of a run; ``run`` is the run's place."""

    run: int
    visit: RecordedVisit


@dataclass(frozen=True)
class Browser:
    """``data`` goes into the page as JSON; ``notes`` say what is missing, and what was left out to keep it small."""

    data: dict[str, Any]
    notes: list[str]


def browser(runs: Mapping[str, Run], limit: int) -> Browser | None:
    """What the browser shows of ``runs``, in about ``limit`` bytes; None where no question was recorded."""
    recorded = [Entry(place, visit) for place, run in enumerate(runs.values()) for visit in _visits(run)]
    if not recorded:
        return None
    entries, columns, names, paths = _columns_that_fit(recorded, round(SHARE_OF_COLUMNS * limit))
    used = len(json.dumps([columns, names]))
    texts, text_limit = _texts_that_fit(entries, round(SHARE_OF_TEXTS * (limit - used)))
    used += sum(map(len, texts))
    pictures = thumbnails(paths, max(limit - used, 0))
    data = {
        "runs": [shown(name) for name in runs],
        "names": names,
        "columns": columns,
        "mime": pictures.mime,
        "pictures": pictures.encoded,
        "chunk": QUESTIONS_A_CHUNK,
        "texts": texts,
    }
    notes = [
        _note_on_visits(len(entries), len(recorded)),
        _note_on_texts(entries, *text_limit),
        *_notes_on_pictures(pictures),
    ]
    return Browser(data, [note for note in notes if note])


def _visits(run: Run) -> list[RecordedVisit]:
    """In the order of the run: the training of a step, then its validation."""
    visits = [*run.training, *run.validation_visits]
    return sorted(visits, key=lambda v: (v.step, v.split == "val", source_order(v.data_source), v.image_id))


# ---------------------------------------------------------------------------------------------------- columns


def _columns_that_fit(recorded: Sequence[Entry], limit: int) -> tuple[list[Entry], dict[str, list], list[str], list]:
    most = MOST_QUESTIONS
    while True:
        entries = _some_images(recorded, most)
        names, paths = Places(), Places()
        columns = make_columns(entries, names, paths)
        size = len(json.dumps([columns, list(names)]))
        if size <= limit or len(entries) <= 1:
            return entries, columns, list(names), list(paths)
        most = min(most - 1, int(0.9 * len(entries) * limit / size))


def _some_images(recorded: Sequence[Entry], most: int) -> list[Entry]:
    """All visits, or all those of some images, drawn by lot: what became of an image stays together."""
    if len(recorded) <= most:
        return list(recorded)
    images: dict[tuple[str, str], list[int]] = {}
    for place, entry in enumerate(recorded):
        images.setdefault((entry.visit.data_source, entry.visit.image_id), []).append(place)
    order = sorted(images)
    random.Random("some images").shuffle(order)
    chosen: list[int] = []
    for name in order:
        if len(chosen) + len(images[name]) <= most or not chosen:
            chosen += images[name]
    return [recorded[place] for place in sorted(chosen)]


class Places(dict[str, int]):
    """Texts in the order in which they first came up, each once."""

    def of(self, text: str | None) -> int:
        return NO_NAME if text is None else self.setdefault(text, len(self))

    def of_name(self, name: str | None) -> int:
        """As ``of``, of the name as the page shows it."""
        return NO_NAME if name is None else self.of(shown(name))


def make_columns(entries: Iterable[Entry], names: Places, paths: Places) -> dict[str, list]:
    """Column -> its value for each entry; names and picture paths are places in ``names`` and ``paths``.

    ``votes`` and ``unknown`` are flat: name, count, name, count. ``choices`` has a letter a rollout, ``-`` for none.
    """
    rows = [_row(entry, names, paths) for entry in entries]
    return {column: [row[column] for row in rows] for column in (rows[0] if rows else {})}


def _row(entry: Entry, names: Places, paths: Places) -> dict[str, Any]:
    visit = entry.visit
    rollouts = len(visit.choices) + sum(visit.rollout_failures.values())
    votes, unknown, rest = _answers(visit)
    return {
        "run": entry.run,
        "step": visit.step,
        "training": int(visit.split == "train"),
        "source": names.of_name(visit.data_source),
        "image": names.of_name(visit.image_id),
        "picture": paths.of(visit.image or None),
        "truth": names.of_name(visit.truth),
        "votes": [part for name, count in votes for part in (names.of_name(name), count)],
        "unknown": [part for name, count in unknown for part in (names.of_name(name), count)],
        "rest": rest,
        "unanswered": visit.unanswered,
        "options": [names.of_name(name) for name in visit.options[:26]],
        "answer": _place_of_letter(visit.answer),
        "choices": "".join("-" if _place_of_letter(letter) < 0 else str(letter) for letter in visit.choices),
        "rewards": [round(reward, 3) if math.isfinite(reward) else None for reward in visit.rewards],
        "rollouts": rollouts,
        "right": round(visit.acc * rollouts),
        "injected": int(visit.injected),
        "reason": names.of_name(visit.reason),
        "voted": names.of_name(visit.votes_from),
        "age": visit.vote_age,
        "origin": names.of_name(visit.option_source),
        "version": visit.policy_version,
        "waves": visit.waves,
        "wanted": visit.num_options,
    }


def _answers(visit: RecordedVisit) -> tuple[list[tuple[str, int]], list[tuple[str, int]], int]:
    """Votes for classes, answers outside the list, and the count of those that are not named here."""
    ranked = [(count, name, True) for name, count in visit.votes.items() if count]
    ranked += [(count, name, False) for name, count in visit.unknown.items() if count]
    ranked.sort(key=lambda answer: -answer[0])
    shown, rest = ranked[:ANSWERS_SHOWN], ranked[ANSWERS_SHOWN:]
    votes = [(name, count) for count, name, known in shown if known]
    unknown = [(name, count) for count, name, known in shown if not known]
    return votes, unknown, sum(count for count, _, _ in rest)


def _place_of_letter(letter: str | None) -> int:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ".find(letter) if letter and len(letter) == 1 else -1


# ---------------------------------------------------------------------------------------------------- texts


def _texts_that_fit(entries: Sequence[Entry], limit: int) -> tuple[list[str], tuple[int, int]]:
    starts = range(0, len(entries), QUESTIONS_A_CHUNK)
    chunks = [[entry.visit.completions for entry in entries[start : start + QUESTIONS_A_CHUNK]] for start in starts]
    tried = chunks[:: max(1, len(chunks) // CHUNKS_TRIED)]
    for place in TEXT_LIMITS:
        # Some chunks say what all will need, so that few are compressed twice.
        if sum(len(_packed(chunk, *place)) for chunk in tried) * len(chunks) > 0.95 * limit * len(tried):
            continue
        packed = [_packed(chunk, *place) for chunk in chunks]
        if sum(map(len, packed)) <= limit:
            return packed, place
    return [], (0, 0)


def _packed(chunk: Sequence[Sequence[str]], rollouts: int, characters: int) -> str:
    """Completions of some visits as JSON, gzip and base64."""
    kept = [[visible(cut(text, characters)) for text in texts[:rollouts]] for texts in chunk]
    compressed = gzip.compress(json.dumps(kept, ensure_ascii=False).encode(), mtime=0)
    return base64.b64encode(compressed).decode("ascii")


# ---------------------------------------------------------------------------------------------------- what is missing


def _note_on_visits(shown_here: int, recorded: int) -> str:
    if shown_here == recorded:
        return ""
    return f"Of {recorded:,} visits these are {shown_here:,}: all visits to some of the images, drawn by lot."


def _note_on_texts(entries: Sequence[Entry], rollouts: int, characters: int) -> str:
    texts = [entry.visit.completions for entry in entries]
    beyond = sum(len(of_visit[rollouts:]) for of_visit in texts)
    shortened = sum(len(text) > characters for of_visit in texts for text in of_visit[:rollouts])
    notes = {
        f"{shortened:,} texts are cut after {characters:,} characters.": shortened,
        f"{beyond:,} texts are left out: the first {rollouts} of each question are here.": beyond,
    }
    return " ".join(note for note, count in notes.items() if count)


def _notes_on_pictures(pictures: Thumbnails) -> list[str]:
    missing = sum(picture is None for picture in pictures.encoded) - pictures.left_out
    notes = {
        f"{missing:,} of {len(pictures.encoded):,} pictures cannot be read on this machine.": missing,
        f"{pictures.left_out:,} pictures are left out.": pictures.left_out,
    }
    return [note for note, count in notes.items() if count]
