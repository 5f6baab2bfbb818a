"""benchmarks/report.py on a small run."""

from pathlib import Path
from types import ModuleType

from divek_verl.report import read_run


def test_the_fabricated_run_is_whole(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.fabricate(tmp_path, 24)
    run = read_run(tmp_path)
    assert set(run.unreadable.values()) == {0}
    records = [*run.training, *run.validation_records]
    assert len(records) == 24
    assert len({record.image for record in records}) == 24 and all(Path(record.image).is_file() for record in records)
    assert {record.samples for record in records} == {benchmark.SAMPLES}
    measured = benchmark.measure(tmp_path)
    assert measured["page_megabytes"] > 0 and (tmp_path / "report.html").is_file()
