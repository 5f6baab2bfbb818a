"""Votes on disk: what is written is read again, nothing is lost to a kill, nothing of another run gets in."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import Origin, VotesLog, class_list_hash, origin_of, read_votes_file, write_votes_file

SOURCE = "divek/flags/base"
CLASSES = ClassNames(["Chad", "Romania", "Côte d'Ivoire"])
ORIGIN = Origin("/models/small", {"num_samples": 20, "top_p": 0.95}, {SOURCE: class_list_hash(CLASSES)})

names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
counts = st.dictionaries(names, st.integers(1, 20), max_size=4)
votes = st.builds(Votes, counts, counts, st.integers(0, 20))
mined_votes = st.builds(
    MinedVotes, names, names, votes, st.integers(0, 99), st.none() | st.integers(0, 99), *[st.integers(0, 20)] * 3
)


def mined(image_id: str, count: int = 3) -> MinedVotes:
    return MinedVotes(SOURCE, image_id, Votes({"Chad": count}, {"Narnia": 1}, 19 - count), step=4, policy_version=3)


@given(st.lists(mined_votes, max_size=5, unique_by=lambda each: each.key))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, written: list[MinedVotes]) -> None:
    path = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    origin = Origin(ORIGIN.model, {"top_p": 0.95}, ORIGIN.class_lists)
    write_votes_file(path, origin, written)
    read = read_votes_file(path)
    assert (read.votes, read.torn, read.complete, read.origin) == (written, 0, True, origin)


def test_the_order_of_the_votes_survives(tmp_path: Path) -> None:
    tied = MinedVotes("divek/flags/base", "a", Votes({"Romania": 10, "Chad": 10}))
    write_votes_file(tmp_path / "votes.jsonl", ORIGIN, [tied])
    assert read_votes_file(tmp_path / "votes.jsonl").votes[0].votes.ranking == ("Romania", "Chad")


@pytest.mark.parametrize(
    ("damage", "images", "torn"),
    [
        pytest.param(lambda lines: [*lines[:3], lines[3][:40]], "ab", 1, id="within a line"),
        pytest.param(lambda lines: lines[:-1], "abc", 0, id="between two lines"),
        pytest.param(lambda lines: [lines[0], *lines[2:]], "bc", 0, id="a line is missing"),
        pytest.param(lambda lines: [*lines, lines[1]], "abc", 0, id="added to after its end"),
    ],
)
def test_a_file_that_is_not_whole_is_known_and_the_rest_of_it_is_used(
    tmp_path: Path, damage: Callable[[list[str]], list[str]], images: str, torn: int
) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes_file(path, ORIGIN, [mined("a"), mined("b"), mined("c")])
    path.write_text("".join(damage(path.read_text().splitlines(keepends=True))))
    read = read_votes_file(path)
    assert [each.image_id for each in read.votes] == [*images]
    assert (read.torn, read.complete) == (torn, False)


def test_the_last_line_on_an_image_counts(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes_file(path, ORIGIN, [])
    header = json.loads(path.read_text().splitlines()[0])
    lines = [header, mined("a", 3).to_json(), mined("a", 9).to_json(), {"votes_in_file": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_votes_file(path)
    assert [each.votes.counts for each in read.votes] == [{"Chad": 9}]
    assert read.complete


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"votes": {"counts": {"Chad": 3}, "unknown": {}, "unanswered": 2}}, "it has 5 votes and not 20"),
        ({"votes": {"counts": {"Chad": 10**400}, "unknown": {}, "unanswered": 0}}, "'Chad' is out of range"),
        ({"policy_version": float("nan")}, "'policy_version' is nan"),
        ({"policy_version": -1}, "'policy_version' is -1"),
        ({"image_id": ["a"]}, "data_source and image_id must be text"),
        ({"truncated": "3"}, "'truncated' is '3'"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_votes_that_cannot_be_are_refused_with_their_line(tmp_path: Path, damage: dict, told: str) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes_file(path, ORIGIN, [mined("a")])
    with path.open("a") as file:
        file.write(json.dumps({**mined("b").to_json(), **damage}) + "\n")
    with pytest.raises(SetupError, match=r"votes.jsonl, line 4, holds no votes \(.*: remove the line") as error:
        read_votes_file(path)
    assert told in str(error.value)


@pytest.mark.parametrize("content", ["", "{}\n", "[1]\n", "no json\n", '{"format": "divek-votes-0"}\n'])
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text(content)
    with pytest.raises(SetupError, match="is not a votes file of this release"):
        read_votes_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="nowhere.jsonl cannot be read"):
        read_votes_file(tmp_path / "nowhere.jsonl")


def test_nothing_half_written_is_left_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes_file(path, ORIGIN, [mined("a")])

    def broken() -> Iterator[MinedVotes]:
        yield mined("b")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_votes_file(path, ORIGIN, broken())
    assert [each.image_id for each in read_votes_file(path).votes] == ["a"]


# ---------------------------------------------------------------- where votes come from


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Origin("/models/large", ORIGIN.sampling, ORIGIN.class_lists), "model /models/small and not /models/large"),
        (Origin(ORIGIN.model, {"num_samples": 8}, {}), "num_samples 20 and not 8"),
        (Origin(ORIGIN.model, {}, {SOURCE: "00"}), f"another class list of {SOURCE}"),
    ],
)
def test_what_differs_is_named_and_refused_by_a_file_that_grows(tmp_path: Path, other: Origin, told: str) -> None:
    assert ORIGIN.differences(other) == [told]
    write_votes_file(tmp_path / "votes.jsonl", ORIGIN, [mined("a")])
    before = (tmp_path / "votes.jsonl").read_bytes()
    with pytest.raises(SetupError, match=told):
        VotesLog(tmp_path / "votes.jsonl", other)
    assert (tmp_path / "votes.jsonl").read_bytes() == before


def test_what_is_equal_or_only_in_one_of_them_is_no_difference() -> None:
    assert ORIGIN.differences(ORIGIN) == []
    assert ORIGIN.differences(Origin(ORIGIN.model, {"seed": 3}, {"divek/cub/base": "00"})) == []


def test_the_hash_of_a_class_list_depends_on_names_order_and_aliases() -> None:
    lists = [
        CLASSES,
        ClassNames(["Romania", "Chad", "Côte d'Ivoire"]),
        ClassNames(["Chad", "Romania"]),
        ClassNames(CLASSES.names, aliases={"Côte d'Ivoire": ["Ivory Coast"]}),
    ]
    assert len({class_list_hash(each) for each in lists}) == len(lists)
    assert class_list_hash(CLASSES) == class_list_hash(ClassNames(CLASSES.names))
    assert origin_of("m", {}, [(SOURCE, CLASSES)]) == Origin("m", {}, {SOURCE: class_list_hash(CLASSES)})


# ---------------------------------------------------------------- a file that grows


def test_a_file_without_votes_does_not_stay_to_stop_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    VotesLog(path, ORIGIN).close()
    log = VotesLog(path, Origin("another model", ORIGIN.sampling, ORIGIN.class_lists))
    assert read_votes_file(path).origin.model == "another model"
    log.close([(SOURCE, "a")])
    assert not path.exists()


def test_each_line_is_there_at_once_and_the_file_ends_in_the_order_asked_for_with_a_footer(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    log = VotesLog(path, ORIGIN)
    for count, image in enumerate("cab", start=1):
        log.add(mined(image))
        found = read_votes_file(path)
        assert (len(found.votes), found.origin, found.complete) == (count, ORIGIN, False)
    log.close([(SOURCE, image) for image in "abz"])
    found = read_votes_file(path)
    assert found.votes == [mined("a"), mined("b"), mined("c")]
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


def test_a_file_that_is_no_votes_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("all my work")
    with pytest.raises(SetupError, match="is not a votes file"):
        VotesLog(path, ORIGIN)
    assert path.read_text() == "all my work"


def test_another_data_source_can_be_added(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes_file(path, ORIGIN, [mined("a")])
    VotesLog(path, Origin(ORIGIN.model, ORIGIN.sampling, {"divek/cub/base": "3"})).close([])
    assert read_votes_file(path).origin.class_lists == {**ORIGIN.class_lists, "divek/cub/base": "3"}


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    log = VotesLog(path, ORIGIN)
    script = (
        "import sys; from pathlib import Path; from divek_verl.votes_file import Origin, VotesLog; "
        "VotesLog(Path(sys.argv[1]), Origin('m'))"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert "is being written by another process" in result.stderr
    log.close()


TWO_STARTS = """
import sys, time
from pathlib import Path
from divek_verl.errors import SetupError
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import Origin, VotesLog

path, name, start = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
for trial in range(40):
    while time.time() < start + 0.05 * trial:
        pass
    try:
        log = VotesLog(path / f"{trial}.jsonl", Origin("m"))
    except SetupError:
        continue
    for number in range(3):
        log.add(MinedVotes("s", f"{name}{number}", Votes({"Chad": 1})))
    time.sleep(0.02)
    log.close()
    print(trial)
"""


def test_of_two_starts_at_one_moment_one_writes_and_keeps_all_its_votes(tmp_path: Path) -> None:
    start = str(time.time() + 1.5)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_STARTS, str(tmp_path), name, start], stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b")
    ]
    wrote = {name: set(process.communicate()[0].split()) for name, process in zip("ab", both, strict=True)}
    for trial in map(str, range(40)):
        votes = {each.image_id for each in read_votes_file(tmp_path / f"{trial}.jsonl").votes}
        assert votes == {f"{name}{number}" for name in "ab" if trial in wrote[name] for number in range(3)}


def test_a_full_disk_at_the_first_line_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(record: object) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr("divek_verl.votes_file.dump", full)
    with pytest.raises(OSError, match="No space"):
        VotesLog(tmp_path / "votes.jsonl", ORIGIN)
    assert list(tmp_path.iterdir()) == []
