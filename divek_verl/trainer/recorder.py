"""Run records: ``questions.jsonl``, ``metrics.jsonl``, and the ``divek/`` metrics of a step.

One Ray actor writes for all agent-loop workers, so that lines are never torn and a step's numbers have one source.
"""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from divek_verl.diagnostics import BREAKDOWNS, averages, base_classes, base_names, vote_entropy
from divek_verl.files import append_line, only_writer, read_lines
from divek_verl.records import METRICS_FILE, QUESTIONS_FILE, FailureReason, QuestionRecord
from divek_verl.settings import Settings

RECORDER_NAME = "divek_run_recorder"


def summarize(mined: list[QuestionRecord], rolled_out: list[QuestionRecord]) -> dict[str, float]:
    """The ``divek/`` metrics of one step, from the images mined in it and those whose rollouts ended in it.

    Images without a question stay in the denominators of ``one_step``, ``consistency`` and ``recall``. Metrics about
    samples count those drawn in this step, not reused votes.
    """

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    asked = [record for record in mined if record.reason is None]
    fresh = [record for record in mined if record.votes_from == "policy"]
    voted = [record for record in mined if record.votes_from != "none"]
    samples = sum(record.samples for record in fresh)
    metrics = {
        "images_visited": float(len(mined)),
        "images_mined": float(len(fresh)),
        "votes_reused": float(sum(record.votes_from == "store" for record in mined)),
        "samples": float(samples),
        "unanswered_share": sum(record.unanswered for record in fresh) / max(samples, 1),
        "unknown_share": sum(sum(record.unknown.values()) for record in fresh) / max(samples, 1),
        "truncated_share": sum(record.truncated for record in fresh) / max(samples, 1),
        "failed_samples": float(sum(record.failed_samples for record in fresh)),
        "options/mean": mean([float(len(record.options)) for record in asked]),
        "truth_injected_share": mean([float(record.injected) for record in asked]),
        "one_step": mean([record.one_step for record in voted]),
        "consistency": mean([record.consistency for record in voted]),
        "recall": mean([record.recall for record in voted]),
        "vote_entropy": mean([vote_entropy(record) for record in voted]),
        "distinct_answers": mean([float(len(record.votes) + len(record.unknown)) for record in voted]),
        "easy_share": mean([float(record.skip == FailureReason.EASY) for record in mined]),
        "vote_age/mean": mean([float(record.vote_age) for record in voted]),
        "vote_age/max": float(max((record.vote_age for record in voted), default=0)),
        "mining_seconds/mean": mean([record.mining_seconds for record in fresh]),
        "rollout_seconds/mean": mean([record.rollout_seconds for record in rolled_out]),
        "cached_share": sum(r.cached_tokens for r in mined) / max(sum(r.prompt_tokens for r in mined), 1),
        "skips/total": float(len(mined) - len(asked)),
    }
    reasons = Counter(record.reason for record in mined if record.reason is not None)
    failures = Counter(reason for record in rolled_out for reason in Counter(record.rollout_failures).elements())
    metrics |= {f"skips/{reason}": float(count) for reason, count in reasons.items()}
    metrics |= {f"rollout_failures/{reason}": float(count) for reason, count in failures.items()}
    parts = {name: averages(breakdown, rolled_out) for name, breakdown in BREAKDOWNS.items()}
    metrics |= {f"{name}/{part.replace(' ', '_')}": each.value for name in parts for part, each in parts[name].items()}
    chosen = {part: each.count for part, each in parts["second_step"].items()}
    metrics["override_share"] = chosen.get("overrides it", 0) / max(sum(chosen.values()), 1)
    return {f"divek/{name}": value for name, value in metrics.items()}


class RunRecorder:
    """The one writer of a run's records; an actor that all workers and the trainer's sampler share.

    A line that cannot be written, as on a full disk, is counted and lost: the run never waits for its records.

    Args:
        run_dir: its folder, locked until this process ends.
        revisit_easy: an image that was easy is asked again at its visit of this number (``divek.revisit_easy``).

    Raises:
        SetupError: another run writes into the folder.
    """

    def __init__(self, run_dir: str, revisit_easy: int = 1) -> None:
        folder = Path(run_dir)
        self._stack = ExitStack()
        self._stack.enter_context(only_writer(folder))
        self._questions = folder / QUESTIONS_FILE
        earlier = [line for line in read_lines(self._questions)[0] if line.get("split") == "train"]
        self._attempt = 1 + max((line.get("attempt", 0) for line in earlier), default=-1)
        trained = [line for line in earlier if line.get("completions")]
        self._trained = {(line["data_source"], line["image_id"]) for line in trained}
        self._classes = {(line["data_source"], line["truth"]) for line in trained}
        self._revisit_easy, self._resting = revisit_easy, Counter[tuple[str, str]]()
        self._lost = 0
        self._mined: list[QuestionRecord] = []
        self._rolled_out: list[QuestionRecord] = []
        self._validated: list[QuestionRecord] = []
        self._workers: list[ActorHandle] = []

    def register_worker(self, handle: ActorHandle) -> None:
        """Remember an agent-loop worker, so that the sampler can notice its death."""
        self._workers.append(handle)

    def workers(self) -> list[ActorHandle]:
        return self._workers

    def record_votes(self, record: QuestionRecord) -> None:
        """Count a training visit as soon as its votes are in, before its rollouts start."""
        if record.split == "train":
            self._mined.append(record)
            if record.skip == FailureReason.EASY:
                self._resting[record.key] = self._revisit_easy - 1

    def rests(self, data_source: str, image_id: str) -> bool:
        """Whether an image that was easy is left out of this visit."""
        key = data_source, image_id
        if self._resting[key] <= 0:
            return False
        self._resting[key] -= 1
        return True

    def write(self, record: QuestionRecord) -> None:
        """Write the line of a finished record."""
        record.attempt = self._attempt
        try:
            append_line(self._questions, record.to_json())
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                print(f"divek_verl: {self._questions} cannot be written ({error}); records are lost and counted.")
        if record.split == "train" and record.reason is None:
            self._rolled_out.append(record)
            self._trained.add(record.key)
            self._classes.add((record.data_source, record.truth))
        elif record.split == "val":
            self._validated.append(record)

    def lost(self) -> int:
        """The number of records that could not be written since the start."""
        return self._lost

    def refill_reasons(self) -> dict[str, tuple[int, str]]:
        """Why training images were replaced since the last ``drain``: reason -> (images, one example's detail)."""
        found: dict[str, tuple[int, str]] = {}
        skipped = [(record.reason, record) for record in self._mined if record.reason is not None]
        failed = [(reason, record) for record in self._rolled_out for reason in record.rollout_failures]
        for reason, record in (*skipped, *failed):
            count, detail = found.get(reason, (0, record.detail or record.image_id))
            found[reason] = (count + 1, detail)
        return found

    def drain(self) -> dict[str, float]:
        """The metrics since the last call."""
        mined, self._mined = self._mined, []
        rolled_out, self._rolled_out = self._rolled_out, []
        counts = {
            "distinct_images": len(self._trained),
            "distinct_classes": len(self._classes),
            "records_lost": self._lost,
        }
        return {**summarize(mined, rolled_out), **{f"divek/{name}": float(count) for name, count in counts.items()}}

    def drain_validation(self) -> dict[str, float]:
        """The metrics of the validation since the last call: how many samples on new images name a base class."""
        validated, self._validated = self._validated, []
        base = base_classes(validated) | {truth for _, truth in self._classes}
        found = averages(base_names(base), validated)
        return {f"divek/base_classes_named/{source}": part.value for source, part in found.items()}


def shared_recorder(settings: Settings) -> ActorHandle:
    """The handle of this job's recorder; the first caller starts it."""
    return shared_actor(RECORDER_NAME, RunRecorder, settings.run_dir, settings.revisit_easy)


def shared_actor(name: str, kind: type, *args: object) -> ActorHandle:
    """The handle of this job's actor ``name``; the first caller starts it on its own node, without a CPU slot of Ray's.

    The first caller is verl's trainer, which also writes checkpoints' trackers and ``metrics.jsonl`` on its node. Ray
    would place an actor without a CPU slot on any node.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": name, "get_if_exists": True, "num_cpus": 0, "max_concurrency": 1, "scheduling_strategy": here}
    return ray.remote(kind).options(**options).remote(*args)


class MetricsFile:
    """Appends each step's metrics to ``metrics.jsonl``, whatever trackers the user chose.

    verl's own "file" logger truncates its file at every start, so that a resumed run would lose what it had.
    """

    def __init__(self, run_dir: str) -> None:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        self._path = Path(run_dir) / METRICS_FILE
        self._complained = False

    def log(self, data: Mapping[str, object], step: int) -> None:
        """Append one line with everything in ``data`` that is a number; JSON has only null for NaN and infinities."""
        numbers: dict[str, float | None] = {}
        for name, value in data.items():
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                continue
            numbers[name] = number if math.isfinite(number) else None
        try:
            append_line(self._path, {"step": int(step), "data": numbers})
        except OSError as error:
            if not self._complained:
                print(f"divek_verl: {self._path} cannot be written ({error}); metrics are lost.")
            self._complained = True
