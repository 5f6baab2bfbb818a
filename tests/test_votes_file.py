"""Votes on disk: what is written is read again, and what a kill or another setting did to a file is seen."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import (
    Origin,
    class_list_hash,
    origin_of,
    read_votes_file,
    write_votes_file,
)

CLASSES = ClassNames(["Chad", "Romania", "Côte d'Ivoire"])
ORIGIN = origin_of("/models/small", {"num_samples": 20, "top_p": 0.95}, [("divek/flags/base", CLASSES)])

names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
counts = st.dictionaries(names, st.integers(1, 20), max_size=4)
votes = st.builds(Votes, counts, counts, st.integers(0, 20))
mined_votes = st.builds(
    MinedVotes, names, names, votes, st.integers(0, 99), st.none() | st.integers(0, 99), *[st.integers(0, 20)] * 3
)


def mined(image_id: str, count: int = 3) -> MinedVotes:
    return MinedVotes("divek/flags/base", image_id, Votes({"Chad": count}, {"Narnia": 1}, 2), step=4, policy_version=3)


@given(st.lists(mined_votes, max_size=5, unique_by=lambda each: each.key))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, written: list[MinedVotes]) -> None:
    path = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    write_votes_file(path, ORIGIN, written)
    read = read_votes_file(path)
    assert (read.votes, read.torn, read.complete, read.origin) == (written, 0, True, ORIGIN)


def test_the_order_of_the_votes_survives(tmp_path: Path) -> None:
    tied = MinedVotes("divek/flags/base", "a", Votes({"Romania": 2, "Chad": 2}))
    write_votes_file(tmp_path / "votes.jsonl", ORIGIN, [tied])
    assert read_votes_file(tmp_path / "votes.jsonl").votes[0].votes.ranking == ("Romania", "Chad")


def test_a_file_that_was_cut_short_is_known_and_the_rest_of_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes_file(path, ORIGIN, [mined("a"), mined("b"), mined("c")])
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b'"c"') + 4])
    read = read_votes_file(path)
    assert [each.image_id for each in read.votes] == ["a", "b"]
    assert (read.torn, read.complete) == (1, False)


def test_a_file_cut_between_two_lines_is_known_too(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes_file(path, ORIGIN, [mined("a"), mined("b")])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert not read_votes_file(path).complete


def test_a_line_missing_in_the_middle_is_known(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes_file(path, ORIGIN, [mined("a"), mined("b")])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[2:]]))
    assert not read_votes_file(path).complete


def test_the_last_line_on_an_image_counts(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes_file(path, ORIGIN, [])
    header = json.loads(path.read_text().splitlines()[0])
    lines = [header, mined("a", 3).to_json(), mined("a", 9).to_json(), {"votes_in_file": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_votes_file(path)
    assert [each.votes.counts for each in read.votes] == [{"Chad": 9}]
    assert read.complete


def test_a_file_that_was_added_to_after_its_end_is_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes_file(path, ORIGIN, [mined("a")])
    with path.open("a") as file:
        file.write(json.dumps(mined("b").to_json()) + "\n")
    assert not read_votes_file(path).complete


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

    def broken() -> "list[MinedVotes]":
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_votes_file(path, ORIGIN, (each for each in broken()))
    assert [each.image_id for each in read_votes_file(path).votes] == ["a"]


# ---------------------------------------------------------------- where votes come from


def test_equal_origins_do_not_differ() -> None:
    assert ORIGIN.differences(ORIGIN) == []


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Origin("/models/large", ORIGIN.sampling, ORIGIN.class_lists), "model /models/small and not /models/large"),
        (Origin(ORIGIN.model, {"num_samples": 8}, {}), "num_samples 20 and not 8"),
        (
            origin_of(ORIGIN.model, {}, [("divek/flags/base", ClassNames(["Chad", "Mali"]))]),
            "another class list of divek/flags/base",
        ),
    ],
)
def test_what_differs_is_named(other: Origin, told: str) -> None:
    assert ORIGIN.differences(other) == [told]


def test_what_only_one_of_them_has_is_no_difference() -> None:
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
