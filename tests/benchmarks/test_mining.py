"""The arithmetic of benchmarks/mining.py: what its claims are decided by, and that its sections are whole."""

import importlib
import itertools
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def common() -> ModuleType:
    return importlib.import_module("mining_parts.common")


def test_a_claim_holds_at_its_bound_and_not_beyond(common: ModuleType) -> None:
    assert common.Claim("share", 0.95, 0.95).holds
    assert not common.Claim("share", 0.949, 0.95).holds
    assert common.Claim("megabytes", 2.0, 2.0, at_most=True).holds
    assert not common.Claim("megabytes", 2.1, 2.0, at_most=True).holds
    assert str(common.Claim("share", 0.9, 0.95)).startswith("DOES NOT HOLD")


def test_arms_take_turns(common: ModuleType) -> None:
    section = common.Section("s")
    turns = itertools.count()
    section.take_turns({"a": lambda: next(turns), "b": lambda: next(turns)}, repetitions=3)
    assert section.measured == {"a": [0, 2, 4], "b": [1, 3, 5]}
    assert section.median("a") == 2


def test_a_section_takes_the_place_of_its_last_one_only(common: ModuleType, tmp_path: Path) -> None:
    workload = common.Workload(Path("/x/model"), Path("/x/train.parquet"), 8, 20, 16, 5, 0)
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        section = common.Section(name)
        section.add("rate", value)
        section.claim("rate", value, 2.0)
        common.save(section, workload, tmp_path / "mining.json")
    kept = json.loads((tmp_path / "mining.json").read_text())
    assert {name: kept[name]["median"]["rate"] for name in kept} == {"a": 3.0, "b": 2.0}
    assert kept["a"]["claims"][0]["holds"] is True
    assert "/x" not in (tmp_path / "mining.json").read_text()


def test_the_controllers_rounds_are_those_of_the_rollout() -> None:
    from divek_verl.question import Question, build_question
    from divek_verl.votes import count_votes

    controller = importlib.import_module("mining_parts.controller")
    for truth, completions in controller.completion_sets()[:20]:
        votes = count_votes(completions, controller.CLASSES)
        assert (votes.total, votes.unanswered, len(votes.unknown)) == (20, 1, 1)
        question = build_question(votes, controller.CLASSES, truth=truth, seed=0)
        assert isinstance(question, Question) and len(question.options) > 3
    controller.rounds([(truth, votes)], 3)


def test_a_made_workload_is_a_prepared_set(common: ModuleType, tmp_path: Path) -> None:
    data = common.make_data(tmp_path / "data", 3)
    rows = common.Workload(Path(), data, 3, 20, 16, 5, 0).rows()
    assert [key[1] for key in rows.keys] == ["0", "1", "2"]
    assert Path(rows[rows.keys[0]].image).is_file()


def test_every_section_can_be_measured() -> None:
    mining = importlib.import_module("mining")
    assert set(mining.SECTIONS) == {"controller", "offline", "offline-long", "growth", "cache", "online"}
