"""A votes file that grows: nothing is lost to a kill, nothing of another run gets in, and it ends in order."""

import subprocess
import sys
from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import Origin, VotesLog, read_votes_file

ORIGIN = Origin("m", {"temperature": 1.0}, {"divek/flags/base": "1"})


def mined(image: str, count: int = 1) -> MinedVotes:
    return MinedVotes("divek/flags/base", image, Votes({"Chad": count}))


def filled(path: Path) -> Path:
    """A file that holds a vote."""
    log = VotesLog(path, ORIGIN)
    log.add(mined("a"))
    log.close()
    return path


def test_a_file_without_votes_does_not_stay_to_stop_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    VotesLog(path, ORIGIN).close()
    log = VotesLog(path, Origin("another model", ORIGIN.sampling, ORIGIN.class_lists))
    assert read_votes_file(path).origin.model == "another model"
    log.close([("divek/flags/base", "a")])
    assert not path.exists()


def test_each_line_is_there_as_soon_as_it_is_added(tmp_path: Path) -> None:
    log = VotesLog(tmp_path / "votes.jsonl", ORIGIN)
    log.add(mined("a"))
    found = read_votes_file(tmp_path / "votes.jsonl")
    assert found.votes == [mined("a")] and found.origin == ORIGIN
    assert not found.complete


def test_it_ends_in_the_order_that_is_asked_for_and_with_a_footer(tmp_path: Path) -> None:
    log = VotesLog(tmp_path / "votes.jsonl", ORIGIN)
    for image in "cab":
        log.add(mined(image))
    log.close([("divek/flags/base", image) for image in "abz"])
    found = read_votes_file(tmp_path / "votes.jsonl")
    assert [votes.image_id for votes in found.votes] == ["a", "b", "c"]
    assert found.complete and found.torn == 0


@pytest.mark.parametrize("kept", range(0, 60, 7))
def test_a_line_torn_by_a_kill_is_cut_off_and_the_others_stay(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "votes.jsonl"
    log = VotesLog(path, ORIGIN)
    log.add(mined("a"))
    whole = path.read_bytes()
    log.add(mined("ü"))
    log.close()
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    log = VotesLog(path, ORIGIN)
    assert list(log.done.values()) == [mined("a")]
    log.add(mined("ü", 2))
    log.close()
    found = read_votes_file(path)
    assert found.votes == [mined("a"), mined("ü", 2)] and found.torn == 0


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (Origin("n", ORIGIN.sampling, ORIGIN.class_lists), "model m and not n"),
        (Origin("m", {"temperature": 0.5}, ORIGIN.class_lists), "temperature 1.0 and not 0.5"),
        (Origin("m", ORIGIN.sampling, {"divek/flags/base": "2"}), "another class list of divek/flags/base"),
    ],
)
def test_votes_of_another_origin_are_refused(tmp_path: Path, other: Origin, difference: str) -> None:
    path = filled(tmp_path / "votes.jsonl")
    before = path.read_bytes()
    with pytest.raises(SetupError) as refused:
        VotesLog(path, other)
    assert difference in str(refused.value)
    assert path.read_bytes() == before


def test_a_file_that_is_no_votes_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("all my work")
    with pytest.raises(SetupError, match="is not a votes file"):
        VotesLog(path, ORIGIN)
    assert path.read_text() == "all my work"


def test_another_data_source_can_be_added(tmp_path: Path) -> None:
    path = filled(tmp_path / "votes.jsonl")
    log = VotesLog(path, Origin("m", ORIGIN.sampling, {"divek/cub/base": "3"}))
    log.close([])
    assert read_votes_file(path).origin.class_lists == {"divek/flags/base": "1", "divek/cub/base": "3"}


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    log = VotesLog(path, ORIGIN)
    script = (
        "import sys; from pathlib import Path; from divek_verl.votes_file import VotesLog; "
        "from divek_verl.votes_file import Origin; VotesLog(Path(sys.argv[1]), Origin('m'))"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert "is being written by another process" in result.stderr
    log.close()
