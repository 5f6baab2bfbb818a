"""verl's configuration is checked and filled in before Ray starts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from divek_verl.errors import SetupError
from divek_verl.files import only_writer
from divek_verl.settings import read_settings
from divek_verl.trainer.configure import check_verl_version, class_lists, prepare_config, votes_origin
from divek_verl.votes import MinedVotes, Votes
from divek_verl.votes_file import Origin, model_name, write_votes_file

SOURCE = "divek/flags/base"
MANAGER_OPTION = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"
OWN = """
from divek_verl.reward import compute_score
from divek_verl.trainer.dataset import DiveKDataset
from divek_verl.trainer.rollout import TwoStageAgentLoopManager

def graded(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    return compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)

def foreign(data_source, solution_str, ground_truth, extra_info=None):
    return 1.0

class Dataset(DiveKDataset):
    pass

class Manager(TwoStageAgentLoopManager):
    pass
"""


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


def test_a_sampler_and_a_checkpoint_callback_of_the_users_own_are_kept(compose: Any, files: list[str]) -> None:
    callback = "verl.trainer.ppo.checkpoint_callback.CheckpointCallback"
    own = [
        "trainer.v1.sampler.custom_sampler.path=pkg://mine",
        "trainer.v1.sampler.custom_sampler.name=Mine",
        f"trainer.checkpoint_callback_class={callback}",
    ]
    config = compose(*files, *own, "divek.max_vote_age=null", name="divek_trainer")
    prepare_config(config)
    assert config.trainer.v1.sampler.custom_sampler.name == "Mine"
    assert config.trainer.checkpoint_callback_class == callback


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
        ("divek.list_classes=false", r"it is for reward=virft"),
        ("+divek.votes=3", r"divek.votes is no option of divek_verl: did you mean divek.votes_file.$"),
        (
            "algorithm.adv_estimator=gae",
            r"algorithm.adv_estimator=gae trains a critic.*set algorithm.adv_estimator=grpo",
        ),
        ("critic.enable=true", r"trains a critic"),
        ("algorithm.adv_estimator=remax", r"needs a baseline rollout.*set algorithm.adv_estimator=grpo"),
        (
            "algorithm.filter_groups={enable: true, metric: null}",
            r"needs algorithm.filter_groups.metric: set it to reward",
        ),
        ("reward.custom_reward_function.path=/mine.py", r"reward.custom_reward_function names /mine.py.*allow_custom"),
        ("data.custom_cls.path=/mine.py", r"data.custom_cls names /mine.py .DiveKDataset.*allow_custom=true"),
        ("data.custom_cls.name=Mine", r"data.custom_cls names pkg://divek_verl.trainer.dataset .Mine."),
        (f"{MANAGER_OPTION}=mine.Manager", r"agent_loop_manager_class names mine.Manager.*TwoStageAgentLoopManager"),
        (f"{MANAGER_OPTION}=null", r"its reward is not divek.*add reward=divek.$"),
        ("actor_rollout_ref.actor.freeze_vision_tower=true", r"freezes nothing in verl 0.9.*exclude_modules"),
        ("+rollout.n_gpus_per_node=1", r"verl.experimental's trainers do not work.*start verl.trainer.main_ppo"),
        ("reward.reward_model.enable=true", r"starts a model that DiVE-k's reward never asks: set it to false"),
        ("reward_model.enable=true", r"an old name of reward.reward_model.enable.*remove it"),
        ("custom_reward_function.path=/mine.py", r"an old name of reward.custom_reward_function.path.*remove it"),
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


def test_virft_with_the_demos_options_says_that_they_do_nothing(
    compose: Any, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose(*files, "reward=virft", name="divek_demo")
    before = OmegaConf.to_yaml(config)
    prepare_config(config)
    assert OmegaConf.to_yaml(config) == before
    assert "reward=virft trains on the open question alone, so the options divek.*" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fully_async", "one_step_off"])
def test_the_configurations_of_verls_experimental_trainers_have_a_node_that_names_them(name: str) -> None:
    import verl.experimental

    files = list((Path(verl.experimental.__path__[0]) / f"{name}_policy" / "config").glob("*trainer.yaml"))
    assert files and all("rollout" in OmegaConf.load(file) for file in files)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own, by its file and by its name."""
    (tmp_path / "own_divek_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return str(tmp_path / "own_divek_parts.py")


def own_parts(path: str, reward: str = "graded", dataset: str = "Dataset", manager: str = "Manager") -> list[str]:
    return [
        f"reward.custom_reward_function.path={path}",
        f"reward.custom_reward_function.name={reward}",
        f"data.custom_cls.path={path}",
        f"data.custom_cls.name={dataset}",
        f"{MANAGER_OPTION}=own_divek_parts.{manager}",
        "divek.allow_custom=true",
    ]


def test_parts_that_extend_diveks_are_let_through_where_that_is_said(
    compose: Any, files: list[str], own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_config(compose(*files, *own_parts(own), name="divek_trainer"))
    assert capsys.readouterr().out.count("(divek.allow_custom=true)") == 3


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"reward": "foreign"}, "does not take format_weight, answer_weight and min_think_characters"),
        ({"reward": "missing"}, "cannot be imported"),
        ({"dataset": "Manager"}, "not a subclass of divek_verl's DiveKDataset"),
        ({"manager": "Dataset"}, "not a subclass of divek_verl's TwoStageAgentLoopManager"),
    ],
)
def test_foreign_parts_are_refused_all_the_same(
    compose: Any, files: list[str], own: str, parts: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SetupError, match=sentence):
        prepare_config(compose(*files, *own_parts(own, **parts), name="divek_trainer"))


def test_verls_group_filter_reaches_the_replay_buffer(compose: Any, files: list[str]) -> None:
    filtering = ["algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=reward"]
    config = compose(*files, *filtering, "algorithm.filter_groups.max_inflight_gen_batches=2", name="divek_trainer")
    prepare_config(config)
    kwargs = config.trainer.v1.sampler.sampler_kwargs
    assert (kwargs.filter_groups_metric, kwargs.max_inflight_gen_batches) == ("reward", 2)


def test_a_group_of_one_is_remarked(compose: Any, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    prepare_config(compose(*files, "actor_rollout_ref.rollout.n=1", name="divek_trainer"))
    assert "rollout.n=1 leaves GRPO nothing to compare" in capsys.readouterr().out


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


# ------------------------------------------------------------------ a user's own option source


class FirstNames:
    uses_votes = False

    def rank(self, votes: Votes, classes: Any, *, truth: str | None, num_options: int, seed: int | str) -> list[str]:
        return list(classes.names)[:num_options]


def test_a_source_of_the_users_own_is_taken_and_its_uses_votes_respected(compose: Any, files: list[str]) -> None:
    own = (f"divek.option_source={__name__}:FirstNames", "divek.skip_easy=false")
    config = compose(*files, *own, name="divek_trainer")
    prepare_config(config)
    assert not read_settings(config.divek).samples_votes


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["divek.option_source=not_there:Nearest"], "'not_there:Nearest' cannot be imported"),
        (
            ["divek.option_source=text_embedding", "divek.text_encoder=/nowhere/at/all"],
            "text encoder /nowhere/at/all is no folder with a config.json",
        ),
    ],
)
def test_a_source_that_cannot_be_built_stops_before_ray_starts(
    compose: Any, files: list[str], overrides: list[str], sentence: str
) -> None:
    with pytest.raises(SetupError, match=sentence):
        prepare_config(compose(*files, *overrides, name="divek_trainer"))


# ------------------------------------------------------------------ votes from a file


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
            "data.train_batch_size=2",
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
    limited = votes_origin(config("data.max_response_length=77", "divek.max_new_tokens=12"))
    assert limited.sampling["max_new_tokens"] == 12, "a limit of one's own is the one that counts"


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


# ------------------------------------------------------------------------------------------ the run folder


def test_the_run_folder_is_absolute_because_rays_processes_work_elsewhere(
    compose: Any, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose(*files, "divek.run_dir=runs/one", name="divek_trainer")
    prepare_config(config)
    assert config.divek.run_dir == config.trainer.v1.sampler.sampler_kwargs.divek.run_dir == str(tmp_path / "runs/one")


def test_a_run_folder_that_cannot_be_written_is_refused(compose: Any, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = compose(*files, f"divek.run_dir={tmp_path}/file/run", name="divek_trainer")
    with pytest.raises(SetupError, match=r"divek\.run_dir=.*/file/run cannot be written \(.*\): name another folder"):
        prepare_config(config)


def test_a_run_folder_of_another_run_is_refused(
    compose: Any, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("divek_verl.trainer.configure.LOCK_PATIENCE_S", 0.0)
    config = compose(*files, f"divek.run_dir={tmp_path}/run", name="divek_trainer")
    with only_writer(tmp_path / "run"), pytest.raises(SetupError, match=r"Another run writes to divek\.run_dir="):
        prepare_config(config)
    prepare_config(config)


def test_the_cost_of_a_validation_is_said(compose: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("train", 5), ("val", 30)):
        table = pa.table({"data_source": [SOURCE] * rows + ["openai/gsm8k"] * 5})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    files = [f"data.{name}_files={tmp_path}/{name}.parquet" for name in ("train", "val")]
    overrides = [*files, "data.train_batch_size=10", "actor_rollout_ref.rollout.n=4", "divek.num_samples=8"]
    prepare_config(compose(*overrides, name="divek_trainer"))
    assert "samples 30 images x 9 answers, as many as 2.2 training steps" in capsys.readouterr().out
    prepare_config(compose(*overrides, "divek.val_num_samples=2", "divek.val_max_images=10", name="divek_trainer"))
    assert "samples 10 images x 3 answers, as many as 0.2 training steps" in capsys.readouterr().out
    prepare_config(compose(*overrides, "trainer.val_before_train=false", "trainer.test_freq=-1", name="divek_trainer"))
    assert "a validation samples" not in capsys.readouterr().out


def test_a_batch_of_more_than_all_rows_is_refused(compose: Any, tmp_path: Path) -> None:
    """verl would divide by its number of steps in an epoch, 0."""
    pq.write_table(pa.table({"data_source": ["divek/flags/base"] * 3}), tmp_path / "a.parquet")
    files = [f"data.train_files={tmp_path}/a.parquet", f"data.val_files={tmp_path}/a.parquet"]
    with pytest.raises(SetupError, match="train_batch_size=4 is more than the 3 rows of data.train_files: lower it"):
        prepare_config(compose(*files, "data.train_batch_size=4", name="divek_trainer"))
