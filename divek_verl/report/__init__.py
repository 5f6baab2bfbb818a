"""A self-contained HTML report of one run, or of several: tables, curves, confusions, failures, every question.

It reads ``questions.jsonl`` and ``metrics.jsonl`` of a run directory, and opens without a network. What a run did not
record is shown as missing, not as 0. Names and completions are untrusted: all text is escaped, and the page's content
security policy allows only its own scripts.
"""

from divek_verl.report.page import render, write_comparison, write_report
from divek_verl.report.reading import read_run

__all__ = ["read_run", "render", "write_comparison", "write_report"]
