"""The metrics of a step, and the one writer of a run's records."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from test_records import FIELDS, asked, record

from divek_verl.errors import SetupError
from divek_verl.trainer.recorder import MetricsFile, RunRecorder, summarize


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------------------------------ the metrics of a step


def test_the_metrics_of_a_step_by_hand() -> None:
    samples = {"unknown": {"Yak": 1}, "unanswered": 3, "truncated": 2, "failed_samples": 1}  # 8 samples
    question = {"injected": True, "options": ["Chad", "Romania", "Mali"], "one_step": 0.375, "consistency": 1.0}
    spent = {"mining_seconds": 2.0, "rollout_seconds": 4.0, "prompt_tokens": 100, "cached_tokens": 50}
    rolled_out = {"choices": ["A", "B"], "rewards": [2.0, 0.0], "formats": [1.0, 0.0]}
    first = asked(
        **samples, **question, **spent, **rolled_out, rollout_failures={"rollout_timeout": 2, "ValueError": 1}
    )
    second = asked(one_step=0.75, recall=1.0, mining_seconds=4.0, rollout_seconds=8.0, prompt_tokens=300)  # 4 samples
    easy = record(votes={"Chad": 4}, skip="easy", one_step=1.0, consistency=1.0, recall=1.0, mining_seconds=6.0)
    broken = record(failure="unreadable_image")
    metrics = summarize([first, second, easy, broken], [first, second])
    counts = {"images_visited": 4, "images_mined": 4, "votes_reused": 0, "samples": 16, "failed_samples": 1}
    shares = {"unanswered_share": 3 / 16, "unknown_share": 1 / 16, "truncated_share": 2 / 16, "cached_share": 50 / 400}
    of_the_two_with_a_question = {"options/mean": 2.5, "truth_injected_share": 0.5}
    of_all_four = {"one_step": (0.375 + 0.75 + 1.0 + 0.0) / 4, "consistency": 0.5, "recall": 0.5}
    ages = {"vote_age/mean": 0.0, "vote_age/max": 0.0}
    seconds = {"mining_seconds/mean": 3.0, "rollout_seconds/mean": 6.0}
    skips = {"skips/total": 2, "skips/easy": 1, "skips/unreadable_image": 1}
    failures = {"rollout_failures/rollout_timeout": 2, "rollout_failures/ValueError": 1}
    # Of five rollouts of the first question, one is right; the votes for its two classes and Yak are 3, 1 and 1.
    entropy = 0.6 * math.log2(5 / 3) + 0.4 * math.log2(5)
    quarter = 0.75 * math.log2(4 / 3) + 0.25 * math.log2(4)
    votes = {"vote_entropy": (entropy + quarter) / 4, "distinct_answers": (3 + 2 + 1) / 4, "easy_share": 0.25}
    parts = {
        **{"groups/mixed": 1, "groups/all_right": 0, "groups/all_wrong": 0, "reward/format": 0.5, "reward/answer": 0.2},
        **{"chosen_letter/A": 0.5, "chosen_letter/B": 0.5, "chosen_letter/C": 0.0},
        **{"accuracy_by_position/A": 0.2, "accuracy_by_options/3": 0.2, "accuracy_by_truth/injected": 0.2},
        **{"accuracy_by_fillers/with_fillers": 0.2, "second_step/keeps_the_majority": 1, "second_step/overrides_it": 0},
        "override_share": 0.5,
    }
    expected = (
        counts | shares | votes | parts | of_the_two_with_a_question | of_all_four | ages | seconds | skips | failures
    )
    assert metrics == pytest.approx({f"divek/{name}": value for name, value in expected.items()})
    assert all(type(value) is float for value in metrics.values())


def test_votes_that_are_reused_are_no_samples_of_this_step() -> None:
    fresh = asked(unanswered=4, one_step=0.5, mining_seconds=2.0)
    reused = asked(unanswered=9, votes_from="store", vote_age=4, one_step=1.0, mining_seconds=0.1)
    unasked = asked(votes={}, votes_from="none", mining_seconds=0.1)
    metrics = summarize([fresh, reused, unasked], [])
    assert (metrics["divek/images_visited"], metrics["divek/images_mined"], metrics["divek/votes_reused"]) == (3, 1, 1)
    assert metrics["divek/samples"] == fresh.samples
    assert metrics["divek/unanswered_share"] == 4 / fresh.samples
    assert metrics["divek/mining_seconds/mean"] == 2.0
    # What the votes say is said of all that had votes.
    assert (metrics["divek/one_step"], metrics["divek/vote_age/mean"], metrics["divek/vote_age/max"]) == (0.75, 2, 4)


def test_a_step_without_images_has_metrics_all_the_same() -> None:
    metrics = summarize([], [])
    assert set(metrics.values()) == {0.0}
    assert "divek/images_mined" in metrics


# ------------------------------------------------------------------------------------------ the recorder, without Ray


def test_finished_visits_are_lines_at_once_and_a_resumed_run_appends(tmp_path: Path) -> None:
    recorder = RunRecorder(str(tmp_path / "new" / "run"))
    recorder.write(asked())
    recorder.write(asked(split="val", image_id="é"))
    path = tmp_path / "new" / "run" / "questions.jsonl"
    assert [line["image_id"] for line in lines(path)] == ["chad-1", "é"]
    del recorder  # as when its process ends
    RunRecorder(str(path.parent)).write(asked(step=9))
    assert [(line["step"], line["attempt"]) for line in lines(path)] == [(3, 0), (3, 0), (9, 1)]
    assert all(set(line) >= FIELDS for line in lines(path))


def test_draining_gives_the_training_metrics_since_the_last_time(tmp_path: Path) -> None:
    recorder = RunRecorder(str(tmp_path))
    recorder.record_votes(asked())
    recorder.record_votes(record(skip="easy"))
    recorder.record_votes(asked(split="val"))  # validation has metrics of its own
    recorder.write(asked(rollout_seconds=3.0))
    recorder.write(record(skip="easy", rollout_seconds=99.0))
    recorder.write(asked(split="val", rollout_seconds=99.0))
    metrics = recorder.drain()
    assert metrics["divek/images_mined"] == 2
    assert metrics["divek/skips/easy"] == 1
    assert metrics["divek/rollout_seconds/mean"] == 3.0
    assert (metrics["divek/distinct_images"], metrics["divek/distinct_classes"]) == (1, 1)
    assert recorder.drain()["divek/images_mined"] == 0


def test_draining_a_validation_tells_how_many_samples_on_new_images_name_a_base_class(tmp_path: Path) -> None:
    recorder, new = RunRecorder(str(tmp_path)), "divek/flags/new"
    recorder.write(asked(split="val", data_source=new, truth="Mali", votes={"Mali": 5}, unknown={"chad": 3, "X": 2}))
    recorder.write(asked(split="val", data_source="divek/flags/base", truth="Chad"))
    assert recorder.drain_validation() == {f"divek/base_classes_named/{new}": 0.3}
    assert recorder.drain_validation() == {}
    # What was trained on is known to a validation of new classes alone.
    recorder.write(asked(truth="Peru", completions=["x"]))
    recorder.write(asked(split="val", data_source=new, truth="Mali", votes={"Mali": 3}, unknown={"Peru": 1}))
    assert recorder.drain_validation() == {f"divek/base_classes_named/{new}": 0.25}


def test_reasons_come_with_their_count_and_one_example(tmp_path: Path) -> None:
    recorder = RunRecorder(str(tmp_path))
    for image_id in ("a", "b"):
        recorder.record_votes(record(skip="easy", image_id=image_id))
    recorder.record_votes(record(failure="unreadable_image", detail="OSError: cut off", image_id="c"))
    recorder.record_votes(asked())
    assert recorder.refill_reasons() == {"easy": (2, "a"), "unreadable_image": (1, "OSError: cut off")}
    recorder.drain()
    assert recorder.refill_reasons() == {}


def test_groups_whose_rollouts_failed_are_reasons_too(tmp_path: Path) -> None:
    recorder = RunRecorder(str(tmp_path))
    late = asked(rollout_failures={"rollout_timeout": 4}, detail="TimeoutError: ", image_id="a")
    for each in (late, asked(rollout_failures={"rollout_timeout": 1}, image_id="b"), asked()):
        recorder.record_votes(each)
        recorder.write(each)
    assert recorder.refill_reasons() == {"rollout_timeout": (2, "TimeoutError: ")}


def test_a_folder_has_one_run_that_writes_into_it(tmp_path: Path) -> None:
    recorder = RunRecorder(str(tmp_path))
    with pytest.raises(SetupError, match="is being written by another process"):
        RunRecorder(str(tmp_path))
    del recorder
    RunRecorder(str(tmp_path))


def test_records_that_cannot_be_written_are_counted_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = RunRecorder(str(tmp_path))
    (tmp_path / "questions.jsonl").mkdir()  # whatever keeps the file from being written, such as a full disk
    for split in ("train", "val"):
        recorder.write(asked(split=split, rollout_seconds=3.0))
    metrics = recorder.drain()
    assert (recorder.lost(), metrics["divek/records_lost"], metrics["divek/rollout_seconds/mean"]) == (2, 2.0, 3.0)
    assert capsys.readouterr().out.count("cannot be written") == 1


def test_metrics_that_cannot_be_written_do_not_end_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    file = MetricsFile(str(tmp_path))
    for step in range(2):
        file.log({"critic/score/mean": 1.0}, step)
    assert capsys.readouterr().out.count("metrics are lost") == 1


def test_distinct_images_are_those_that_were_trained_on_before_a_resume_as_well(tmp_path: Path) -> None:
    recorder = RunRecorder(str(tmp_path))
    for image_id in ("a", "b", "a"):
        recorder.write(asked(image_id=image_id, completions=["x"]))
    recorder.write(record(image_id="c", skip="easy"))
    assert recorder.drain()["divek/distinct_images"] == 2
    del recorder
    recorder = RunRecorder(str(tmp_path))
    recorder.write(asked(image_id="d", completions=["x"]))
    assert recorder.drain()["divek/distinct_images"] == 3


@pytest.mark.parametrize(("revisit", "rests"), [(1, 0), (3, 2)])
def test_an_easy_image_rests_until_its_visit_of_that_number(tmp_path: Path, revisit: int, rests: int) -> None:
    recorder = RunRecorder(str(tmp_path), revisit)
    hard, easy = asked(image_id="a"), record(image_id="b", skip="easy")
    for each in (hard, easy):
        recorder.record_votes(each)
    assert not recorder.rests(*hard.key)
    assert [recorder.rests(*easy.key) for _ in range(4)] == [True] * rests + [False] * (4 - rests)


def test_workers_are_remembered(tmp_path: Path) -> None:
    recorder = RunRecorder(str(tmp_path))
    recorder.register_worker("one")
    recorder.register_worker("two")
    assert recorder.workers() == ["one", "two"]


def test_metrics_are_appended_by_a_resumed_run(tmp_path: Path) -> None:
    MetricsFile(str(tmp_path / "run")).log({"critic/score/mean": 0.5}, 1)
    MetricsFile(str(tmp_path / "run")).log({"critic/score/mean": 0.75}, 2)
    assert lines(tmp_path / "run" / "metrics.jsonl") == [
        {"step": 1, "data": {"critic/score/mean": 0.5}},
        {"step": 2, "data": {"critic/score/mean": 0.75}},
    ]


def test_metrics_are_numbers_of_whatever_type_and_null_where_not_finite(tmp_path: Path) -> None:
    """JSON has no nan; a browser refuses a file with one."""
    numbers = {"int": 1, "np": np.float32(0.5), "zero_d": np.array(2), "nan": float("nan"), "inf": float("-inf")}
    others = {"text": "no", "none": None, "list": [1, 2], "map": {}}
    MetricsFile(str(tmp_path)).log({**numbers, **others}, np.int64(4))  # type: ignore[arg-type]
    logged = {"int": 1.0, "np": 0.5, "zero_d": 2.0, "nan": None, "inf": None}
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 4, "data": logged}]
