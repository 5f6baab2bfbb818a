"""The lines of the record files."""

from typing import Any

from divek_verl.report.lines import RecordedVisit


def test_a_validation_image_without_a_question_is_wrong() -> None:
    line: dict[str, Any] = {
        "step": 0,
        "split": "val",
        "data_source": "divek/flags/base",
        "image_id": "1",
        "truth": "Chad",
    }
    assert RecordedVisit(**line, failure="unreadable_image").acc == 0.0
    assert RecordedVisit(**line, answer=None, choices=[None]).acc == 0.0
    failed = {"rollout_timeout": 1}
    assert RecordedVisit(**line, answer="A", choices=["A"], rollout_failures=failed).acc == 0.5
