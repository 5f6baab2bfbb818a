"""``divek eval``: options that contradict each other stop at once, with one sentence and status 2."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation.fabricated_set import write_set

from divek_verl import cli
from divek_verl.commands.options import JudgeOptions, TwoStepOptions
from divek_verl.engines.base import Sampling
from divek_verl.engines.options import Backend, EngineOptions
from divek_verl.engines.rows import files_of
from divek_verl.engines.two_step import TwoStepSettings
from divek_verl.errors import SetupError
from divek_verl.question import QuestionRules


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "x.parquet", "--mode", "three-step"], "--mode 'three-step' is not one of one-step, two-step, both"),
        (["--data", "x.parquet", "--other-seed", "runs/b"], "name the other side with --compare"),
        (["--data", "x.parquet", "--protocol", "ours"], "--protocol 'ours' is not one of strict, paper"),
        (["--data", "x.parquet", "--protocol", "paper"], "generation_config.json cannot be read"),
        (["--data", "x.parquet", "--protocol", "paper", "--base-url", "http://h/v1"], "give --model its folder"),
        (["--data", "x.parquet", "--options", "1"], "--options 1 does not work: it must be auto or a whole number"),
        (["--data", "x.parquet", "--options", "few"], "--options 'few' does not work"),
        (["--data", "x.parquet", "--samples", "0"], "--samples 0 does not work"),
        (["--data", "x.parquet", "--top-p", "0"], "--top-p 0.0 does not work"),
        (["--data", "x.parquet", "--judge", "coin"], "--judge 'coin' is no judge"),
        (["--data", "x.parquet", "--judge", "openai"], "needs --judge-model"),
        (["--data", "x.parquet", "--min-pixels", "999999"], "--min-pixels 999999 is above --max-pixels 401408"),
        (["--data", "x.parquet", "--min-options", "6"], "--min-options 6 is above --options 5: lower the first"),
        (["--data", "x.parquet", "--auto-share", "2"], "--auto-share 2.0 does not work: it must be a number above 0"),
        (["--data", "x.parquet", "--choice-temperature", "-1"], "--choice-temperature -1.0 does not work"),
        (["--data", "x.parquet"], "x.parquet does not exist"),
        (["--data", "x.parquet", "--model", "runs/none/model"], "There is no folder runs/none/model"),
    ],
)
def test_wrong_input_ends_with_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["eval", "--model", "org/m", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_one_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = write_set(tmp_path / "data", {"base": 1})
    (tmp_path / "file").touch()
    server = ["--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--data", str(path)]
    assert cli.run(["eval", *server, "--out", str(tmp_path / "file")]) == 2
    assert "file cannot be written (Not a directory): name another folder with --out" in capsys.readouterr().err


def test_the_schema_is_printed_without_any_other_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["eval", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Results"


def test_the_defaults_are_those_of_training() -> None:
    found = TwoStepOptions().settings()
    assert found.open_sampling == Sampling(seed=0)
    assert (found.num_samples, found.rules) == (TwoStepSettings().num_samples, QuestionRules())
    assert (found.choice_sampling.temperature, found.choice_sampling.repetition_penalty) == (0.0, 1.0)
    assert TwoStepOptions(options="4").settings().rules.num_options == 4
    assert TwoStepOptions(options="auto").settings().rules.num_options == "auto"


def test_a_folder_stands_for_its_validation_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.run(["eval", "--model", "org/m", "--data", str(tmp_path / "empty")]) == 2
    assert "empty holds no val*.parquet: give --data the folder" in capsys.readouterr().err
    paths = write_set(tmp_path / "data", {"base": 2, "new": 2})
    assert files_of([tmp_path / "data"], "val*.parquet") == paths


def test_an_address_is_enough_to_ask_a_server() -> None:
    assert EngineOptions("m", base_url="http://localhost/v1").backend is Backend.OPENAI
    assert EngineOptions("m").backend is Backend.VLLM


def test_the_judge_is_at_its_own_address_or_at_that_of_the_model() -> None:
    judge = JudgeOptions(judge="openai", judge_model="large")
    assert (judge.settings("http://a/v1") or pytest.fail()).base_url == "http://a/v1"
    other = JudgeOptions(judge="openai", judge_model="large", judge_base_url="http://b/v1")
    assert (other.settings("http://a/v1") or pytest.fail()).base_url == "http://b/v1"
    with pytest.raises(SetupError, match="localhost:80 is no address of a server"):
        replace(other, judge_base_url="localhost:80").settings(None)
    with pytest.raises(SetupError, match="--judge-base-url or --base-url"):
        judge.settings(None)
    assert JudgeOptions().settings("http://a/v1") is None


def test_a_folder_with_a_judge_and_one_address_is_loaded_here_and_the_judge_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ["--judge", "openai", "--judge-model", "large", "--base-url", "http://localhost:1/v1"]
    data = ["--data", str(tmp_path / "none.parquet")]
    assert cli.run(["eval", "--model", str(tmp_path), *judge, *data]) == 2
    captured = capsys.readouterr()
    assert "is asked as the judge" in captured.out
    assert "holds neither a model" in captured.err
