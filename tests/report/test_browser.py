"""The data of the question browser."""

import base64
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from divek_verl.records import QuestionRecord
from divek_verl.report import browser as module
from divek_verl.report.browser import browser
from divek_verl.report.reading import Run, read_run

from .fabricated import make_record

LIMIT = 2_000_000


def run_of(*records: QuestionRecord) -> Run:
    return Run(name="run", training=list(records))


def made(run: Run, limit: int = LIMIT) -> tuple[dict[str, Any], list[str]]:
    result = browser({"run": run}, limit)
    assert result is not None
    return result.data, result.notes


def first(data: dict[str, Any]) -> dict[str, Any]:
    """The columns of the first record."""
    return {name: column[0] for name, column in data["columns"].items()}


def texts(data: dict[str, Any]) -> list[list[str]]:
    return [own for chunk in data["texts"] for own in json.loads(gzip.decompress(base64.b64decode(chunk)))]


def test_every_record_of_a_run_is_there_in_its_order(run_dir: Path) -> None:
    run = read_run(run_dir)
    data, notes = made(run)
    steps, training = data["columns"]["step"], data["columns"]["training"]
    assert len(steps) == len(run.training) + len(run.validation_records)
    assert list(zip(steps, training, strict=True)) == sorted(
        zip(steps, training, strict=True), key=lambda p: (p[0], -p[1])
    )
    assert len(data["pictures"]) == 8 and None not in data["pictures"]
    assert notes == []


def test_a_record_is_columns_of_numbers_and_names_by_number() -> None:
    asked = make_record(
        votes={"Chad": 3, "Mali": 1},
        unknown={"Atlantis": 2},
        unanswered=4,
        options=["Mali", "Chad"],
        answer="B",
        choices=["B", None, "A"],
        rewards=[2.0, 0.5, float("nan")],
        rollout_failures={"rollout_timeout": 1},
        injected=True,
        policy_version=7,
        vote_age=2,
        votes_from="store",
        option_source="policy",
        num_options=5,
    )
    data, _ = made(run_of(asked))
    names = data["names"]
    row = first(data)
    assert [names[index] for index in row["votes"][::2]] == ["Chad", "Mali"] and row["votes"][1::2] == [3, 1]
    assert names[row["unknown"][0]] == "Atlantis" and row["unanswered"] == 4
    assert [names[index] for index in row["options"]] == ["Mali", "Chad"] and row["answer"] == 1
    assert row["choices"] == "B-A" and row["rewards"] == [2.0, 0.5, None]
    assert (row["right"], row["rollouts"], row["injected"]) == (1, 4, 1)
    assert (row["version"], row["vote_age"], row["num_options"]) == (7, 2, "5")
    assert names[row["votes_from"]] == "store" and names[row["option_source"]] == "policy"
    assert row["reason"] == -1 and row["picture"] == -1
    # What a record lacks is null or no name.
    row = first(made(run_of(make_record(votes_from="none")))[0])
    assert [row[name] for name in ("version", "vote_age", "num_options")] == [None] * 3
    assert row["option_source"] == row["answer"] == -1


def test_skips_and_failures_carry_their_reason() -> None:
    data, _ = made(run_of(make_record("0", skip="easy"), make_record("1", failure="unreadable_image")))
    assert [data["names"][index] for index in data["columns"]["reason"]] == ["easy", "unreadable_image"]


def test_answers_beyond_those_shown_are_one_number() -> None:
    row = first(made(run_of(make_record(votes={f"class {number}": 30 - number for number in range(20)})))[0])
    assert len(row["votes"]) == 2 * module.ANSWERS_SHOWN
    assert sum(row["votes"][1::2]) + row["rest"] == sum(30 - number for number in range(20))


def test_the_texts_come_back_as_they_were() -> None:
    records = [make_record(str(number), completions=[f"text {number} é", "second"]) for number in range(120)]
    data, notes = made(run_of(*records))
    images = [data["names"][index] for index in data["columns"]["image"]]
    assert texts(data) == [[f"text {name} é", "second"] for name in images]
    assert len(data["texts"]) == 3 and notes == []


def test_long_texts_are_cut_and_the_page_says_so() -> None:
    rng = random.Random(0)
    long = ["".join(rng.choices("abcdefghijklmnop", k=9000)) for _ in range(4)]
    data, notes = made(run_of(*(make_record(str(number), completions=long) for number in range(60))), limit=150_000)
    kept = texts(data)
    assert all(len(text) < 9000 for own in kept for text in own)
    assert sum(map(len, data["texts"])) < 150_000
    assert "texts are cut after" in notes[0]


def test_of_too_many_records_all_those_of_some_images_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUESTIONS", 50)
    records = [make_record(str(number), step=step) for number in range(40) for step in range(3)]
    data, notes = made(run_of(*records))
    images = data["columns"]["image"]
    assert 45 <= len(images) <= 50
    assert {images.count(image) for image in images} == {3}
    assert notes == [f"{len(images)} of 120 questions are shown: all those of randomly chosen images."]
    assert made(run_of(*records))[0] == data


def test_the_columns_stay_within_their_share() -> None:
    records = [
        make_record(str(number), votes={f"{number} {other} {'x' * 100}": 1 for other in range(12)})
        for number in range(300)
    ]
    data, notes = made(run_of(*records), limit=300_000)
    assert len(json.dumps([data["columns"], data["names"]])) <= 300_000 * module.SHARE_OF_COLUMNS
    assert notes[0].endswith(" of 300 questions are shown: all those of randomly chosen images.")


def test_hostile_text_is_made_visible_and_long_names_are_cut() -> None:
    data, _ = made(run_of(make_record(truth="\u202egpj" + "x" * 500, completions=["a\u2066b"])))
    assert data["names"][data["columns"]["truth"][0]].startswith(r"\u202egpj")
    assert all(len(name) < 200 for name in data["names"])
    assert texts(data) == [[r"a\u2066b"]]


def test_a_run_without_questions_has_no_browser() -> None:
    assert browser({"run": Run(name="run")}, LIMIT) is None
