"""The arithmetic of benchmarks/mining.py: what its claims are decided by, and that its sections are whole."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def measuring() -> ModuleType:
    return importlib.import_module("mining_parts.measuring")


def test_a_claim_holds_at_its_bound_and_not_beyond(measuring: ModuleType) -> None:
    assert measuring.Claim("share", 0.95, 0.95).holds
    assert not measuring.Claim("share", 0.949, 0.95).holds
    assert measuring.Claim("megabytes", 2.0, 2.0, at_most=True).holds
    assert not measuring.Claim("megabytes", 2.1, 2.0, at_most=True).holds
    assert str(measuring.Claim("share", 0.9, 0.95)).startswith("DOES NOT HOLD")


def test_arms_take_turns(measuring: ModuleType) -> None:
    section = measuring.Section("s")
    turns: list[str] = []

    def arm(name: str, value: float):
        return lambda repetition: turns.append(name) or value + repetition

    measuring.take_turns(section, {"a": arm("a", 10), "b": arm("b", 20)}, repetitions=3)
    assert turns == ["a", "b"] * 3
    assert section.measured == {"a": [10, 11, 12], "b": [20, 21, 22]}
    assert section.median("a") == 11


def test_a_section_takes_the_place_of_its_last_one_only(measuring: ModuleType, tmp_path: Path) -> None:
    workload = measuring.Workload(Path("/x/model"), Path("/x/train.parquet"), 8, 20, 16, 5, 0)
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        section = measuring.Section(name)
        section.add("rate", value)
        section.claim("rate", value, 2.0)
        measuring.save(section, workload, tmp_path / "mining.json")
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


def test_a_made_workload_is_a_prepared_set(tmp_path: Path) -> None:
    workload = importlib.import_module("mining_parts.workload")
    rows = workload.read_rows(workload.make_data(tmp_path / "data", 3))
    assert [key[1] for key in rows.keys] == ["0", "1", "2"]
    assert Path(rows[rows.keys[0]].messages[0]["content"][0]["image"]).is_file()
