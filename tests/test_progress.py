"""Progress in a log: whole lines, seldom."""

import io
import sys

import pytest
from tqdm import tqdm

from divek_verl.progress import SECONDS_BETWEEN_LINES, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(monkeypatch: pytest.MonkeyPatch, seconds_an_item: float, count: int = 100) -> list[str]:
    """The text that a bar writes into a log while ``count`` items take so long each."""
    clock = [0.0]
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    bar = progress(range(count), desc="ask", unit="image")
    bar._time = lambda: clock[0]
    bar.last_print_t = bar.start_t = 0.0
    for _ in bar:
        clock[0] += seconds_an_item
    return log.getvalue().split("\n")


def test_a_log_gets_a_line_every_ten_seconds_and_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run(monkeypatch, 1.0)
    assert len(lines) == 100 / SECONDS_BETWEEN_LINES + 2
    assert lines.pop() == ""
    assert lines[0].startswith("ask:   0%") and lines[-1].startswith("ask: 100%")
    assert "\r" not in "".join(lines) and all(lines)


def test_a_quick_loop_is_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [line[:9] for line in run(monkeypatch, 0.01)] == ["ask:   0%", "ask: 100%", ""]


def test_a_line_of_tqdms_monitor_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    bar = progress(total=9, desc="ask")
    bar._time = lambda: clock[0]
    bar.last_print_t = bar.start_t = 0.0
    for clock[0], step in ((10.0, bar.refresh), (11.0, bar.update), (19.0, bar.update), (20.0, bar.update)):
        step()
    assert [line[:10] for line in log.getvalue().split("\n")] == ["ask:   0%|", "ask:   0%|", "ask:  33%|"]


def test_other_output_does_not_repeat_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with progress(total=3, desc="ask") as bar:
        for _ in range(3):
            tqdm.write("left out: x.png", file=log)
            bar.update()
    assert log.getvalue().count("ask:") == 2 and log.getvalue().count("left out") == 3


def test_a_terminal_gets_tqdms_own_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert type(progress(range(1))) is tqdm
