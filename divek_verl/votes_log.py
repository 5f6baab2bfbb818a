"""The votes file of a mining run: it grows by a line an image, and a killed run goes on with it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from divek_verl.errors import SetupError
from divek_verl.files import lock
from divek_verl.votes_file import MinedVotes, Origin, read_votes_file, write_votes_file


class VotesLog:
    """Votes in the order in which they come; ``close`` leaves the file in order and ends it with its footer.

    Attributes:
        done: the votes that the file holds, by data source and image id.

    Raises:
        SetupError: the file holds votes of another model, other settings or another class list, is no votes file, or
            is being written by another process.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path = path
        if not path.exists():
            # Aside and renamed: whoever is killed now leaves a whole first line or none.
            write_votes_file(path, origin, [])
        self._file: Any = path.open("r+b")
        try:
            lock(self._file.fileno(), path)
            found = read_votes_file(path)
            self._refuse_other(found.origin, origin)
            self._drop_torn_line()
        except BaseException:
            self._file.close()
            raise
        lists = {**found.origin.class_lists, **origin.class_lists}
        self.origin = Origin(origin.model, origin.sampling, lists)
        self.done = {mined.key: mined for mined in found.votes}

    def add(self, mined: MinedVotes) -> None:
        """Append one line, which a kill of this process cannot take back."""
        line = json.dumps(mined.to_json(), ensure_ascii=False) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        self.done[mined.key] = mined

    def close(self, order: Iterable[tuple[str, str]] | None = None) -> None:
        """Let go of the file; with ``order``, rewrite it first: its keys in this order, then all others.

        A file without votes is removed.
        """
        if order is not None:
            ordered = {key: self.done[key] for key in order if key in self.done}
            write_votes_file(self.path, self.origin, {**ordered, **self.done}.values())
        self._file.close()
        if not self.done:
            # No votes of one model would only stop the run that asks another one.
            self.path.unlink(missing_ok=True)

    def _refuse_other(self, held: Origin, wanted: Origin) -> None:
        differences = held.differences(wanted)
        if differences:
            raise SetupError(
                f"{self.path} holds votes of {', '.join(differences)}: give another --out, or the settings that it has."
            )

    def _drop_torn_line(self) -> None:
        """Cut off what a kill left of a line, and stand at the end."""
        content = self._file.read()
        self._file.seek(content.rfind(b"\n") + 1)
        self._file.truncate()
