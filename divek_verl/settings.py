"""The ``divek:`` node: its values checked, and the parts of verl's configuration that it needs.

Runs on the driver before Ray starts (see plugin.py), and again in workers to read the node.
"""

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from packaging.specifiers import SpecifierSet

from divek_verl.errors import SetupError
from divek_verl.option_sources import OPTION_SOURCES, TOP_UPS, option_source_class
from divek_verl.question import QuestionRules

SUPPORTED_VERL = ">=0.9.1,<0.10"
SAMPLER_FILE = "pkg://divek_verl.trainer.replay_buffer"
# trainer.v1.trainer_mode -> our replay buffer for it
SAMPLERS = {
    "sync": "DivekReplayBuffer",
    "colocate_async": "DivekReplayBufferAsync",
    "separate_async": "DivekReplayBufferAsync",
}
CHECKPOINT_CALLBACK = "divek_verl.trainer.vote_store.SaveVotes"
# verl/trainer/ppo/utils.py: need_critic
CRITIC_FREE = "algorithm.adv_estimator=grpo"


@dataclass(frozen=True)
class Settings:
    """``divek.*`` as documented in config/divek/online.yaml.

    Raises:
        SetupError: a value is out of range.
    """

    num_samples: int = 20
    num_options: int | str = 5
    min_options: int = 2
    auto_share: float = 0.9
    auto_max_options: int = 10
    option_source: str = "policy"
    mixed_with: str = "random"
    text_encoder: str | None = None
    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = -1
    repetition_penalty: float = 1.1
    max_new_tokens: int | None = None
    group_requests: bool = True
    waves: tuple[int, ...] | None = None
    stop_confidence: float | None = None
    max_vote_age: int | None = 0
    votes_file: str | None = None
    allow_votes_mismatch: bool = False
    skip_easy: bool = True
    format_weight: float = 1.0
    answer_weight: float = 1.0
    max_images_in_flight: int = 64
    max_refills_per_step: int | None = None
    mining_timeout: float = 600.0
    rollout_timeout: float = 1800.0
    stall_timeout: float = 3600.0
    poll_interval: float = 0.2
    max_pixels: int = 401408
    min_pixels: int = 3136
    seed: int = 0
    run_dir: str = "checkpoints"

    def __post_init__(self) -> None:
        for name, is_right, wanted in self._rules():
            value = getattr(self, name)
            if not is_right(value):
                raise SetupError(f"divek.{name}={value!r} does not work: it must be {wanted}.")
        for is_wrong, sentence in self._contradictions():
            if is_wrong:
                raise SetupError(sentence)

    def _contradictions(self) -> list[tuple[bool, str]]:
        most, name = self.most_options, "auto_max_options" if self.num_options == "auto" else "num_options"
        return [
            (
                self.min_pixels > self.max_pixels,
                f"divek.min_pixels={self.min_pixels} is above divek.max_pixels={self.max_pixels}: lower the first.",
            ),
            (
                self.min_options > most,
                f"divek.min_options={self.min_options} is above divek.{name}={most}: lower the first.",
            ),
            (
                (self.waves is None) != (self.stop_confidence is None),
                "divek.waves and divek.stop_confidence belong together: set both, or neither.",
            ),
            (
                self.num_options == "auto" and not self.samples_votes,
                f"divek.num_options=auto counts votes, which divek.option_source={self.option_source} with "
                "divek.skip_easy=false does not sample: give a number of options, or set divek.skip_easy=true.",
            ),
            (
                self.votes_file is not None and self.max_vote_age == 0,
                "divek.votes_file would never be used with divek.max_vote_age=0: set that to null or a number.",
            ),
        ]

    @property
    def most_options(self) -> int:
        """The largest number of options that a question can have."""
        return self.auto_max_options if self.num_options == "auto" else int(self.num_options)

    @property
    def rules(self) -> QuestionRules:
        names = ("num_options", "min_options", "auto_share", "auto_max_options", "skip_easy")
        return QuestionRules(**{name: getattr(self, name) for name in names})

    @property
    def reuses_votes(self) -> bool:
        return self.max_vote_age != 0

    @property
    def samples_votes(self) -> bool:
        """Whether training looks at votes at all: for its options, or to leave easy images out."""
        return self.skip_easy or option_source_class(self.option_source).uses_votes

    @staticmethod
    def _rules() -> list[tuple[str, Any, str]]:
        positive = _number(lambda v: v > 0)
        count = _whole(lambda v: v >= 1)
        return [
            ("num_samples", count, "a whole number of at least 1"),
            (
                "num_options",
                lambda v: v == "auto" or _whole(lambda n: 2 <= n <= 26)(v),
                "auto or a whole number from 2 to 26",
            ),
            ("min_options", _whole(lambda v: 2 <= v <= 26), "a whole number from 2 to 26"),
            ("auto_share", _number(lambda v: 0 < v <= 1), "above 0 and at most 1"),
            ("auto_max_options", _whole(lambda v: 2 <= v <= 26), "a whole number from 2 to 26"),
            ("option_source", lambda v: v in tuple(OPTION_SOURCES) or ":" in v, f"one of {', '.join(OPTION_SOURCES)}"),
            ("mixed_with", lambda v: v in TOP_UPS, f"one of {', '.join(TOP_UPS)}"),
            ("text_encoder", _or_null(_text), "null or the path of a transformers text encoder"),
            ("temperature", positive, "above 0"),
            ("top_p", _number(lambda v: 0 < v <= 1), "above 0 and at most 1"),
            ("top_k", _whole(lambda v: v == -1 or v >= 1), "-1 (no limit) or at least 1"),
            ("repetition_penalty", positive, "above 0"),
            ("max_new_tokens", _or_null(count), "null or a whole number of at least 1"),
            ("group_requests", lambda v: isinstance(v, bool), "true or false"),
            (
                "waves",
                _or_null(lambda v: isinstance(v, tuple) and len(v) > 0 and all(map(count, v))),
                "null or a list of whole numbers of at least 1",
            ),
            ("stop_confidence", _or_null(_number(lambda v: 0 < v < 1)), "null or a number between 0 and 1"),
            ("max_vote_age", _or_null(_whole(lambda v: v >= 0)), "null (any age) or a whole number of at least 0"),
            ("votes_file", _or_null(_text), "null or a file of `divek mine`"),
            ("allow_votes_mismatch", lambda v: isinstance(v, bool), "true or false"),
            ("skip_easy", lambda v: isinstance(v, bool), "true or false"),
            ("format_weight", _number(lambda v: v >= 0), "0 or more"),
            ("answer_weight", _number(lambda v: v >= 0), "0 or more"),
            ("max_images_in_flight", count, "a whole number of at least 1"),
            ("max_refills_per_step", _or_null(count), "null or a whole number of at least 1"),
            ("mining_timeout", positive, "a number of seconds above 0"),
            ("rollout_timeout", positive, "a number of seconds above 0"),
            ("stall_timeout", positive, "a number of seconds above 0"),
            ("poll_interval", positive, "a number of seconds above 0"),
            ("max_pixels", _whole(lambda v: v >= 784), "at least 784 (one visual token)"),
            ("min_pixels", _whole(lambda v: v >= 1), "at least 1"),
            ("seed", _whole(lambda v: True), "a whole number"),
            ("run_dir", _text, "a folder"),
        ]


def _whole(test: Any) -> Any:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and test(v)


def _number(test: Any) -> Any:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and test(v)


def _or_null(test: Any) -> Any:
    return lambda v: v is None or test(v)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def read_settings(node: Any) -> Settings:
    """Settings from a ``divek:`` node (a mapping or DictConfig).

    Raises:
        SetupError: an unknown key, or a value out of range.
    """
    plain: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    values = {str(key): value for key, value in plain.items()}
    known = {field.name for field in dataclasses.fields(Settings)}
    unknown = sorted(key for key in values if key not in known)
    if unknown:
        raise SetupError(f"divek.{unknown[0]} is no option of divek_verl: use one of {', '.join(sorted(known))}.")
    if isinstance(values.get("waves"), list):
        values["waves"] = tuple(values["waves"])
    return Settings(**values)


def prepare_config(config: DictConfig) -> None:
    """Check a whole verl configuration that holds a ``divek:`` node, and fill in what the user left to us.

    Does nothing for a run without DiVE-k. Prints a line for each value that it sets.

    Raises:
        SetupError: a value, a file or an installed version does not fit.
    """
    if OmegaConf.select(config, "divek") is None:
        return
    from divek_verl.trainer.vote_origin import check_votes_file

    check_verl_version()
    settings = read_settings(config.divek)
    _check_trainer(config)
    _check_files(config)
    check_votes_file(config, settings)
    _fill_in(config, settings)


def check_verl_version() -> None:
    """Raise SetupError where the installed verl is not one that this release works with."""
    import verl

    if not SpecifierSet(SUPPORTED_VERL).contains(verl.__version__, prereleases=True):
        raise SetupError(
            f"divek_verl works with verl{SUPPORTED_VERL}, not {verl.__version__}: pip install 'verl{SUPPORTED_VERL}'."
        )


def _check_trainer(config: DictConfig) -> None:
    from verl.trainer.ppo.utils import need_critic

    if not config.trainer.use_v1:
        raise SetupError("divek_verl needs verl's v1 trainer: set trainer.use_v1=true.")
    if config.trainer.v1.trainer_mode not in SAMPLERS:
        raise SetupError(
            f"trainer.v1.trainer_mode={config.trainer.v1.trainer_mode} is not supported with reward=divek: "
            f"use one of {', '.join(SAMPLERS)}."
        )
    if need_critic(config):
        raise SetupError(
            f"algorithm.adv_estimator={config.algorithm.adv_estimator} trains a critic, which DiVE-k has none of: "
            f"set {CRITIC_FREE}, or use --config-name divek_trainer."
        )
    if OmegaConf.select(config, "algorithm.filter_groups.enable"):
        raise SetupError(
            "algorithm.filter_groups.enable=true would be ignored by the sampler of divek_verl: set it to false."
        )
    # Declared in verl's configuration and read by none of its code: the tower would be trained all the same.
    if OmegaConf.select(config, "actor_rollout_ref.actor.freeze_vision_tower"):
        raise SetupError(
            "actor_rollout_ref.actor.freeze_vision_tower=true freezes nothing in verl 0.9: set it to false, or train "
            "with LoRA (actor_rollout_ref.model.lora_rank) and leave the tower out by "
            "actor_rollout_ref.model.exclude_modules='.*visual.*'."
        )


def _check_files(config: DictConfig) -> None:
    for option in ("train_files", "val_files"):
        files = config.data[option]
        named = [files] if isinstance(files, str) else list(files or [])
        if not named:
            raise SetupError(f"data.{option} names no file: give the parquet files of the prepared data.")
        for file in named:
            if "://" not in file and not Path(os.path.expanduser(file)).is_file():
                raise SetupError(
                    f"data.{option} names {file}, which does not exist: prepare the data or mend the path."
                )


def _fill_in(config: DictConfig, settings: Settings) -> None:
    sampler, mode = config.trainer.v1.sampler, config.trainer.v1.trainer_mode
    with open_dict(config):
        if not sampler.sync_refill_failed_groups:
            sampler.sync_refill_failed_groups = True
            print("divek_verl: set trainer.v1.sampler.sync_refill_failed_groups=True (skipped images are replaced)")
        if sampler.custom_sampler.path in (None, "", SAMPLER_FILE) and sampler.custom_sampler.name != SAMPLERS[mode]:
            sampler.custom_sampler.path, sampler.custom_sampler.name = SAMPLER_FILE, SAMPLERS[mode]
            print(f"divek_verl: set trainer.v1.sampler.custom_sampler to {SAMPLERS[mode]} (metrics, cap, watchdog)")
        if settings.reuses_votes and not config.trainer.checkpoint_callback_class:
            config.trainer.checkpoint_callback_class = CHECKPOINT_CALLBACK
            print("divek_verl: set trainer.checkpoint_callback_class to SaveVotes (votes are saved with checkpoints)")
        sampler.sampler_kwargs.divek = config.divek
        sampler.sampler_kwargs.train_batch_size = config.data.train_batch_size
