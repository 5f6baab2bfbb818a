"""JSON lines: what a kill tore costs its own line only, and equal records give equal bytes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.files import append_line, dump, parse_json, read_lines, write_lines

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON))
def test_a_record_is_one_line_of_utf8_and_comes_back(record: dict) -> None:
    line = dump(record)
    assert line.endswith("\n") and len(line.encode("utf-8").split(b"\n")) == 2
    assert json.loads(line) == record


def test_text_that_is_no_utf8_is_cleaned() -> None:
    """Readers refuse lone surrogates, so a line with one would be lost."""
    assert json.loads(dump({"text": "a\ud800b"})) == {"text": "a\ufffdb"}
    assert json.loads(dump({"text": "\ud83d\ude00"})) == {"text": "\U0001f600"}


def test_no_line_holds_a_number_that_json_lacks() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dump({"share": float("nan")})


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"first": 1})
    with path.open("ab") as file:
        file.write(b'{"torn": ')
    append_line(path, {"second": 2})
    assert read_lines(path) == ([{"first": 1}, {"second": 2}], 1)


def test_a_line_of_other_json_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'[1]\n\n"text"\n\xff\xfe\n{"a": 1}\n')
    assert read_lines(path) == ([{"a": 1}], 3)


def test_nothing_is_read_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl") == ([], 0)


def test_written_lines_take_the_place_of_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lines.jsonl"
    write_lines(path, [{"a": 1}, {"a": 2}])
    write_lines(path, [{"a": 3}])
    assert path.read_text() == '{"a": 3}\n'
    assert [other.name for other in path.parent.iterdir()] == ["lines.jsonl"]


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    """/dev/full takes no byte."""
    path = tmp_path / "lines.jsonl"
    write_lines(path, [{"a": 1}])
    (tmp_path / ".lines.jsonl.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_lines(path, [{"a": 2}])
    assert [(other.name, other.read_text()) for other in tmp_path.iterdir()] == [("lines.jsonl", '{"a": 1}\n')]


def test_json_nested_without_end_is_an_ordinary_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)
