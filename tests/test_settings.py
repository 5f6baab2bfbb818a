import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import divek_verl
from divek_verl.errors import SetupError
from divek_verl.settings import Settings, check_verl_version, prepare_config, read_settings

CONFIG = Path(divek_verl.__file__).parent / "config"
ONLINE = OmegaConf.load(CONFIG / "divek" / "online.yaml")
INF, NAN = float("inf"), float("nan")


def test_the_defaults_of_the_class_are_those_of_the_documented_file() -> None:
    plain: Any = OmegaConf.to_container(ONLINE.divek, resolve=False)
    written = {**plain, "run_dir": Settings.run_dir}
    assert read_settings(written) == Settings()
    assert set(written) == {field.name for field in dataclasses.fields(Settings)}


def test_the_defaults_are_those_that_users_were_promised() -> None:
    settings = Settings()
    assert (settings.num_samples, settings.num_options) == (20, 5)
    assert (settings.temperature, settings.top_p, settings.repetition_penalty) == (1.0, 0.95, 1.1)
    assert (settings.max_vote_age, settings.skip_easy) == (0, True)
    assert (settings.format_weight, settings.answer_weight) == (1.0, 1.0)
    assert settings.max_pixels == 401408


def test_every_option_is_documented_above_it() -> None:
    lines = (CONFIG / "divek" / "online.yaml").read_text().splitlines()
    node = lines[lines.index("divek:") : lines.index("data:")]
    previous = ""
    for line in node[1:]:
        # An option stands under its comment, or under another option of the same comment.
        if line.strip() and not line.strip().startswith("#"):
            assert previous.strip(), f"{line.strip()} has no comment"
        previous = line


def test_a_slow_image_is_given_up_before_the_run_is() -> None:
    settings = Settings()
    assert settings.stall_timeout > settings.mining_timeout + settings.rollout_timeout


BAD: dict[str, list[Any]] = {
    "num_samples": [0, -1, 2.0, "20", None, True],
    "num_options": [1, 0, 27, 5.0, None, True],
    "min_options": [1, 27, None],
    "auto_share": [0, 1.1, None, NAN],
    "auto_max_options": [1, 27, None],
    "option_source": ["votes", None, 3],
    "mixed_with": ["policy", "mixed", None],
    "text_encoder": ["", 3],
    "temperature": [0, 0.0, -1.0, None, "hot", INF, NAN],
    "top_p": [0, 1.01, -0.5, None, NAN],
    "top_k": [0, -2, 1.5, None],
    "repetition_penalty": [0, -1, INF],
    "max_new_tokens": [0, -5, 1.5, "8"],
    "group_requests": [1, None],
    "waves": [3, "8,6,6", ()],
    "stop_confidence": [0, 1, NAN, "high"],
    "max_vote_age": [-1, 1.5, "never"],
    "votes_file": ["", 3],
    "allow_votes_mismatch": [1, None],
    "skip_easy": [1, 0, "yes", None],
    "format_weight": [-0.1, None, INF, NAN],
    "answer_weight": [-1, None, INF],
    "max_images_in_flight": [0, None, 1.5],
    "max_refills_per_step": [0, -1, 2.5],
    "mining_timeout": [0, None, INF],
    "rollout_timeout": [0, -1, None],
    "stall_timeout": [0, None],
    "poll_interval": [0, None],
    "max_pixels": [0, 783, None, 1e6],
    "min_pixels": [0, None],
    "seed": [None, 1.5, "a"],
    "run_dir": ["", "  ", None, 3],
}


def test_every_option_has_values_that_are_refused() -> None:
    assert set(BAD) == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_an_impossible_value_is_refused_in_one_sentence_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(SetupError) as error:
        read_settings({name: value})
    message = str(error.value)
    assert message.startswith(f"divek.{name}={value!r} does not work: it must be ")
    assert message.endswith(".") and "\n" not in message


GOOD: dict[str, list[Any]] = {
    "num_samples": [1],
    "num_options": [2, 26, "auto"],
    "temperature": [0.1, 2],
    "max_vote_age": [None, 0, 7],
    "top_p": [1, 1.0, 0.01],
    "top_k": [-1, 1, 50],
    "max_new_tokens": [None, 1],
    "max_refills_per_step": [None, 1],
    "skip_easy": [False],
    "format_weight": [0, 0.5],
    "seed": [-3, 0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_a_possible_value_is_taken_as_it_is(name: str, value: Any) -> None:
    assert getattr(read_settings({name: value}), name) == value


@given(
    st.dictionaries(st.sampled_from(sorted(BAD)), st.none() | st.integers() | st.floats() | st.text() | st.booleans())
)
def test_any_values_make_settings_or_a_setup_error(values: dict[str, Any]) -> None:
    try:
        settings = read_settings(values)
    except SetupError:
        return
    assert 2 <= settings.num_options <= 26 and settings.num_samples >= 1
    assert settings.min_pixels <= settings.max_pixels


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"min_options": 4, "num_options": 3}, "divek.min_options=4 is above divek.num_options=3"),
        ({"min_options": 11, "num_options": "auto"}, "divek.min_options=11 is above divek.auto_max_options=10"),
        ({"waves": [10, 10]}, "divek.waves and divek.stop_confidence belong together"),
        ({"stop_confidence": 0.9}, "divek.waves and divek.stop_confidence belong together"),
        ({"waves": [8, 8], "stop_confidence": 0.9}, "hold 16 answers, but num_samples is 20"),
        (
            {"num_options": "auto", "option_source": "random", "skip_easy": False},
            "divek.num_options=auto counts votes, which divek.option_source=random",
        ),
        ({"votes_file": "votes.jsonl"}, "divek.votes_file would never be used with divek.max_vote_age=0"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SetupError, match=re.escape(sentence)) as error:
        read_settings(values)
    assert "\n" not in str(error.value)


def test_waves_are_read_from_a_list() -> None:
    settings = read_settings(OmegaConf.create({"waves": [8, 6, 6], "stop_confidence": 0.9}))
    assert settings.waves == (8, 6, 6)


@pytest.mark.parametrize(("values", "most"), [({"num_options": 7}, 7), ({"num_options": "auto"}, 10)])
def test_the_most_options_that_a_question_can_have(values: dict[str, Any], most: int) -> None:
    assert read_settings(values).most_options == most


def test_pixel_bounds_must_be_in_order() -> None:
    with pytest.raises(SetupError, match=r"divek.min_pixels=5000 is above divek.max_pixels=4000"):
        read_settings({"min_pixels": 5000, "max_pixels": 4000})


def test_an_unknown_option_is_named_beside_the_known_ones() -> None:
    with pytest.raises(SetupError, match=r"divek\.num_option is no option of divek_verl: use one of .*num_options"):
        read_settings({"num_option": 5})


def test_interpolations_are_resolved() -> None:
    config = OmegaConf.create({"trainer": {"dir": "runs/x"}, "divek": {"run_dir": "${trainer.dir}"}})
    assert read_settings(config.divek).run_dir == "runs/x"


# ------------------------------------------------------------------ a whole configuration, before verl's own checks


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name in ("train", "val"):
        (tmp_path / f"{name}.parquet").touch()
    return [f"data.train_files={tmp_path}/train.parquet", f"data.val_files=[{tmp_path}/val.parquet]"]


def test_what_the_user_left_to_us_is_filled_in_and_printed(
    compose: Any, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose("reward=divek", "algorithm.adv_estimator=grpo", "data.train_batch_size=24", *files)
    prepare_config(config)
    sampler = config.trainer.v1.sampler
    assert sampler.sync_refill_failed_groups is True
    assert (sampler.custom_sampler.path, sampler.custom_sampler.name) == (
        "pkg://divek_verl.trainer.replay_buffer",
        "DivekReplayBuffer",
    )
    assert sampler.sampler_kwargs.train_batch_size == 24
    assert read_settings(sampler.sampler_kwargs.divek) == read_settings(config.divek)
    printed = capsys.readouterr().out
    assert "set trainer.v1.sampler.sync_refill_failed_groups=True" in printed
    assert "set trainer.v1.sampler.custom_sampler to DivekReplayBuffer" in printed


def test_what_divek_trainer_sets_needs_no_filling_in(
    compose: Any, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_config(compose(*files, name="divek_trainer"))
    assert "divek_verl: set" not in capsys.readouterr().out


def test_a_sampler_of_the_users_own_is_kept(compose: Any, files: list[str]) -> None:
    mine = ["trainer.v1.sampler.custom_sampler.path=pkg://mine", "trainer.v1.sampler.custom_sampler.name=Mine"]
    config = compose(*files, *mine, name="divek_trainer")
    prepare_config(config)
    assert config.trainer.v1.sampler.custom_sampler.name == "Mine"


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("sync", "DivekReplayBuffer"),
        ("colocate_async", "DivekReplayBufferAsync"),
        ("separate_async", "DivekReplayBufferAsync"),
    ],
)
@pytest.mark.parametrize("config_name", ["divek_trainer", "ppo_trainer"])
def test_each_mode_of_verls_trainer_gets_our_buffer_for_it(
    compose: Any, files: list[str], mode: str, name: str, config_name: str
) -> None:
    given = ("reward=divek", "algorithm.adv_estimator=grpo") if config_name == "ppo_trainer" else ()
    config = compose(*files, *given, f"trainer.v1.trainer_mode={mode}", name=config_name)
    prepare_config(config)
    assert config.trainer.v1.sampler.custom_sampler.name == name
    from verl.utils.import_utils import load_extern_type

    buffer = load_extern_type(config.trainer.v1.sampler.custom_sampler.path, name)
    assert any(base.__name__ == "ReplayBufferAsync" for base in buffer.__mro__) is (mode != "sync")


@pytest.mark.parametrize(("age", "callback"), [("0", None), ("3", "divek_verl.trainer.vote_store.SaveVotes")])
def test_votes_that_are_used_again_are_saved_with_checkpoints(
    compose: Any, files: list[str], age: str, callback: str | None
) -> None:
    config = compose(*files, f"divek.max_vote_age={age}", name="divek_trainer")
    prepare_config(config)
    assert config.trainer.checkpoint_callback_class == callback


def test_a_checkpoint_callback_of_the_users_own_is_kept(compose: Any, files: list[str]) -> None:
    own = "trainer.checkpoint_callback_class=verl.trainer.ppo.checkpoint_callback.CheckpointCallback"
    config = compose(*files, "divek.max_vote_age=null", own, name="divek_trainer")
    prepare_config(config)
    assert config.trainer.checkpoint_callback_class.startswith("verl.")


def test_a_run_without_a_divek_node_is_untouched(compose: Any) -> None:
    config = compose("data.train_files=/nowhere/at/all.parquet")
    before = OmegaConf.to_yaml(config)
    prepare_config(config)
    assert OmegaConf.to_yaml(config) == before


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("divek.num_options=1", r"divek.num_options=1 does not work"),
        ("divek.num_samples=0", r"divek.num_samples=0 does not work"),
        ("+divek.votes=3", r"divek.votes is no option of divek_verl"),
        (
            "algorithm.adv_estimator=gae",
            r"algorithm.adv_estimator=gae trains a critic.*set algorithm.adv_estimator=grpo",
        ),
        ("critic.enable=true", r"trains a critic"),
        ("algorithm.filter_groups.enable=true", r"algorithm.filter_groups.enable=true would be ignored"),
        ("actor_rollout_ref.actor.freeze_vision_tower=true", r"freezes nothing in verl 0.9.*exclude_modules"),
        ("trainer.v1.trainer_mode=eventual", r"trainer_mode=eventual is not supported.*use one of sync"),
        ("trainer.use_v1=false", r"set trainer.use_v1=true"),
        ("data.train_files=/nowhere/train.parquet", r"data.train_files names /nowhere/train.parquet.*does not exist"),
        ("data.val_files=[/nowhere/val.parquet]", r"data.val_files names /nowhere/val.parquet.*does not exist"),
        ("data.train_files=null", r"data.train_files names no file"),
        ("data.val_files=[]", r"data.val_files names no file"),
    ],
)
def test_what_cannot_work_stops_here_in_one_sentence(
    compose: Any, files: list[str], override: str, sentence: str
) -> None:
    with pytest.raises(SetupError, match=sentence) as error:
        prepare_config(compose(*files, override, name="divek_trainer"))
    assert "\n" not in str(error.value)


def test_files_that_are_not_on_this_machine_are_left_to_verl(compose: Any) -> None:
    prepare_config(
        compose("data.train_files=hdfs://a/b.parquet", "data.val_files=s3://c/d.parquet", name="divek_trainer")
    )


@pytest.mark.parametrize("version", ["0.9.0", "0.8.0", "0.10.0", "0.9.1.dev0"])
def test_another_verl_is_refused(version: str, compose: Any, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verl.__version__", version)
    with pytest.raises(SetupError, match=rf"works with verl>=0.9.1,<0.10, not {version}: pip install"):
        prepare_config(compose(*files, name="divek_trainer"))


@pytest.mark.parametrize("version", ["0.9.1", "0.9.2", "0.9.2rc1"])
def test_the_supported_verl_is_taken(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verl.__version__", version)
    check_verl_version()
