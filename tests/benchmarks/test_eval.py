"""The arithmetic of benchmarks/eval.py: what its claim is decided by."""

import io
from types import ModuleType

import pytest
from rich.console import Console


def test_the_share_is_of_tokens_a_second_and_not_of_seconds(benchmark: ModuleType) -> None:
    assert benchmark.Round(10.0, 1000, 9.0, 900).ratio == pytest.approx(1.0)
    assert benchmark.Round(10.0, 900, 9.0, 900).ratio == pytest.approx(0.9)


@pytest.mark.parametrize(("shares", "holds"), [([0.5, 0.92, 0.95], True), ([0.5, 0.85, 0.95], False), ([0.9], True)])
def test_the_median_round_decides(benchmark: ModuleType, shares: list[float], holds: bool) -> None:
    rounds = [benchmark.Round(1.0, int(1000 * share), 1.0, 1000) for share in shares]
    found = benchmark.summary(rounds)
    assert found["holds"] is holds
    assert [each["share"] for each in found["rounds"]] == pytest.approx(shares)
    assert found["share"] == pytest.approx(sorted(shares)[len(shares) // 2])


def test_every_round_is_printed(benchmark: ModuleType) -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(benchmark.table_of([benchmark.Round(2.0, 1000, 1.0, 600), benchmark.Round(2.0, 1000, 1.0, 500)]))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "0.833" in text and "1.000" in text
