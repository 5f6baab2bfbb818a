"""Ask about every picture, many at once, and keep each answer as soon as it is there: a kill loses none of them."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from divek_verl.engine import Engine
from divek_verl.errors import SetupError
from divek_verl.evaluation.items import Item
from divek_verl.evaluation.visits import EvaluatedVisit, visit_of
from divek_verl.json_lines import append_line, read_lines
from divek_verl.two_step import TwoStepSettings, ask_two_steps

PROGRESS_FILE = "progress.jsonl"


class Progress:
    """The answers so far, a JSON line each, in the order in which they came.

    The first line says what was asked and how; answers to anything else are refused.

    Attributes:
        visits: by data source and image id.
        torn: lines that a kill left unreadable; their images are asked again.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self.path = folder / PROGRESS_FILE
        self.visits: dict[tuple[str, str], EvaluatedVisit] = {}
        folder.mkdir(parents=True, exist_ok=True)
        records, self.torn = read_lines(self.path)
        head = {"asked": json.loads(json.dumps(asked))}
        if not records:
            self.path.unlink(missing_ok=True)
            append_line(self.path, head)
            return
        self._check(records[0], head)
        for record in records[1:]:
            self._load(record)

    def _check(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        old, new = found.get("asked"), wanted["asked"]
        if old == new:
            return
        changed = [name for name in new if not isinstance(old, dict) or old.get(name) != new[name]]
        raise SetupError(
            f"{self.path.parent} holds an evaluation with another {' and another '.join(changed) or 'format'}: "
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
        append_line(self.path, visit.to_json())
        self.visits[visit.key] = visit

    def remaining(self, items: Iterable[Item], *, retry_failures: bool = False) -> list[Item]:
        """The items without an answer; with ``retry_failures``, those whose image or request failed too."""
        return [item for item in items if self._is_open(item, retry_failures)]

    def _is_open(self, item: Item, retry_failures: bool) -> bool:
        visit = self.visits.get(item.key)
        return visit is None or (retry_failures and visit.failure is not None)


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
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            answer = await ask_two_steps(engine, item.question, settings)
            on_visit(visit_of(item, answer, settings.num_samples))

    workers = [asyncio.ensure_future(work()) for _ in range(in_flight)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def fingerprint(model: str) -> str:
    """What tells a model folder's content from another's at the same path: names, sizes and times of its files."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return "served"
    files = sorted(path for path in folder.iterdir() if path.is_file())
    facts: Sequence[Any] = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
