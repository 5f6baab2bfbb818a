"""benchmarks/text.py on short texts: every function takes every text."""

from types import ModuleType


def test_each_function_is_measured_on_its_slowest_text(benchmark: ModuleType) -> None:
    found = benchmark.measure(4000)
    assert [name for name, *_ in found] == list(benchmark.FUNCTIONS)
    assert all(text in benchmark.texts(8) and taken > 0 for _, text, taken, _ in found)
    assert {len(text) for text in benchmark.texts(1000).values()} == {1000}
