"""Ask about every picture, many at once, and keep each answer as soon as it is there: a kill loses none of them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from divek_verl.engines.base import Engine
from divek_verl.engines.requests import for_each
from divek_verl.engines.two_step import TwoStepSettings, ask_two_steps
from divek_verl.errors import SetupError
from divek_verl.evaluation.items import Item
from divek_verl.evaluation.visits import EvaluatedVisit, visit_of
from divek_verl.files import append_line, read_lines, write_aside, write_lines

ASKED_FILE = "evaluation.json"
QUESTIONS_FILE = "questions.jsonl"


class Progress:
    """The answers of one evaluation in its folder: added in the order in which they come, sorted at the end.

    ``evaluation.json`` says what was asked and how; answers to anything else are refused.

    Attributes:
        visits: by data source and image id.
        torn: lines that a kill left unreadable; their images are asked again.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self.folder = folder
        self.visits: dict[tuple[str, str], EvaluatedVisit] = {}
        wanted = json.loads(json.dumps(asked))
        self._check(wanted)
        write_aside(folder / ASKED_FILE, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")
        records, self.torn = read_lines(folder / QUESTIONS_FILE)
        for record in records:
            self._load(record)

    def _check(self, wanted: Mapping[str, Any]) -> None:
        path = self.folder / ASKED_FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if (self.folder / QUESTIONS_FILE).exists():
                raise SetupError(f"{self.folder} holds the records of something else: name another folder.") from None
            return
        except ValueError:
            found = None
        if found == wanted:
            return
        changed = [name for name in wanted if not isinstance(found, dict) or found.get(name) != wanted[name]]
        raise SetupError(
            f"{self.folder} holds an evaluation with another {' and another '.join(changed) or 'format'}: "
            "name another folder with --out, or start over with --fresh."
        )

    def _load(self, record: Mapping[str, Any]) -> None:
        try:
            visit = EvaluatedVisit.from_json(record)
        except TypeError:
            self.torn += 1
            return
        self.visits[visit.key] = visit

    def add(self, visit: EvaluatedVisit) -> None:
        """Keep an answer: once this returns, it survives the process."""
        append_line(self.folder / QUESTIONS_FILE, visit.to_json())
        self.visits[visit.key] = visit

    def remaining(self, items: Iterable[Item], *, retry_failures: bool = False) -> list[Item]:
        """The items without an answer; with ``retry_failures``, those whose image or request failed too."""
        return [item for item in items if self._is_open(item, retry_failures)]

    def _is_open(self, item: Item, retry_failures: bool) -> bool:
        visit = self.visits.get(item.key)
        return visit is None or (retry_failures and visit.failed_samples + (visit.failure is not None) > 0)

    def finish(self) -> list[EvaluatedVisit]:
        """All visits, sorted, in memory and in the file."""
        ordered = [self.visits[key] for key in sorted(self.visits)]
        write_lines(self.folder / QUESTIONS_FILE, (visit.to_json() for visit in ordered))
        return ordered


async def ask_all(
    items: Iterable[Item],
    engine: Engine,
    settings: TwoStepSettings,
    *,
    in_flight: int,
    on_visit: Callable[[EvaluatedVisit], object],
) -> None:
    """Ask about each item, ``in_flight`` of them at a time; no image waits for another one's second step.

    ``on_visit`` is called with each record in the order in which they are done. An error of the engine ends all.
    """

    async def ask(item: Item) -> None:
        answer = await ask_two_steps(engine, item.question, settings)
        on_visit(visit_of(item, answer, settings.num_samples))

    await for_each(items, ask, in_flight)


def fingerprint(model: str) -> str:
    """What tells a model folder's content from another's at the same path: names, sizes and times of its files."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return "served"
    files = sorted(path for path in folder.iterdir() if path.is_file())
    facts: Sequence[Any] = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
