"""A self-contained HTML report of a run, or of several: tables, curves, confusions, failures, every question.

Reads ``questions.jsonl`` and ``metrics.jsonl`` of a run directory; the page opens without a network. What a run did not
record is shown as missing and never as 0. Names and completions are untrusted text: everything is escaped, and the
page's own policy lets no script run but those it was built with.
"""

from divek_verl.report.page import render, write_comparison, write_report
from divek_verl.report.reading import read_run

__all__ = ["read_run", "render", "write_comparison", "write_report"]
