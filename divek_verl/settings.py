"""``divek.*`` as one model: the type, range, default and documentation of each option.

docs/generate.py writes config/divek/online.yaml and docs/configuration.md from it, and the commands take their sampling
defaults and ranges from it.
"""

from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from divek_verl.errors import SetupError
from divek_verl.files import JsonObject
from divek_verl.option_sources import OPTION_SOURCES, TOP_UPS, option_source_class
from divek_verl.question import QuestionRules

if TYPE_CHECKING:
    from omegaconf import DictConfig

# For text, `title` is what an error and the reference say that it must be.
_SOURCES, _TOP_UPS = ", ".join(OPTION_SOURCES), " or ".join(TOP_UPS)
Count = Annotated[int, Field(ge=1)]
OptionCount = Annotated[int, Field(ge=2, le=26)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
PathText = Annotated[str, Field(pattern=r"\S", title="a path")]
SourceName = Annotated[
    str,
    Field(pattern=rf"^({'|'.join(OPTION_SOURCES)}|\w+(\.\w+)*:\w+)$", title=f"{_SOURCES} or package.module:Class"),
]
TopUpName = Annotated[str, Field(pattern=rf"^({'|'.join(TOP_UPS)})$", title=_TOP_UPS)]


class Settings(BaseModel):
    """The ``divek:`` node; ``read_settings`` makes one from a configuration and words its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    num_samples: Count = Field(
        default=20,
        description="K: answers sampled from the policy for each image, counted as votes (the paper's K).",
    )
    num_options: Literal["auto"] | OptionCount = Field(
        default=5,
        description="k: maximum number of options in a question; the most frequent answers become options. auto: for "
        "each image the fewest answers that hold auto_share of the votes, between min_options and auto_max_options.",
    )
    min_options: OptionCount = Field(
        default=2,
        description="Minimum number of options in a question; where the votes name fewer classes, others of the class "
        "list are added.",
    )
    auto_share: Share = Field(
        default=0.9, description="With num_options=auto: share of an image's votes that its options must hold."
    )
    auto_max_options: OptionCount = Field(default=10, description="With num_options=auto: maximum number of options.")
    option_source: SourceName = Field(
        default="policy",
        description="Where a training question's options come from: policy (the K answers), random (the class list), "
        "text_embedding (class names near the truth's), mixed (policy, topped up to num_options by mixed_with), or "
        "a class of your own as package.module:Class. Validation always uses the policy's answers.",
    )
    mixed_with: TopUpName = Field(default="random", description="With option_source=mixed: the source that tops up.")
    text_encoder: PathText | None = Field(
        default=None,
        description="Folder of a transformers text encoder for text_embedding; null compares the characters of the "
        "names and needs no model.",
    )
    temperature: Positive = Field(
        default=1.0, description="Sampling temperature of the K answers; at 0 all K would be equal."
    )
    top_p: Share = Field(default=0.95, description="Nucleus (top-p) of the K answers.")
    top_k: Literal[-1] | Count = Field(default=-1, description="Top-k of the K answers; -1 for no limit.")
    repetition_penalty: Positive = Field(
        default=1.1,
        description="Repetition penalty of the K answers; 1.0 for none. The rollouts of training have their own.",
    )
    max_new_tokens: Count | None = Field(
        default=None, description="Token limit for each of the K answers; null takes data.max_response_length."
    )
    group_requests: bool = Field(
        default=True,
        description="Ask the engine for the K answers of an image in one request where verl's engine can do that "
        "(vLLM, trainer_mode=sync); false sends K requests.",
    )
    max_vote_age: Annotated[int, Field(ge=0)] | None = Field(
        default=0,
        description="Maximum age of votes, in versions of the policy (training steps). 0 samples again at every visit, "
        "so that questions come from the current policy; null accepts any age, so that each image is sampled once. "
        "Validation always samples again.",
    )
    votes_file: PathText | None = Field(
        default=None,
        description="Votes to start from, mined offline by `divek mine`; they count as votes of policy version 0.",
    )
    allow_votes_mismatch: bool = Field(
        default=False,
        description="Use votes_file even if it was mined with another model, other sampling or another class list.",
    )
    allow_custom: bool = Field(
        default=False,
        description="Accept a reward function, data set class or agent-loop manager of your own, if the classes extend "
        "DiVE-k's and the function takes its keyword arguments.",
    )
    skip_easy: bool = Field(
        default=True,
        description="Skip easy images in training: the policy knows their class, so nothing is left to learn.",
    )
    easy_share: Share = Field(
        default=1.0,
        description="With skip_easy: an image is easy if the truth has at least this share of the votes that name a "
        "class of the list.",
    )
    few_class_fillers: int = Field(
        default=0,
        ge=0,
        description="Classes of the list that join a training question for which at most one wrong class was named. "
        "The paper's code adds 2, so that guessing is right in a third or a quarter of the cases, not in half.",
    )
    revisit_easy: Count = Field(
        default=1,
        description="With skip_easy: an image that was easy is asked again at every N-th visit and rests in between, "
        "which costs no samples. 1 asks it at each visit.",
    )
    format_weight: Weight = Field(
        default=1.0, description="Reward for <think>...</think><answer>...</answer> with visible text in both."
    )
    answer_weight: Weight = Field(default=1.0, description="Reward for the right option.")
    min_think_characters: Count = Field(
        default=1,
        description="Visible characters that the think element needs for the format reward. A higher bar pays for "
        "longer reasoning: rollouts below it lose format_weight, so that GRPO pushes lengths over it and no further.",
    )
    val_num_samples: Count | None = Field(
        default=None,
        description="K in validation, which samples every image again; null takes num_samples. Fewer are faster, and "
        "change what recall and pass@K mean.",
    )
    val_max_images: Count | None = Field(
        default=None,
        description="Maximum number of validation images of each data source, drawn with divek.seed; null takes all.",
    )
    max_images_in_flight: Count = Field(
        default=64,
        description="Maximum number of images that each agent-loop worker samples or rolls out at one time; bounds "
        "memory, since verl sends a whole validation set as one batch.",
    )
    max_refills_per_step: Count | None = Field(
        default=None,
        description="Maximum number of replacements for skipped images in one step; above it the run stops with an "
        "error. null means ten times data.train_batch_size.",
    )
    ask_ahead: bool = Field(
        default=True,
        description="With trainer_mode=sync: ask for so many images that enough should be left over after skips, at "
        "the share that was skipped in the last steps. A group too many is trained on in the next step, one policy "
        "version late. false replaces skipped images one for one, which takes several rounds of mining in a step.",
    )
    mining_timeout: Positive = Field(
        default=600.0,
        description="Seconds for the K answers of one image; an image that takes longer counts as failed.",
    )
    rollout_timeout: Positive = Field(
        default=1800.0,
        description="Seconds for the rollouts of one question; an image that takes longer counts as failed.",
    )
    stall_timeout: Positive = Field(
        default=3600.0,
        description="Seconds without progress of any prompt before the run stops with an error. Keep it above "
        "mining_timeout plus rollout_timeout, so that a slow image is given up first.",
    )
    poll_interval: Positive = Field(
        default=0.2,
        description="Seconds between the trainer's checks for finished rollouts (verl's own default is 2); more where "
        "a check takes more than a ninth of it, as with 6,000 prompts in flight.",
    )
    max_pixels: Annotated[int, Field(ge=784)] = Field(
        default=401408,
        description="Maximum number of pixels of an image, in sampling and in rollouts; 784 are one token.",
    )
    min_pixels: Count = Field(
        default=3136, description="Minimum number of pixels of an image, in sampling and in rollouts."
    )
    reshuffle: bool = Field(
        default=True,
        description="Order a question's options anew at each visit in training; false keeps one order for an image, as "
        "the paper's reference does. Validation always keeps one order.",
    )
    list_classes: bool = Field(
        default=True,
        description="For reward=virft (data.divek.list_classes): whether the open question lists the classes. The "
        "paper's ViRFT has no list. DiVE-k's question needs it.",
    )
    seed: int = Field(
        default=0, description="Seed for the order of options and for added options, combined with the image's id."
    )
    run_dir: PathText = Field(
        default="checkpoints", description="Folder of questions.jsonl, metrics.jsonl and report.html."
    )

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        most, name = self.rules.most_options, "auto_max_options" if self.num_options == "auto" else "num_options"
        if self.min_pixels > self.max_pixels:
            raise SetupError(
                f"divek.min_pixels={self.min_pixels} is above divek.max_pixels={self.max_pixels}: lower the first."
            )
        if self.min_options > most:
            raise SetupError(f"divek.min_options={self.min_options} is above divek.{name}={most}: lower the first.")
        if self.num_options == "auto" and not self.samples_votes:
            raise SetupError(
                f"divek.num_options=auto counts votes, which divek.option_source={self.option_source} with "
                "divek.skip_easy=false does not sample: give a number of options, or set divek.skip_easy=true."
            )
        if self.votes_file is not None and self.max_vote_age == 0:
            raise SetupError(
                "divek.votes_file would never be used with divek.max_vote_age=0: set that to null or a number."
            )
        return self

    @property
    def rules(self) -> QuestionRules:
        """How votes become a question."""
        return QuestionRules(**{field.name: getattr(self, field.name) for field in fields(QuestionRules)})

    def samples_in(self, split: str) -> int:
        """K in ``train`` or ``val``."""
        return self.num_samples if split == "train" else self.val_num_samples or self.num_samples

    @property
    def reuses_votes(self) -> bool:
        """Whether votes may serve more than one visit of an image."""
        return self.max_vote_age != 0

    @property
    def samples_votes(self) -> bool:
        """Whether training needs votes at all: for its options, or to skip easy images."""
        return self.skip_easy or option_source_class(self.option_source).uses_votes

    def sampling(self, response_length: int) -> dict[str, object]:
        """The options that change how the K answers are drawn, as the first line of a votes file records them."""
        names = ("num_samples", "temperature", "top_p", "top_k", "repetition_penalty", "max_pixels", "min_pixels")
        limit = self.max_new_tokens or response_length
        return {**{name: getattr(self, name) for name in names}, "max_new_tokens": limit}


DEFAULTS = Settings()


def read_settings(node: "JsonObject | DictConfig") -> Settings:
    """Settings from a ``divek:`` node (a mapping or DictConfig).

    Raises:
        SetupError: an unknown option, or a value that is not allowed.
    """
    from omegaconf import DictConfig, OmegaConf

    plain: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    values = {str(key): value for key, value in plain.items()}
    unknown = sorted(values.keys() - Settings.model_fields.keys())
    if unknown:
        known = sorted(Settings.model_fields)
        near = [f"divek.{name}" for name in get_close_matches(unknown[0], known, n=1)]
        cure = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}."
        raise SetupError(f"divek.{unknown[0]} is no option of divek_verl: {cure}")
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # from _check_together, which has its own sentence
            raise SetupError(str(first["ctx"]["error"])) from None
        name = str(first["loc"][0])
        raise SetupError(f"divek.{name}={values[name]!r} does not work: it must be {allowed(name)}.") from None


def allowed(name: str) -> str:
    """The values that an option takes, in words, such as ``auto or a whole number from 2 to 26``."""
    return _in_words(Settings.model_json_schema()["properties"][name])


def _in_words(schema: JsonObject) -> str:
    """A part of a JSON schema in words."""
    if "anyOf" in schema:
        # A type can have bounds and a single value has none: name the value first.
        parts = sorted(schema["anyOf"], key=lambda part: "const" not in part and part["type"] != "null")
        return " or ".join(map(_in_words, parts))
    if "const" in schema:
        return str(schema["const"])
    if schema["type"] == "string":
        return str(schema["title"])
    if schema["type"] not in ("integer", "number"):
        return {"boolean": "true or false", "null": "null"}[schema["type"]]
    noun = "a whole number" if schema["type"] == "integer" else "a number"
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        upper = "" if high is None else f" and at most {high:g}"
        return f"{noun} above {schema['exclusiveMinimum']:g}{upper}"
    if low is None:
        return noun
    return f"{noun} of at least {low}" if high is None else f"{noun} from {low} to {high}"
