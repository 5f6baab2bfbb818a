"""Votes on disk: JSON lines, written by offline mining and with each checkpoint, read by the vote store.

The first line says where the votes come from, each further line holds the votes on one image. A file that is closed in
order ends with a count of its lines, so that one that was cut short is known for what it is.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.votes import Votes

FORMAT = "divek-votes-1"


def class_list_hash(classes: ClassNames) -> str:
    """SHA-256 of names in order and of their aliases: votes are only good for the list that they were counted by."""
    listed = [list(classes.names), {name: sorted(others) for name, others in sorted(classes.aliases.items())}]
    return hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True)
class Origin:
    """Where votes come from: compared with a run's own settings before its first question is built from them.

    Attributes:
        model: path or name of the model that was sampled.
        sampling: ``num_samples``, ``temperature``, ``top_p``, ``top_k``, ``repetition_penalty``, ``max_new_tokens``
            and pixel bounds.
        class_lists: data source -> ``class_list_hash``.
    """

    model: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    class_lists: Mapping[str, str] = field(default_factory=dict)

    def differences(self, other: "Origin") -> list[str]:
        """What tells the two apart, one phrase each; keys and data sources that only one of them has do not count."""
        found = [] if self.model == other.model else [f"model {self.model} and not {other.model}"]
        found += [
            f"{key} {self.sampling[key]!r} and not {other.sampling[key]!r}"
            for key in self.sampling
            if key in other.sampling and self.sampling[key] != other.sampling[key]
        ]
        found += [
            f"another class list of {source}"
            for source, digest in self.class_lists.items()
            if other.class_lists.get(source, digest) != digest
        ]
        return found


@dataclass(frozen=True)
class MinedVotes:
    """The votes on one image, and when they were mined.

    ``step``: the trainer's global step (0 offline). ``policy_version``: version of the weights that answered, where
    known. ``truncated``: completions that ended at the token limit. ``failed``: requests that brought no completion;
    they are among the votes' unanswered. ``open_tokens``: tokens of the open question, 0 where unknown.
    """

    data_source: str
    image_id: str
    votes: Votes
    step: int = 0
    policy_version: int | None = None
    truncated: int = 0
    failed: int = 0
    open_tokens: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.data_source, self.image_id

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        return {**record, "votes": self.votes.to_json()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "MinedVotes":
        """Raises KeyError, TypeError or ValueError for a record that is none."""
        return cls(**{**record, "votes": Votes.from_json(record["votes"])})


@dataclass
class VotesFile:
    """What a file held. ``torn``: lines that could not be read; ``complete``: whether it was closed in order."""

    origin: Origin
    votes: list[MinedVotes] = field(default_factory=list)
    torn: int = 0
    complete: bool = False


def header(origin: Origin) -> dict[str, Any]:
    """The first line."""
    return {"format": FORMAT, **asdict(origin)}


def footer(count: int) -> dict[str, Any]:
    """The last line of a file closed in order."""
    return {"votes_in_file": count}


def read_votes_file(path: Path) -> VotesFile:
    """All that can be read of a votes file; what a kill tore is counted, not raised. The last line on an image counts.

    Raises:
        SetupError: the file is missing, or its first line is not that of a votes file.
    """
    try:
        lines = _lines(path)
        first = next(lines, None)
    except OSError as error:
        raise SetupError(f"{path} cannot be read ({error.strerror}): give the votes file of `divek mine`.") from None
    if first is None or first.get("format") != FORMAT:
        raise SetupError(f"{path} is no votes file of this release ({FORMAT}): mine the votes again.")
    names = ("model", "sampling", "class_lists")
    found = VotesFile(Origin(**{name: first[name] for name in names if name in first}))
    by_key: dict[tuple[str, str], MinedVotes] = {}
    records = 0
    for record in lines:
        if record is not None and "votes_in_file" in record:
            found.complete = record["votes_in_file"] == records
            continue
        found.complete = False
        try:
            mined = MinedVotes.from_json(record or {})
        except (KeyError, TypeError, ValueError):
            found.torn += 1
            continue
        records += 1
        by_key[mined.key] = mined
    found.votes = list(by_key.values())
    return found


def _lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Each line's record; None for one that is torn."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield record if isinstance(record, dict) else None


def write_votes_file(path: Path, origin: Origin, votes: Iterable[MinedVotes]) -> int:
    """Write all votes aside, then rename, so that no half file is ever seen; returns their count."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    count = 0
    with aside.open("w", encoding="utf-8") as file:
        _write(file, header(origin))
        for mined in votes:
            _write(file, mined.to_json())
            count += 1
        _write(file, footer(count))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return count


def _write(file: Any, record: Mapping[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")


def model_name(path: str) -> str:
    """One name for a model, wherever a command was started: an absolute path, or the name on a hub or server."""
    return str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path


def origin_of(model: str, sampling: Mapping[str, Any], classes: Sequence[tuple[str, ClassNames]]) -> Origin:
    """The origin of votes that are about to be mined with ``classes``, pairs of data source and class list.

    A model in a folder is named by the folder's whole path, so that it is the same from wherever it was named.
    """
    folder = Path(model).expanduser()
    name = str(folder.resolve()) if folder.is_dir() else model
    return Origin(name, dict(sampling), {source: class_list_hash(names) for source, names in classes})
