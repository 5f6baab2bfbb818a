"""What the report says is wrong: each rule trips on its records, and none on a healthy run."""

from pathlib import Path
from typing import Any

import pytest

from divek_verl.records import QuestionRecord
from divek_verl.report.diagnosis import LEAST_CELLS, findings, panels
from divek_verl.report.reading import Run, read_run
from divek_verl.templates import read_table

from .fabricated import make_record, write_records
from .parsing import page_of

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
RULES = {rule["name"]: rule for rule in read_table("rules.csv")}
HEALTHY = {
    "training/rollout_actor_probs_pearson_corr": 0.999,
    "actor/grad_norm": 1.0,
    "actor/kl_loss": 0.05,
    "response_length/clip_ratio": 0.01,
    "divek/vote_entropy": 1.5,
    "divek/unknown_share": 0.05,
    "divek/unanswered_share": 0.05,
    "divek/truth_injected_share": 0.2,
    "divek/easy_share": 0.3,
}


def trained(step: int, **changes: Any) -> QuestionRecord:
    """A training record in which three of four rollouts are right; the truth is at A and at B in turn."""
    answer, other = "AB"[step % 2], "BA"[step % 2]
    options = ["Chad", "Romania"] if answer == "A" else ["Romania", "Chad"]
    group = {"choices": [answer] * 3 + [other], "rewards": [2.0] * 3 + [1.0], "formats": [1.0] * 4}
    fields = {"votes": {"Chad": 5, "Romania": 3}, "options": options, "answer": answer, **group, **changes}
    return make_record(f"{step}", split="train", step=step, **fields)


def run_of(records: dict[str, Any] | None = None, last: dict[str, float] | None = None) -> Run:
    """A healthy run of 400 steps, with changes to every other pair of records and to the last half of the metrics."""
    training = [trained(step, **(records or {}) if step // 2 % 2 else {}) for step in range(400)]
    metrics = {step: {**HEALTHY, **((last or {}) if step >= 200 else {})} for step in range(400)}
    return Run("run", training=training, metrics=metrics)


EQUAL = {"choices": [None] * 4, "rewards": [1.0] * 4}
FAILED = {"failure": "unreadable_image", "options": [], "answer": None, "choices": [], "rewards": [], "formats": []}
TRIPPED: dict[str, dict[str, Any]] = {
    "sampler": {"last": {"training/rollout_actor_probs_pearson_corr": 0.9}},
    "failed images": {"records": FAILED},
    "no variance": {},
    "all wrong": {"records": EQUAL},
    "unknown names": {"last": {"divek/unknown_share": 0.5}},
    "no answer": {"last": {"divek/unanswered_share": 0.5}},
    "cut off": {"last": {"response_length/clip_ratio": 0.4}},
    "format": {"records": {"formats": [0.0] * 4}},
    "letter bias": {"records": {"choices": ["A"] * 4}},
    "injected truths": {"last": {"divek/truth_injected_share": 0.7}},
    "injection is spotted": {"records": {"injected": True, "votes": {"Romania": 8}, "choices": ["A", "A", "A", "A"]}},
    "easy images": {"last": {"divek/easy_share": 0.8}},
    "lost diversity": {"last": {"divek/vote_entropy": 0.1}},
    "far from the start": {"last": {"actor/kl_loss": 2.0}},
    "gradient spikes": {},
}  # fmt: skip


def test_a_healthy_run_trips_no_rule() -> None:
    assert findings(run_of()) == []
    assert findings(Run("nothing recorded")) == []


@pytest.mark.parametrize("name", [name for name in RULES if name != "base classes"])
def test_each_rule_trips_on_its_records(name: str) -> None:
    made = TRIPPED[name]
    run = run_of(**made)
    if name == "injection is spotted":  # their rollouts are all right
        for record in run.training:
            record.choices = [record.answer] * 4 if record.injected else record.choices
    if name == "no variance":  # more than half, on both letters
        for record in run.training[:380]:
            record.choices, record.rewards = [record.answer] * 4, [2.0] * 4
    if name == "gradient spikes":
        run.metrics[300]["actor/grad_norm"] = 30.0
    found = {finding.name: finding for finding in findings(run)}
    assert name in found and "{" not in found[name].sentence and found[name].advice
    allowed = {"all wrong": {"no variance", "all wrong"}, "no variance": {"no variance"}}
    assert set(found) <= allowed.get(name, {name})


def test_few_records_trip_no_rule_about_their_share() -> None:
    few = run_of({"formats": [0.0] * 4})
    few.training = few.training[: LEAST_CELLS // 8]
    assert findings(few) == []


def validated(tmp_path: Path, *records: QuestionRecord) -> Run:
    write_records(tmp_path, list(records))
    return read_run(tmp_path)


def test_base_classes_on_new_images_are_a_finding(tmp_path: Path) -> None:
    new = make_record(truth="Mali", data_source="divek/flags/new", votes={"Mali": 3}, unknown={"Chad": 1})
    (found,) = findings(validated(tmp_path, make_record(votes={"Chad": 4}), new))
    assert found.name == "base classes" and found.sentence.startswith("25% of the samples on new images")
    (panel,) = [panel for panel in panels({"run": read_run(tmp_path)}) if panel.name.startswith("base_classes")]
    assert panel.title == "Base classes named on new images" and panel.columns["run"]["divek/flags/new"].value == 0.25


def test_a_second_step_that_costs_points_is_said_in_words(tmp_path: Path) -> None:
    rows = [("A", "A")] * 3 + [("A", "B")]
    records = [
        make_record(str(n), f"c{n % 2}", options=["x", "y"], answer=answer, choices=[choice], consistency=1.0)
        for n, (answer, choice) in enumerate(rows)
    ]
    (found,) = findings(validated(tmp_path, *records))
    assert found.sentence.startswith(
        "divek/flags/base: the second step costs 25.0 points against the majority vote (100.0 % → 75.0 %; 95 % interval"
    )
    assert "it may be noise" in found.sentence and found.sentence in page_of(tmp_path).text
    records[-1].choices = ["A"]
    assert findings(validated(tmp_path, *records)) == []


def test_several_runs_stand_side_by_side_in_the_same_panels(run_dir: Path) -> None:
    run = read_run(run_dir)
    alone = {panel.name: panel for panel in panels({"a": run})}
    both = {panel.name: panel for panel in panels({"a": run, "b": run})}
    assert set(alone) == set(both) and "chosen_letter" in both
    assert list(alone["chosen_letter"].columns) == ["training", "divek/flags/base", "divek/flags/new"]
    assert list(both["chosen_letter"].columns) == ["a", "b"]
    assert both["chosen_letter"].columns["b"] == alone["chosen_letter"].columns["training"]
    text = page_of(run_dir).text
    assert all(panel.title in text and panel.healthy in text for panel in alone.values())
    chosen = alone["chosen_letter"].columns["training"]["A"]
    assert f"{100 * chosen.value:.1f}% of {chosen.count}, mark {100 * chosen.reference:.1f}%" in text


@pytest.mark.parametrize("name", [*RULES, "second step"])
def test_each_rule_is_documented_with_its_limit(name: str) -> None:
    (row,) = [line for line in DOCUMENT.splitlines() if line.startswith(f"| {name} |")]
    if name in RULES:
        limit = RULES[name]["limit"]
        percent = f"{100 * float(limit):.0f} %"
        assert limit in row or percent in row
