"""One arm with one seed: trained on base classes, evaluated on both sides, its numbers by class in one file."""

import hashlib
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from claim_parts.photographs import copy_squares
from divek_verl.class_lists import CLASSES_FILE, load_classes
from divek_verl.demo.lessons import SQUARE
from divek_verl.demo.run import REPOSITORY, SIDES, Plan, check_correlation, run_stage, train
from divek_verl.errors import SetupError
from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.files import read_lines, write_aside
from divek_verl.labels import ClassNames
from divek_verl.measures import MEASURES
from divek_verl.prepare.sets import grocery
from divek_verl.records import QUESTIONS_FILE, QuestionRecord, without_repeated

_PARTS = Path(__file__).resolve().parent
STEPS = 40
VAL_PER_CLASS = 32
SAMPLES = 20
RESULT = "result.json"
REFERENCE = Path("tower") / "reference.json"  # gone with the tower
START_MODEL = "start_model.txt"
# Photographs of each class that only the start model learns from; one class has a single other one.
SHOTS = 15


@dataclass(frozen=True)
class Arm:
    """A way to train the start model, or to sample from it without training.

    Attributes:
        title: for the table.
        overrides: Hydra's, on top of the demo's; None where nothing is trained.
        asked: options of ``divek eval``.
    """

    title: str
    overrides: tuple[str, ...] | None = None
    asked: tuple[str, ...] = ()


def _virft(listed: bool) -> tuple[str, ...]:
    sampler = "trainer.v1.sampler"
    return (
        "reward=virft",
        f"data.divek.list_classes={str(listed).lower()}",
        # As in recipes/method/virft.yaml: nothing is skipped, so nothing is refilled.
        f"{sampler}.sync_refill_failed_groups=false",
        f"{sampler}.custom_sampler.path=null",
        f"{sampler}.custom_sampler.name=null",
    )


_REWARD = "reward.custom_reward_function"
# In the order in which they run: a session that is cut short leaves the most telling ones.
ARMS = {
    "start": Arm("start model"),
    "sharpened": Arm("start model at temperature 0.5", asked=("--temperature", "0.5")),
    "online": Arm("DiVE-k, online", ()),
    "virft": Arm("ViRFT", _virft(listed=False)),
    "random": Arm("random options", ("divek.option_source=random",)),
    "offline": Arm("DiVE-k, offline", ("divek.votes_file={votes}", "divek.max_vote_age=null")),
    "coin": Arm(
        "coin as answer reward",
        (
            "divek.allow_custom=true",
            f"{_REWARD}.path={_PARTS / 'coin.py'}",
            f"{_REWARD}.name=coin_score",
            f"+{_REWARD}.reward_kwargs.coin_seed={{seed}}",
        ),
    ),
    "virft_list": Arm("ViRFT with the class list", _virft(listed=True)),
    "text": Arm("options with similar names", ("divek.option_source=text_embedding",)),
}

# The arms of each data set, unless some are asked for.
ARMS_OF = {"flags": tuple(ARMS), "grocery": ("start", "online", "virft", "random", "offline", "coin")}


@dataclass(frozen=True)
class Seed:
    """The data, the start model and the runs of one seed; odd seeds exchange base and new classes.

    ``photographs`` is the folder of the Grocery Store Dataset: data are its photographs then, and all seeds share one
    vision tower. Without it, flags are drawn. ``saved`` is what the results file holds of this seed. It counts as long
    as ``home`` has no start model, or the one that the saved arms began with: a run goes on on another machine, and no
    arm is compared with another's start.
    """

    number: int
    home: Path
    steps: int = STEPS
    val_per_class: int = VAL_PER_CLASS
    photographs: Path | None = None
    saved: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.home / f"seed-{self.number}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def model(self) -> str | None:
        """The digest of the start model's weights; that of the saved arms where there is none."""
        weights = self.folder / "model" / "model.safetensors"
        if weights.is_file():
            return hashlib.sha256(weights.read_bytes()).hexdigest()
        return self.saved.get("model")

    def _saved(self, part: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.saved.get(part)
        return found if self.model == self.saved.get("model") else None

    def plan(self, name: str) -> Plan:
        """The training run of an arm."""
        given = {"seed": self.number, "votes": self._votes}
        overrides = [each.format(**given) for each in ARMS[name].overrides or ()]
        overrides += [f"divek.max_pixels={SQUARE**2}"] if self.photographs else []
        return Plan(self.folder / name, self.folder, self.number, self.steps, tuple(overrides), validates=False)

    def prepare(self) -> None:
        """Prepare the data and warm-start the model, as far as they are not there."""
        model, tower = self.folder / "model", list[object]()
        self._prepare_data()
        if self.photographs:
            # Every seed sets the same photographs apart, so one tower serves all.
            tower = ["--tower", self.home / "tower"]
            run_stage(_PARTS / "tower.py", "--data", self.data, "--out", tower[1])
            run_stage(_PARTS / "reference.py", "--data", self.data, *tower, "--out", self.home / REFERENCE)
        run_stage(
            "-m", "divek_verl.demo.warm_start", "--data", self.data, "--out", model, "--seed", self.number, *tower
        )

    def _prepare_data(self) -> None:
        squares, swapped = self.home / "photographs", self.number % 2 == 1
        if self.photographs:
            copy_squares(self.photographs, squares)
        if (self.data / CLASSES_FILE).is_file():
            return
        if not self.photographs:
            run_stage(
                str(REPOSITORY / "data_prep" / "flags.py"),
                *("--out", self.data, "--seed", self.number, "--val-per-class", self.val_per_class),
                *(["--swap"] if swapped else []),
            )
            return
        names = self.folder / "new.txt"
        if swapped:
            write_aside(names, "\n".join(grocery.read(squares).classes.base))
        run_stage(
            *(str(REPOSITORY / "data_prep" / "grocery.py"), "--data-root", squares, "--out", self.data),
            *("--setting", "pretrain-shots", "--shots", SHOTS, "--eval-split", "test"),
            *(["--new-classes", names] if swapped else []),
        )

    def knowledge(self) -> dict[str, Any]:
        """What the start model can do without a question about it, for the gates; kept in a file."""
        file = self.folder / "model" / "knowledge.json"  # gone with the model
        if not file.is_file():
            if saved := self._saved("knowledge"):
                return saved
            model = self.folder / "model"
            run_stage("-m", "divek_verl.demo.probe", "--data", self.data, "--model", model, "--out", file)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def result(self, name: str) -> dict[str, Any] | None:
        """The numbers of an arm that has ended; None before."""
        file = self.folder / name / RESULT
        if not file.is_file():
            return (self._saved("arms") or {}).get(name)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def run(self, name: str, console: Console) -> dict[str, Any]:
        """Train and evaluate an arm, or go on where an earlier call stopped; its numbers.

        Raises:
            SetupError: a stage failed, or the run saw something else than base classes.
        """
        arm, folder, facts = ARMS[name], self.folder / name, {}
        began = folder / START_MODEL
        if began.is_file() and began.read_text(encoding="utf-8") != self.model:
            raise SetupError(f"{folder} began with another start model: remove that folder.")
        if (found := self.result(name)) is not None:
            return found
        started = time.monotonic()
        write_aside(began, str(self.model))
        if arm.overrides is not None:
            plan = self.plan(name)
            if name == "offline" and not self._votes.is_file():
                self._mine()
            train(plan, console)
            facts = {"lowest_correlation": check_correlation(plan.run_dir), **seen_in_training(plan)}
        model = folder if arm.overrides is not None else self.folder / "model"
        run_stage(
            *("-m", "divek_verl.cli", "eval", "--model", model, "--out", folder / "eval", "--samples", SAMPLES),
            *(word for side in SIDES for word in ("--data", self.data / f"val_{side}.parquet")),
            *self._sampled,
            *arm.asked,
        )
        numbers = by_class(folder / "eval" / QUESTIONS_FILE, ClassNames(load_classes(str(self.data), "base").names))
        result = {**numbers, **facts, "seconds": round(time.monotonic() - started)}
        if self.photographs:
            result["examples"] = examples(folder / "eval" / QUESTIONS_FILE)
        write_aside(folder / RESULT, json.dumps(result, indent=1) + "\n")
        return result

    @property
    def _sampled(self) -> tuple[object, ...]:
        # As the demo samples: its answers are one token long, and a penalty would forbid to repeat a name of the list.
        asked = ("--repetition-penalty", "1.0", "--max-new-tokens", "16")
        return (*asked, "--max-pixels", SQUARE**2) if self.photographs else asked

    @property
    def _votes(self) -> Path:
        return self.folder / "model" / "votes.jsonl"  # gone with the model

    def _mine(self) -> None:
        """The start model's votes, as many for an image as online training samples."""
        unfinished = self._votes.with_suffix(".unfinished.jsonl")
        run_stage(
            *("-m", "divek_verl.cli", "mine", "--model", self.folder / "model", "--out", unfinished, "--samples", 12),
            *("--data", self.data / "train.parquet"),
            *self._sampled,
        )
        unfinished.replace(self._votes)


def seen_in_training(plan: Plan) -> dict[str, Any]:
    """What the run was trained on, from its data and its records; completions are those of mining and rollouts.

    Raises:
        SetupError: it saw a picture of another split, or a class that is not a base class.
    """
    base = set(load_classes(str(plan.data), "base").names)
    rows = pq.read_table(plan.data / "train.parquet", columns=["reward_model", "extra_info"]).to_pylist()
    truths = {row["reward_model"]["ground_truth"] for row in rows}
    images = {row["extra_info"]["image_id"] for row in rows}
    lines = read_lines(plan.run_dir / QUESTIONS_FILE)[0]
    records = without_repeated([record for record in map(QuestionRecord.from_json, lines) if record.split == "train"])
    options = {option for record in records for option in record.options}
    others = {record.image_id for record in records} - images
    if (apart := plan.data / "pretrain.parquet").is_file():
        rows = pq.read_table(apart, columns=["extra_info"]).to_pylist()
        others |= {row["extra_info"]["image_id"] for row in rows} & images
    if outside := sorted((truths | options) - base) + sorted(others):
        raise SetupError(f"{plan.run_dir} was trained on {', '.join(outside[:5])}: only base classes may be seen.")
    return {
        "images": len({record.image_id for record in records}),
        "mined_completions": sum(record.samples for record in records if record.votes_from == "policy"),
    }


def examples(questions: Path, count: int = 3) -> list[dict[str, Any]]:
    """Votes, options and choice of a few photographs of new classes, the same ones for each arm."""
    records = [EvaluationRecord.from_json(line) for line in read_lines(questions)[0]]
    first: dict[str, EvaluationRecord] = {}
    for record in sorted(records, key=lambda record: record.image_id):
        if record.data_source.endswith("/new"):
            first.setdefault(record.truth, record)
    names = sorted(first)
    return [
        {name: getattr(first[truth], name) for name in ("image_id", "truth", "votes", "unknown", "options", "chosen")}
        for truth in random.Random("examples").sample(names, min(count, len(names)))
    ]


def by_class(questions: Path, base: ClassNames) -> dict[str, Any]:
    """The sums of all measures over the images of each class, and the base names answered to new pictures."""
    sums: dict[str, dict[str, Counter[str]]] = {side: defaultdict(Counter) for side in SIDES}
    answers, named = 0, 0
    for line in read_lines(questions)[0]:
        record = EvaluationRecord.from_json(line)
        side = record.data_source.rsplit("/", 1)[1]
        own = sums[side][record.truth]
        own["images"] += 1
        for measure in MEASURES:
            own[measure] += getattr(record, measure)
        if side == "new":
            answers += record.samples
            named += sum(count for name, count in record.unknown.items() if base.match(name))
    return {"classes": sums, "base_names_on_new": named / answers if answers else 0.0}
