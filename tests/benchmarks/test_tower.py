"""benchmarks/claim_parts/taught.py: the vision tower of the claim's start on photographs."""

import importlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from prepare.layouts import grocery
from prepare.running import prepare
from safetensors.torch import load_file

from divek_verl.demo import model
from divek_verl.demo.lessons import Pictures
from divek_verl.files import write_aside


@pytest.fixture
def taught() -> ModuleType:
    return importlib.import_module("claim_parts.tower")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = grocery(tmp_path / "raw", size=(224, 168))
    apart = ("--setting", "pretrain-shots", "--shots", 2, "--eval-split", "test")
    return prepare("grocery", "--data-root", root, *apart, out=tmp_path / "data")


def test_a_view_says_how_much_of_it_is_another_photograph(taught: ModuleType) -> None:
    # Black photographs and white ones: the light of a view is the white share, up to its tint.
    photographs = torch.zeros(64, 3, 168, 168, dtype=torch.uint8)
    photographs[32:] = 255
    views, others, shares = taught.views_of(photographs, random.Random(0))
    assert sorted(others) == list(range(64))
    kinds = {"whole": 0, "mixed": 0}
    for number, (view, other, share) in enumerate(zip(views, others, shares.tolist(), strict=True)):
        kinds["whole" if share == 1 else "mixed"] += 1
        white = (number >= 32) * share + (other >= 32) * (1 - share)
        # At most a quarter darker or lighter, each colour by 8 % more; what is too light is cut.
        assert view.mean() / 255 == pytest.approx(white, abs=0.35)
        assert (white == 0) is bool(view.max() == 0)
    assert min(kinds.values()) > 20


def test_a_stopped_tower_goes_on_where_it_was(
    taught: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Pictures.load(data / "pretrain.parquet", taught.SIDE)
    assert pictures.pixels.shape == (16, 3, taught.SIDE, taught.SIDE)
    settings = taught.Settings(views=4, steps=5, batch=8, components=4, depth=2, hidden_size=32)
    bars: list[tuple[str, range]] = []

    def stopped(steps: range, *, desc: str, **bar: Any) -> Iterator[int]:
        bars.append((desc, steps))
        for step in steps:
            if (len(bars), step) == (2, 3):
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(taught, "SAVE_SECONDS", 0)
    monkeypatch.setattr(taught, "progress", stopped)
    (tmp_path / "stopped").mkdir()
    (tmp_path / "whole").mkdir()
    with pytest.raises(KeyboardInterrupt):
        taught.teach(pictures, settings, tmp_path / "stopped")
    gone_on = taught.teach(pictures, settings, tmp_path / "stopped").state_dict()
    assert bars[2:] == [("vision tower", range(3, 5))], "no view is drawn again"
    whole = taught.teach(pictures, settings, tmp_path / "whole").state_dict()
    assert all(torch.equal(gone_on[name], weights) for name, weights in whole.items())


def test_the_command_writes_a_tower_that_a_model_takes_and_a_probe_measures(
    taught: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, small = tmp_path / "tower", taught.Settings(views=1, batch=8, components=4, depth=2, hidden_size=32)
    monkeypatch.setattr(taught, "Settings", lambda steps: replace(small, steps=steps))
    # What another call left behind is no start for this one.
    write_aside(tmp_path / "tower.unfinished" / taught.SETTINGS_FILE, "{}")
    write_aside(tmp_path / "tower.unfinished" / "views.pt", "not a file of torch")
    taught.main(data, out, steps=1)
    network = model.build_model(model.build_tokenizer(["a"], ["Avocado"]), 0, tower=out)
    weights = load_file(out / model.TOWER_WEIGHTS)
    assert all(torch.equal(network.model.visual.state_dict()[name], tensor) for name, tensor in weights.items())
    capsys.readouterr()
    taught.main(data, out, steps=1)
    assert capsys.readouterr().out == f"vision tower: already in {out}\n"
    pictures = Pictures.load(data / "pretrain.parquet", taught.SIDE)
    assert taught._digest(pictures) == taught._digest(replace(pictures, pixels=pictures.pixels.flip(0)))
    reference = importlib.import_module("claim_parts.reference")
    reference.main(data, out, tmp_path / "reference.json")
    found = json.loads((tmp_path / "reference.json").read_text())
    # Each photograph is of a shade of its own, so nothing is learned about others; five of at most five are all.
    assert {name: each["top5"] for name, each in found.items()} == {"EfficientNet-Lite0": 1.0, "the vision tower": 1.0}


def test_a_linear_probe_separates_what_a_line_separates(taught: ModuleType) -> None:
    features = torch.tensor([[float(i), float(i % 2)] for i in range(40)])
    labels = (features[:, 0] > 19).long()
    probe = importlib.import_module("claim_parts.reference").linear_probe(features / 20, labels, 2)
    assert torch.equal(probe(features / 20).argmax(dim=1), labels)
