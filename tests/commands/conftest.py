"""Fixtures of other folders' tests that commands need."""

from engines.conftest import data, rows  # noqa: F401
from report.conftest import run_dir  # noqa: F401
