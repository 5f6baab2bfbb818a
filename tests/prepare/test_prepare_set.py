"""From options to a set: the same options for every command, and --votes leaves out easy training images."""

import inspect
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from divek_verl.class_lists import load_classes
from divek_verl.commands.prepare import COMMANDS, app
from divek_verl.prepare.prepare_set import Options
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import Origin, class_list_hash, write_votes_file

from .layouts import cub
from .running import counts, prepare, rows


def prepare_birds(tmp_path: Path, *options: object, status: int = 0) -> Path:
    if not (tmp_path / "raw").exists():
        cub(tmp_path / "raw")
    return prepare("cub", "--data-root", tmp_path / "raw", *options, out=tmp_path / "out", status=status)


def votes_file(prepared: Path, votes: Sequence[Votes], path: Path, digest: str | None = None) -> Path:
    """Votes on the first training images."""
    kept = rows(prepared, "train")[: len(votes)]
    mined = [
        MinedVotes(row["data_source"], row["extra_info"]["image_id"], each)
        for row, each in zip(kept, votes, strict=True)
    ]
    lists = {"divek/cub/base": digest or class_list_hash(load_classes.__wrapped__(str(prepared), "base"))}
    write_votes_file(path, Origin("model", class_lists=lists), mined)
    return path


def test_only_those_whose_votes_on_the_class_list_are_all_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = prepare_birds(tmp_path)
    truth = rows(before, "train")[0]["reward_model"]["ground_truth"]
    votes = [
        Votes({truth: 19}, unknown={"Roc": 1}),
        Votes({}, unanswered=20),
        Votes({truth: 19, "Laysan Albatross": 1}),
        Votes({"Laysan Albatross": 20}),
    ]
    easy = rows(before, "train")[0]["extra_info"]["image_id"]
    file = votes_file(before, votes, tmp_path / "votes.jsonl")
    after = prepare_birds(tmp_path, "--votes", file)
    assert counts(after) == {"train": 23, "val_base": 6, "val_new": 4}
    assert easy not in [row["extra_info"]["image_id"] for row in rows(after, "train")]
    assert "1 easy" in capsys.readouterr().out


def test_votes_that_say_nothing_of_the_set_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = prepare_birds(tmp_path)
    votes_file(before, [Votes({"Laysan Albatross": 2})], tmp_path / "other.jsonl", digest="other")
    write_votes_file(tmp_path / "empty.jsonl", Origin("model"), [])
    for name, sentence in (
        ("other", "counted by another class list: mine them again"),
        ("empty", "holds no votes on cub"),
        ("gone", "cannot be read (No such file or directory)"),
    ):
        prepare_birds(tmp_path, "--votes", tmp_path / f"{name}.jsonl", status=2)
        assert sentence in capsys.readouterr().err


def test_a_file_cut_short_is_said_to_be_and_keeps_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = prepare_birds(tmp_path)
    truth = rows(before, "train")[0]["reward_model"]["ground_truth"]
    file = votes_file(before, [Votes({truth: 20}), Votes({truth: 20})], tmp_path / "votes.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]) + '{"data_sou')
    after = prepare_birds(tmp_path, "--votes", file)
    assert counts(after)["train"] == 23
    assert "was cut short: 1 torn lines" in capsys.readouterr().out


# The options


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("mix", "flags")])
def test_every_set_has_them(name: str) -> None:
    assert set(inspect.signature(COMMANDS[name]).parameters) >= {field.name for field in fields(Options)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert COMMANDS[name].__doc__ and COMMANDS[name].__doc__.strip().splitlines()[0][:20] in result.output
