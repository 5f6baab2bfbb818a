"""Run records: ``questions.jsonl``, ``metrics.jsonl``, and the ``divek/`` metrics of a step.

One Ray actor writes for all agent-loop workers, so that lines are never torn and a step's numbers have one source.
"""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray

from divek_verl.files import append_line

QUESTIONS_FILE = "questions.jsonl"
METRICS_FILE = "metrics.jsonl"
RECORDER_NAME = "divek_run_recorder"


@dataclass
class Visit:
    """One visit to one image, as it stands in ``questions.jsonl``: votes, question, rollouts, or why there are none."""

    step: int
    split: str
    data_source: str
    image_id: str
    image: str
    truth: str
    policy_version: int | None = None
    votes: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0
    truncated: int = 0
    failed_samples: int = 0
    votes_from: str = "policy"
    vote_age: int = 0
    waves: int = 1
    options: list[str] = field(default_factory=list)
    answer: str | None = None
    injected: bool = False
    skip: str | None = None
    failure: str | None = None
    detail: str | None = None
    choices: list[str | None] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    rollout_failures: dict[str, int] = field(default_factory=dict)
    one_step: float = 0.0
    consistency: float = 0.0
    recall: float = 0.0
    pass_at_k: float = 0.0
    mining_seconds: float = 0.0
    rollout_seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def samples(self) -> int:
        """Completions sampled for the votes, K."""
        return sum(self.votes.values()) + sum(self.unknown.values()) + self.unanswered

    @property
    def reason(self) -> str | None:
        """Why there is no question; None where there is one."""
        return self.skip or self.failure

    def to_json(self) -> dict[str, Any]:
        """The line of ``questions.jsonl``; ``cached_share`` is of the prompt tokens of the K samples."""
        record = asdict(self)
        prompt_tokens, cached = record.pop("prompt_tokens"), record.pop("cached_tokens")
        return {**record, "cached_share": cached / prompt_tokens if prompt_tokens else None}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def summarize(mined: list[Visit], rolled_out: list[Visit]) -> dict[str, float]:
    """The ``divek/`` metrics of one step: ``mined`` were visited in it, ``rolled_out`` were answered in it.

    Images without a question stay in the denominators of ``one_step``, ``consistency`` and ``recall``. What is said of
    samples is said of those drawn in this step, not of votes that were reused.
    """
    asked = [visit for visit in mined if visit.reason is None]
    fresh = [visit for visit in mined if visit.votes_from == "policy"]
    voted = [visit for visit in mined if visit.votes_from != "nowhere"]
    samples = sum(visit.samples for visit in fresh)
    metrics = {
        "images_visited": float(len(mined)),
        "images_mined": float(len(fresh)),
        "votes_reused": float(sum(visit.votes_from == "store" for visit in mined)),
        "samples": float(samples),
        "unanswered_share": sum(visit.unanswered for visit in fresh) / max(samples, 1),
        "unknown_share": sum(sum(visit.unknown.values()) for visit in fresh) / max(samples, 1),
        "truncated_share": sum(visit.truncated for visit in fresh) / max(samples, 1),
        "failed_samples": float(sum(visit.failed_samples for visit in fresh)),
        "waves/mean": _mean([float(visit.waves) for visit in fresh]),
        "options/mean": _mean([float(len(visit.options)) for visit in asked]),
        "truth_injected_share": _mean([float(visit.injected) for visit in asked]),
        "one_step": _mean([visit.one_step for visit in voted]),
        "consistency": _mean([visit.consistency for visit in voted]),
        "recall": _mean([visit.recall for visit in voted]),
        "vote_age/mean": _mean([float(visit.vote_age) for visit in voted]),
        "vote_age/max": float(max((visit.vote_age for visit in voted), default=0)),
        "mining_seconds/mean": _mean([visit.mining_seconds for visit in fresh]),
        "rollout_seconds/mean": _mean([visit.rollout_seconds for visit in rolled_out]),
        "cached_share": sum(v.cached_tokens for v in mined) / max(sum(v.prompt_tokens for v in mined), 1),
        "skips/total": float(len(mined) - len(asked)),
    }
    reasons = Counter(visit.reason for visit in mined if visit.reason is not None)
    failures = Counter(reason for visit in rolled_out for reason in Counter(visit.rollout_failures).elements())
    metrics |= {f"skips/{reason}": float(count) for reason, count in reasons.items()}
    metrics |= {f"rollout_failures/{reason}": float(count) for reason, count in failures.items()}
    return {f"divek/{name}": value for name, value in metrics.items()}


class RunRecorder:
    """The one writer of a run's records; an actor that all workers and the trainer's sampler share."""

    def __init__(self, run_dir: str) -> None:
        folder = Path(run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._questions = folder / QUESTIONS_FILE
        self._mined: list[Visit] = []
        self._rolled_out: list[Visit] = []
        self._workers: list[Any] = []

    def register_worker(self, handle: Any) -> None:
        """Remember an agent-loop worker, so that the sampler can notice its death."""
        self._workers.append(handle)

    def workers(self) -> list[Any]:
        return self._workers

    def note_mined(self, visit: Visit) -> None:
        """Count a training visit as soon as its votes are in, before its rollouts start."""
        if visit.split == "train":
            self._mined.append(visit)

    def write(self, visit: Visit) -> None:
        """Write the line of a finished visit."""
        append_line(self._questions, visit.to_json())
        if visit.split == "train" and visit.reason is None:
            self._rolled_out.append(visit)

    def skip_reasons(self) -> dict[str, tuple[int, str]]:
        """Reason -> (count, one example's detail) of the training visits since the last ``drain``."""
        found: dict[str, tuple[int, str]] = {}
        for visit in self._mined:
            if visit.reason is not None:
                count, detail = found.get(visit.reason, (0, visit.detail or visit.image_id))
                found[visit.reason] = (count + 1, detail)
        return found

    def drain(self) -> dict[str, float]:
        """The metrics since the last call."""
        mined, self._mined = self._mined, []
        rolled_out, self._rolled_out = self._rolled_out, []
        return summarize(mined, rolled_out)


def shared_recorder(run_dir: str) -> Any:
    """The handle of this job's recorder; the first caller starts it. It takes no CPU slot of Ray's."""
    options = {"name": RECORDER_NAME, "get_if_exists": True, "num_cpus": 0, "max_concurrency": 1}
    return ray.remote(RunRecorder).options(**options).remote(run_dir)


class MetricsFile:
    """Appends each step's metrics to ``metrics.jsonl``, whatever trackers the user chose.

    verl's own "file" logger truncates its file at every start, so that a resumed run would lose what it had.
    """

    def __init__(self, run_dir: str) -> None:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        self._path = Path(run_dir) / METRICS_FILE

    def log(self, data: dict[str, Any], step: int) -> None:
        """Append one line; a number that is not finite is null in it, which is all that JSON has for one."""
        numbers = {name: _finite_or_none(float(value)) for name, value in data.items() if _is_number(value)}
        append_line(self._path, {"step": int(step), "data": numbers})


def _is_number(value: Any) -> bool:
    try:
        return float(value) is not None
    except (TypeError, ValueError):
        return False


def _finite_or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None
