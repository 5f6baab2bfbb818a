"""The arithmetic of benchmarks/waves.py: what it says was saved and changed."""

import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from divek_verl.labels import ClassNames

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "waves.py"
CLASSES = ClassNames(["Ant", "Bee", "Cat", "Dog"])


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("waves_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules["waves_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def image(bench: ModuleType, names: list[str], training: bool = True) -> Any:
    return bench.Image(tuple(f"<answer>{name}</answer>" for name in names), "Ant", CLASSES, training, "seed")


def test_each_wave_is_compared_with_all_answers(bench: ModuleType) -> None:
    looks = bench.looks_at(image(bench, ["Ant"] * 4 + ["Bee"] * 2), (2, 2, 2), 5)
    assert [(look.samples, look.same) for look in looks] == [(2, False), (4, False), (6, True)]
    assert looks[-1].probability == 1.0


def test_a_verdict_that_stays_is_no_change(bench: ModuleType) -> None:
    looks = bench.looks_at(image(bench, ["Ant"] * 6), (2, 4), 5)
    assert [look.same for look in looks] == [True, True]


def test_validation_pictures_have_no_truth_and_no_verdict(bench: ModuleType) -> None:
    assert bench.result_of(image(bench, ["Ant"] * 4), 4, 5) == frozenset()
    shown = bench.result_of(image(bench, ["Bee", "Cat"], training=False), 2, 5)
    assert shown == {"Bee", "Cat"}


def test_an_image_stops_at_the_first_wave_that_is_sure_enough(bench: ModuleType) -> None:
    looks = [bench.Look(2, 0.6, False), bench.Look(4, 0.9, True), bench.Look(6, 1.0, True)]
    assert [bench.stop(looks, confidence).samples for confidence in (0.0, 0.6, 0.61, 0.9, 0.95)] == [2, 2, 4, 4, 6]


def test_shares_are_of_all_samples_and_all_images(bench: ModuleType) -> None:
    early_and_wrong = [bench.Look(2, 0.9, False), bench.Look(8, 1.0, True)]
    early_and_right = [bench.Look(2, 0.7, True), bench.Look(8, 1.0, True)]
    late = [bench.Look(2, 0.1, False), bench.Look(8, 1.0, True)]
    found = bench.replay("train", [early_and_wrong, early_and_right, late, late], (2, 6), 5, 0.5)
    assert (found.saved, found.changed, found.stopped) == (12 / 32, 0.25, 0.5)
    assert (found.stated, found.kept) == (pytest.approx(0.8), 0.5)


def test_where_nothing_stops_early_nothing_is_said_about_it(bench: ModuleType) -> None:
    late = [bench.Look(2, 0.1, False), bench.Look(8, 1.0, True)]
    found = bench.replay("train", [late], (2, 6), 5, 0.99)
    assert (found.saved, found.changed, found.stated, found.kept) == (0.0, 0.0, None, None)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(bench.table_of([found]))
    assert "1 images, 2+6" in console.export_text()


def test_results_are_written_as_json(bench: ModuleType) -> None:
    late = [bench.Look(2, 0.1, False), bench.Look(8, 1.0, True)]
    record = bench._record([bench.replay("train", [late], (2, 6), "auto", 0.9)], 1.5, 8, 0)
    again = json.loads(json.dumps(record))
    assert again["replays"][0]["waves"] == [2, 6]
    assert again["replays"][0]["num_options"] == "auto"


def test_waves_that_cannot_be_read_are_refused(bench: ModuleType) -> None:
    assert bench._numbers("8+6+6") == [8, 6, 6]
    with pytest.raises(ValueError, match="8;6"):
        bench._numbers("8;6")
