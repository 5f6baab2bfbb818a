"""A fabricated run for every test."""

from pathlib import Path

import pytest

from .fabricated import fabricate_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return fabricate_run(tmp_path / "flags-run")
