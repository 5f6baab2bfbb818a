"""The arithmetic of benchmarks/data_prep.py, and one tiny run of it."""

import io
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image


def measured(benchmark: ModuleType, scale: float, wall: float, cpu: float, memory: float) -> object:
    return benchmark.Measured("cub", scale, round(1000 * scale), 500, wall, cpu, memory)


def test_all_claims_hold(benchmark: ModuleType) -> None:
    found = [measured(benchmark, 1, 59.0, 30.0, 200.0), measured(benchmark, 10, 600.0, 300.0, 205.0)]
    assert list(benchmark.claims(found).values()) == [True] * 4


@pytest.mark.parametrize(
    ("first", "second", "held"),
    [
        ((61.0, 30.0, 200.0), (600.0, 300.0, 205.0), [False, True, True, True]),
        ((90.0, 61.0, 200.0), (600.0, 300.0, 205.0), [False, False, True, True]),
        ((59.0, 30.0, 990.0), (600.0, 300.0, 1001.0), [True, True, False, False]),
        ((59.0, 30.0, 200.0), (600.0, 300.0, 300.0), [True, True, True, False]),
    ],
)
def test_each_claim_can_fail(
    benchmark: ModuleType, first: tuple[float, ...], second: tuple[float, ...], held: list[bool]
) -> None:
    found = [measured(benchmark, 1, *first), measured(benchmark, 10, *second)]
    assert list(benchmark.claims(found).values()) == held


def test_one_scale_says_nothing_about_growth(benchmark: ModuleType) -> None:
    assert benchmark.growth_per_image([measured(benchmark, 1, 1.0, 1.0, 1.0)]) is None


def test_a_comment_makes_another_file_of_the_same_picture(benchmark: ModuleType) -> None:
    content = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(content, "JPEG")
    one, two = (benchmark.with_comment(content.getvalue(), text) for text in ("a", "b"))
    assert one != two
    with Image.open(io.BytesIO(one)) as first, Image.open(io.BytesIO(two)) as second:
        assert first.tobytes() == second.tobytes()


def test_a_tiny_run_measures_both_commands(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "CLASSES", 4)
    monkeypatch.setattr(benchmark, "IMAGES", 80)
    monkeypatch.setattr(benchmark, "SIZE", (50, 25))
    monkeypatch.setattr(benchmark, "PATTERNS", 2)
    found = list(benchmark.run(1.0, tmp_path))
    assert [(each.command, each.files, each.checked) for each in found] == [("cub", 80, 24), ("image_folder", 80, 80)]
    assert all(each.cpu_seconds > 0 and each.peak_megabytes > 10 for each in found)
    assert not (tmp_path / "CUB_200_2011").exists()
