"""Votes on disk: JSON lines, written by offline mining and with each checkpoint, read by the vote store.

The first line says where the votes come from; each further line holds the votes on one image. A complete file ends with
the count of its lines, so that a reader notices one that was cut short.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from divek_verl.errors import SetupError
from divek_verl.files import dump, iter_lines, lock, write_lines
from divek_verl.labels import ClassNames
from divek_verl.votes import MinedVotes

FORMAT = "divek-votes-1"


def class_list_hash(classes: ClassNames) -> str:
    """SHA-256 of names in order and of their aliases: votes are valid only for the list that they were counted by."""
    listed = [list(classes.names), {name: sorted(others) for name, others in sorted(classes.aliases.items())}]
    return hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True)
class Origin:
    """The source of votes: compared with a run's own settings before its first question is built from them.

    Attributes:
        model: path or name of the model that was sampled.
        sampling: ``num_samples``, ``temperature``, ``top_p``, ``top_k``, ``repetition_penalty``, ``max_new_tokens``
            and pixel bounds.
        class_lists: data source -> ``class_list_hash``.
    """

    model: str
    sampling: Mapping[str, object] = field(default_factory=dict)
    class_lists: Mapping[str, str] = field(default_factory=dict)

    def differences(self, other: "Origin") -> list[str]:
        """One phrase for each difference; keys and data sources that only one of the two has are ignored."""
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


@dataclass
class VotesFile:
    """The content of a file. ``torn``: lines that could not be read; ``complete``: whether its count is right."""

    origin: Origin
    votes: list[MinedVotes] = field(default_factory=list)
    torn: int = 0
    complete: bool = False


def read_votes_file(path: Path, newest: int | None = None) -> VotesFile:
    """Read what can be read; lines torn by a kill are counted, not raised. The last line on an image wins.

    Args:
        newest: the newest version of the policy from which votes can come, if known.

    Raises:
        SetupError: the file is missing, its first line is not that of a votes file, or a line holds no possible votes.
    """
    try:
        lines = iter_lines(path)
        first = next(lines, None)
    except OSError as error:
        raise SetupError(f"{path} cannot be read ({error.strerror}): give the votes file of `divek mine`.") from None
    if first is None or first.get("format") != FORMAT:
        raise SetupError(f"{path} is not a votes file of this release ({FORMAT}): mine the votes again.")
    model, sampling, lists = (first.get(name, {}) for name in ("model", "sampling", "class_lists"))
    if not (isinstance(model, str) and isinstance(sampling, dict) and isinstance(lists, dict)):
        raise SetupError(f"{path} does not say where its votes come from: mine the votes again.")
    found = VotesFile(Origin(model, sampling, lists))
    samples = sampling.get("num_samples")
    by_key: dict[tuple[str, str], MinedVotes] = {}
    records = 0
    for number, record in enumerate(lines, start=2):
        if record is not None and "votes_in_file" in record:
            found.complete = record["votes_in_file"] == records
            continue
        found.complete = False
        if record is None:
            found.torn += 1
            continue
        try:
            mined = MinedVotes.from_json(record)
            if samples is not None and mined.votes.total != samples:
                raise ValueError(f"it has {mined.votes.total} votes and not {samples}")
            if newest is not None and (mined.policy_version or 0) > newest:
                raise ValueError(f"its policy version {mined.policy_version} is newer than the file's {newest}")
        except (KeyError, TypeError, ValueError) as error:
            raise SetupError(f"{path}, line {number}, holds no votes ({error}): remove the line.") from None
        records += 1
        by_key[mined.key] = mined
    found.votes = list(by_key.values())
    return found


def write_votes_file(path: Path, origin: Origin, votes: Iterable[MinedVotes]) -> None:
    """Write all votes, so that a reader sees the old file or the whole new one."""
    records = [mined.to_json() for mined in votes]
    write_lines(path, [{"format": FORMAT, **asdict(origin)}, *records, {"votes_in_file": len(records)}])


class VotesLog:
    """The votes file of a mining run: it grows by a line per image, and a run that was killed continues with it.

    Attributes:
        done: the votes in the file, by data source and image id.

    Raises:
        SetupError: the file holds votes of another model, other settings or another class list, is not a votes file,
            or is being written by another process.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("a+b")
        empty = False
        try:
            lock(self._file.fileno(), path)
            # Another process may have replaced or removed the file before the lock.
            if not path.exists() or not os.path.samestat(os.fstat(self._file.fileno()), path.stat()):
                raise SetupError(f"{path} was being finished by another process: start again.")
            empty = not os.fstat(self._file.fileno()).st_size
            if empty:
                self._file.write(dump({"format": FORMAT, **asdict(origin)}).encode())
                self._file.flush()
            found = read_votes_file(path)
            differences = found.origin.differences(origin)
            if differences:
                raise SetupError(
                    f"{path} holds votes of {', '.join(differences)}: give another --out, or the settings that it has."
                )
            # Cut off what a kill left of a line.
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)
        except BaseException:
            if empty:
                path.unlink()
            self._file.close()
            raise
        lists = {**found.origin.class_lists, **origin.class_lists}
        self.origin = Origin(origin.model, origin.sampling, lists)
        self.done = {mined.key: mined for mined in found.votes}

    def add(self, mined: MinedVotes) -> None:
        """Append one line; it survives a kill of this process."""
        self._file.write(dump(mined.to_json()).encode())
        self._file.flush()
        self.done[mined.key] = mined

    def close(self, order: Iterable[tuple[str, str]] | None = None) -> None:
        """Close the file; with ``order``, rewrite it first: these keys in this order, then all others.

        A file without votes is removed, because it would refuse the next run with another model.
        """
        if order is not None:
            ordered = {key: self.done[key] for key in order if key in self.done}
            write_votes_file(self.path, self.origin, {**ordered, **self.done}.values())
        self._file.close()
        if not self.done:
            self.path.unlink(missing_ok=True)


def model_name(path: str) -> str:
    """One name for a model, wherever a command was started: an absolute path, or its name on a hub or server."""
    return str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path


def origin_of(model: str, sampling: Mapping[str, object], classes: Sequence[tuple[str, ClassNames]]) -> Origin:
    """The origin of votes that are about to be mined with ``classes``, pairs of data source and class list."""
    return Origin(model_name(model), dict(sampling), {source: class_list_hash(names) for source, names in classes})
