"""Votes from a file fit a run, or the run says what differs before Ray starts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from divek_verl.errors import SetupError
from divek_verl.settings import prepare_config
from divek_verl.trainer.vote_origin import class_lists, votes_origin
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import Origin, model_name, write_votes_file

SOURCE = "divek/flags/base"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "classes.json").write_text(json.dumps({"base": ["Chad", "Romania"], "new": ["Mali", "Guinea"]}))
    sources = [SOURCE, SOURCE, "openai/gsm8k", "divek/flags/new"]
    pq.write_table(pa.table({"data_source": sources}), tmp_path / "train.parquet")
    (tmp_path / "model").mkdir()
    return tmp_path


@pytest.fixture
def config(compose: Any, data: Path) -> Any:
    """A run that starts from ``votes.jsonl``; further overrides may follow."""

    def composed(*overrides: str) -> Any:
        return compose(
            f"data.train_files={data}/train.parquet",
            f"data.val_files={data}/train.parquet",
            f"actor_rollout_ref.model.path={data}/model",
            f"divek.votes_file={data}/votes.jsonl",
            "divek.max_vote_age=null",
            *overrides,
            name="divek_trainer",
        )

    return composed


def write(data: Path, origin: Origin) -> None:
    write_votes_file(data / "votes.jsonl", origin, [MinedVotes(SOURCE, "a", Votes({"Chad": 20}))])


def test_the_origin_names_model_sampling_and_class_lists(config: Any, data: Path) -> None:
    origin = votes_origin(config("data.max_response_length=77"))
    assert origin.model == str(data / "model")
    assert origin.sampling["num_samples"] == 20
    assert origin.sampling["max_new_tokens"] == 77
    assert set(origin.class_lists) == {SOURCE, "divek/flags/new"}, "rows of other tasks have no class list"


def test_a_limit_of_ones_own_is_the_one_that_counts(config: Any) -> None:
    assert votes_origin(config("divek.max_new_tokens=12")).sampling["max_new_tokens"] == 12


def test_votes_of_the_same_origin_are_taken(config: Any, data: Path) -> None:
    write(data, votes_origin(config()))
    prepare_config(config())


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("divek.num_samples=8", "num_samples 20 and not 8"),
        ("divek.temperature=0.7", "temperature 1.0 and not 0.7"),
        ("actor_rollout_ref.model.path=other/model", "and not other/model"),
        ("divek.max_pixels=100352", "max_pixels 401408 and not 100352"),
    ],
)
def test_another_origin_is_refused_in_one_sentence_and_can_be_forced(
    config: Any, data: Path, override: str, difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(data, votes_origin(config()))
    with pytest.raises(SetupError, match="allow_votes_mismatch=true") as error:
        prepare_config(config(override))
    assert difference in str(error.value)
    assert "\n" not in str(error.value)
    prepare_config(config(override, "divek.allow_votes_mismatch=true"))
    assert difference in capsys.readouterr().out


def test_another_class_list_is_refused(config: Any, data: Path) -> None:
    origin = votes_origin(config())
    write(data, Origin(origin.model, origin.sampling, {**origin.class_lists, SOURCE: "0" * 64}))
    with pytest.raises(SetupError, match=f"another class list of {SOURCE}"):
        prepare_config(config())


def test_a_missing_file_stops_before_ray_starts(config: Any) -> None:
    with pytest.raises(SetupError, match="votes.jsonl cannot be read"):
        prepare_config(config())


def test_files_that_are_not_here_have_no_class_lists(tmp_path: Path) -> None:
    assert list(class_lists(["hdfs://a/train.parquet", str(tmp_path / "nowhere.parquet"), "rows.jsonl"])) == []


def test_a_model_has_one_name_wherever_the_command_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_name("model") == model_name(str(tmp_path / "model")) == str(tmp_path / "model")
    assert model_name("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"
