"""Checks verl's configuration and fills in what the user left open, on the driver before Ray starts (plugin.py)."""

import inspect
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from packaging.specifiers import SpecifierSet

from divek_verl.class_lists import classes_of
from divek_verl.errors import SetupError
from divek_verl.files import only_writer
from divek_verl.labels import ClassNames
from divek_verl.option_sources import build_option_source
from divek_verl.prompts import is_divek
from divek_verl.settings import Settings, read_settings
from divek_verl.votes_file import Origin, model_name, origin_of, read_votes_file

SUPPORTED_VERL = ">=0.9.1,<0.10"
SAMPLER_FILE = "pkg://divek_verl.trainer.replay_buffer"
# trainer.v1.trainer_mode -> DiVE-k's replay buffer for it
SAMPLERS = {
    "sync": "DivekReplayBuffer",
    "colocate_async": "DivekReplayBufferAsync",
    "separate_async": "DivekReplayBufferAsync",
}
CHECKPOINT_CALLBACK = "divek_verl.trainer.vote_store.SaveVotes"
LOCK_PATIENCE_S = 20.0
# What `reward=divek` names in verl's configuration. Another value would train something else without a word.
REWARD = ("pkg://divek_verl.reward", "compute_score")
DATASET = ("pkg://divek_verl.trainer.dataset", "DiveKDataset")
MANAGER = ("pkg://divek_verl.trainer.rollout", "TwoStageAgentLoopManager")
REWARD_OPTION = "reward.custom_reward_function"
MANAGER_OPTION = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"


def prepare_config(config: DictConfig) -> None:
    """Check a whole verl configuration that holds a ``divek:`` node, and fill in what the user left open.

    Does nothing for a run without DiVE-k. Prints a line for each value that it sets.

    Raises:
        SetupError: a value, a file or an installed version does not fit.
    """
    if OmegaConf.select(config, "divek") is None:
        return
    if OmegaConf.select(config, f"{REWARD_OPTION}.reward_kwargs.open_questions"):
        print("divek_verl: reward=virft trains on the open question alone, so the options divek.* do nothing")
        return
    check_verl_version()
    settings = read_settings(config.divek)
    if not settings.list_classes:
        raise SetupError(
            "divek.list_classes=false leaves the votes without names of the list: it is for reward=virft "
            "(data.divek.list_classes)."
        )
    # Workers build it again; a source or text encoder that is not there is found here.
    build_option_source(settings.option_source, mixed_with=settings.mixed_with, text_encoder=settings.text_encoder)
    _check_parts(config, settings)
    _check_trainer(config)
    _check_files(config)
    _check_votes_file(config, settings)
    _claim_run_dir(config, settings)
    fill_in(config, settings)
    _say_what_validation_costs(config, settings)


def check_verl_version() -> None:
    """Raise SetupError if this release does not work with the installed verl."""
    import verl

    if not SpecifierSet(SUPPORTED_VERL).contains(verl.__version__, prereleases=True):
        raise SetupError(
            f"divek_verl works with verl{SUPPORTED_VERL}, not {verl.__version__}: pip install 'verl{SUPPORTED_VERL}'."
        )


def _check_parts(config: DictConfig, settings: Settings) -> None:
    """Refuse a reward function, data set class or agent-loop manager that is neither DiVE-k's nor an allowed one.

    With ``divek.allow_custom``, classes have to extend DiVE-k's, and a reward function has to take its arguments.
    """
    from verl.utils.import_utils import load_extern_object

    reward, dataset = config.reward.custom_reward_function, config.data.custom_cls
    manager = OmegaConf.select(config, MANAGER_OPTION)
    if manager is None:
        raise SetupError(
            "The configuration has a divek: node, but its reward is not divek, so the run would not train DiVE-k: add "
            "reward=divek."
        )
    module, _, name = manager.rpartition(".")
    for option, value, given, known in (
        (REWARD_OPTION, f"{reward.path} ({reward.name})", (reward.path, reward.name), REWARD),
        ("data.custom_cls", f"{dataset.path} ({dataset.name})", (dataset.path, dataset.name), DATASET),
        (MANAGER_OPTION, manager, (f"pkg://{module}", name), MANAGER),
    ):
        if given == known:
            continue
        if not settings.allow_custom:
            raise SetupError(
                f"{option} names {value} in the place of divek_verl's {known[1]}, so the run would not train "
                "DiVE-k: remove it, or set divek.allow_custom=true for one that builds on ours."
            )
        try:
            # By name, as verl loads them: the modules of both classes import this one.
            found, ours = load_extern_object(*given), load_extern_object(*known)
        except Exception as error:
            raise SetupError(f"{option} names {value}, which cannot be imported ({error}): correct it.") from error
        if known is REWARD:
            parameters = inspect.signature(found).parameters if callable(found) else {}
            takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
            given_options = ("format_weight", "answer_weight", "min_think_characters")
            fits = takes_all or set(given_options) <= parameters.keys()
            lack = f"does not take {', '.join(given_options[:-1])} and {given_options[-1]}: add them, or **kwargs"
        else:
            fits = isinstance(found, type) and issubclass(found, ours)
            lack = f"is not a subclass of divek_verl's {known[1]}: extend it"
        if not fits:
            raise SetupError(f"{option} names {value}, which {lack}.")
        print(f"divek_verl: {option} is {value} (divek.allow_custom=true)")


def _check_trainer(config: DictConfig) -> None:
    from verl.trainer.ppo.utils import need_critic

    if not config.trainer.use_v1:
        raise SetupError("divek_verl needs verl's v1 trainer: set trainer.use_v1=true.")
    # Only the configurations of one_step_off_policy and fully_async_policy have this node, and only the first is
    # checked; the reward refuses the rows of the second.
    if "rollout" in config:
        raise SetupError(
            "verl.experimental's trainers do not work with DiVE-k's agent loop: start verl.trainer.main_ppo, for "
            "asynchronous rollouts with trainer.v1.trainer_mode=colocate_async."
        )
    _sampler_of(config)
    if need_critic(config):
        raise SetupError(
            f"algorithm.adv_estimator={config.algorithm.adv_estimator} trains a critic, and DiVE-k has none: "
            "set algorithm.adv_estimator=grpo, or use --config-name divek_trainer."
        )
    if config.algorithm.adv_estimator == "remax":
        raise SetupError(
            "algorithm.adv_estimator=remax needs a baseline rollout, which verl's v1 trainer does not make: set "
            "algorithm.adv_estimator=grpo."
        )
    if OmegaConf.select(config, "algorithm.filter_groups.enable") and not config.algorithm.filter_groups.metric:
        raise SetupError("algorithm.filter_groups.enable=true needs algorithm.filter_groups.metric: set it to reward.")
    if OmegaConf.select(config, "data.sampler.class_path"):
        print("divek_verl: data.sampler.class_path changes nothing, since verl's v1 trainer does not read it")
    if config.actor_rollout_ref.rollout.n == 1:
        print("divek_verl: actor_rollout_ref.rollout.n=1 leaves GRPO nothing to compare: set it to 4 or more")
    for old in ("custom_reward_function.path", "reward_model.enable"):
        if OmegaConf.select(config, old):
            raise SetupError(f"{old} is an old name of reward.{old}, which verl's v1 trainer does not read: remove it.")
    if config.reward.reward_model.enable and not read_settings(config.divek).allow_custom:
        raise SetupError(
            "reward.reward_model.enable=true starts a model that DiVE-k's reward never asks: set it to false, or set "
            "divek.allow_custom=true for a reward function of your own that asks it."
        )
    # verl declares this option and never reads it, so the vision tower would be trained.
    if OmegaConf.select(config, "actor_rollout_ref.actor.freeze_vision_tower"):
        raise SetupError(
            "actor_rollout_ref.actor.freeze_vision_tower=true freezes nothing in verl 0.9: set it to false, or train "
            "with LoRA (actor_rollout_ref.model.lora_rank) and leave the tower out with "
            "actor_rollout_ref.model.exclude_modules='.*visual.*'."
        )


def _sampler_of(config: DictConfig) -> str:
    """DiVE-k's replay buffer for the mode of the run; SetupError where it has none."""
    mode = config.trainer.v1.trainer_mode
    if mode not in SAMPLERS:
        raise SetupError(
            f"trainer.v1.trainer_mode={mode} is not supported with reward=divek: use one of {', '.join(SAMPLERS)}."
        )
    return SAMPLERS[mode]


def _named_files(files: str | Sequence[str] | None) -> list[str]:
    return [files] if isinstance(files, str) else list(files or [])


def _check_files(config: DictConfig) -> None:
    for option in ("train_files", "val_files"):
        named = _named_files(config.data[option])
        if not named:
            raise SetupError(f"data.{option} names no file: give the parquet files of the prepared data.")
        for file in named:
            if "://" not in file and not Path(os.path.expanduser(file)).is_file():
                raise SetupError(f"data.{option} names {file}, which does not exist: prepare the data or fix the path.")
    rows, batch = _rows_of(config.data.train_files), int(config.data.train_batch_size)
    if rows is not None and rows < batch:
        raise SetupError(f"data.train_batch_size={batch} is more than the {rows} rows of data.train_files: lower it.")


def _rows_of(files: str | Sequence[str]) -> int | None:
    """The rows of parquet files on this machine; None if one is something else, which verl reads or refuses."""
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    try:
        return sum(pq.read_metadata(os.path.expanduser(file)).num_rows for file in _named_files(files))
    except (ArrowException, OSError):
        return None


def votes_origin(config: DictConfig) -> Origin:
    """The origin of the votes that a run with verl's configuration ``config`` mines."""
    sampling = read_settings(config.divek).sampling(int(config.data.max_response_length))
    lists = list(class_lists(_named_files(config.data.train_files)))
    return origin_of(model_name(config.actor_rollout_ref.model.path), sampling, lists)


def class_lists(files: Sequence[str]) -> Iterator[tuple[str, ClassNames]]:
    """(data source, its classes) of the DiVE-k rows of parquet files on this machine."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for file in files:
        path = Path(file).expanduser()
        if path.suffix != ".parquet" or not path.is_file():
            continue
        path = path.resolve()
        for source in pc.unique(pq.read_table(path, columns=["data_source"])["data_source"]).to_pylist():
            if is_divek(source):
                yield source, classes_of(str(path.parent), source)


def _check_votes_file(config: DictConfig, settings: Settings) -> None:
    """Refuse a ``divek.votes_file`` that cannot be read, or that was mined with other settings than this run's."""
    if settings.votes_file is None:
        return
    file = read_votes_file(Path(settings.votes_file).expanduser())
    differences = file.origin.differences(votes_origin(config))
    if not differences:
        return
    found = f"The votes in {settings.votes_file} were mined with {'; '.join(differences)}"
    if not settings.allow_votes_mismatch:
        raise SetupError(f"{found}: mine them again, or set divek.allow_votes_mismatch=true to use them anyway.")
    print(f"divek_verl: {found}; used anyway (divek.allow_votes_mismatch=true)")


def _say_what_validation_costs(config: DictConfig, settings: Settings) -> None:
    """Print the answers of a validation beside those of a training step; a validation samples each image again."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    files = [Path(file).expanduser() for file in _named_files(config.data.val_files)]
    if not config.trainer.val_before_train and config.trainer.test_freq <= 0:
        return
    if not all(file.suffix == ".parquet" and file.is_file() for file in files):
        return
    counts: Counter[str] = Counter()
    try:
        for file in files:
            for each in pc.value_counts(pq.read_table(file, columns=["data_source"])["data_source"]).to_pylist():
                counts[each["values"]] += each["counts"]
    except (ArrowException, OSError):  # verl says what is wrong with the file
        return
    limit, rollout = settings.val_max_images, config.actor_rollout_ref.rollout
    images = sum(min(count, limit or count) for source, count in counts.items() if is_divek(source))
    each = settings.samples_in("val") + rollout.val_kwargs.n
    step = config.data.train_batch_size * (settings.samples_in("train") + rollout.n)
    print(
        f"divek_verl: a validation samples {images:,} images x {each} answers, as many as {images * each / step:.1f} "
        "training steps; divek.val_max_images, divek.val_num_samples and trainer.test_freq reduce that"
    )


def _claim_run_dir(config: DictConfig, settings: Settings) -> None:
    """Make ``divek.run_dir`` absolute, and refuse one that cannot be written or that another run writes to.

    Ray's processes have other working directories. After a kill, the old run's recorder takes some seconds to end.
    """
    folder = Path(settings.run_dir).expanduser().absolute()
    with open_dict(config):
        config.divek.run_dir = str(folder)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            with only_writer(folder), tempfile.TemporaryFile(dir=folder):
                return
        except OSError as error:
            raise SetupError(
                f"divek.run_dir={folder} cannot be written ({error.strerror}): name another folder."
            ) from None
        except SetupError:
            if time.monotonic() > deadline:
                raise SetupError(
                    f"Another run writes to divek.run_dir={folder}: wait for its end, or name another folder."
                ) from None
            time.sleep(1.0)


def fill_in(config: DictConfig, settings: Settings) -> None:
    """Set what the user left open and DiVE-k needs, and print a line for each value."""
    sampler, buffer = config.trainer.v1.sampler, _sampler_of(config)
    with open_dict(config):
        if not sampler.sync_refill_failed_groups:
            sampler.sync_refill_failed_groups = True
            print("divek_verl: set trainer.v1.sampler.sync_refill_failed_groups=True (skipped images are replaced)")
        if sampler.custom_sampler.path in (None, "", SAMPLER_FILE) and sampler.custom_sampler.name != buffer:
            sampler.custom_sampler.path, sampler.custom_sampler.name = SAMPLER_FILE, buffer
            print(f"divek_verl: set trainer.v1.sampler.custom_sampler to {buffer} (metrics, cap, watchdog)")
        if settings.reuses_votes and not config.trainer.checkpoint_callback_class:
            config.trainer.checkpoint_callback_class = CHECKPOINT_CALLBACK
            print("divek_verl: set trainer.checkpoint_callback_class to SaveVotes (votes are saved with checkpoints)")
        sampler.sampler_kwargs.divek = config.divek
        sampler.sampler_kwargs.train_batch_size = config.data.train_batch_size
        if OmegaConf.select(config, "algorithm.filter_groups.enable"):
            # verl gives these to its own buffers only.
            groups = config.algorithm.filter_groups
            sampler.sampler_kwargs.filter_groups_metric = groups.metric
            sampler.sampler_kwargs.max_inflight_gen_batches = groups.get("max_inflight_gen_batches", 1)
