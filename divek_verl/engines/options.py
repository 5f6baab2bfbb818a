"""Options that several ``divek`` commands share: which model answers, where it runs and how it is sampled.

A command takes each group as one argument, ``engine: EngineOptions``; ``with_options`` turns each field into an option
of the command.
"""

import copy
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar, get_type_hints

import typer
from typer.models import OptionInfo

from divek_verl.engines.base import Sampling
from divek_verl.errors import SetupError
from divek_verl.settings import DEFAULTS, Settings, allowed, read_settings

# name in Settings -> name of the command's option, where they differ
_RENAMED = {"num_samples": "samples", "num_options": "options"}


SERVER = "Server (an engine that runs elsewhere)"


class Backend(str, Enum):
    """The kind of engine: one in this process, or a server that speaks OpenAI's protocol."""

    VLLM = "vllm"
    OPENAI = "openai"


@dataclass(frozen=True)
class EngineOptions:
    """Which model answers, and where it runs; a SetupError if a number or an option does not fit."""

    PANEL: ClassVar = "Engine"
    model: Annotated[str, typer.Option(help="Folder of the model, or its name on the server (--base-url).")]
    backend: Annotated[
        Backend | None, typer.Option(help="vllm: load the model here; openai: ask a server; unset: as --base-url says.")
    ] = None
    base_url: Annotated[
        str | None,
        typer.Option(help="Address of the server, such as http://localhost:8000/v1.", rich_help_panel=SERVER),
    ] = dataclasses.field(default=None, repr=False)
    api_key_variable: Annotated[
        str, typer.Option(help="Environment variable that holds the server's key.", rich_help_panel=SERVER)
    ] = "OPENAI_API_KEY"
    tensor_parallel: Annotated[int, typer.Option(help="GPUs that share each layer (vllm).")] = 1
    data_parallel: Annotated[
        int, typer.Option(help="Copies of the model; all samples of an image use the same one (vllm).")
    ] = 1
    dtype: Annotated[str, typer.Option(help="Number format of the weights; auto: the model's own (vllm).")] = "auto"
    max_model_len: Annotated[
        int | None,
        typer.Option(help="Token limit of prompt and answer; unset: the model's own, on a CPU at most 4096 (vllm)."),
    ] = None
    compile: Annotated[
        bool | None,
        typer.Option(
            help="Compile the model at start, worth it for thousands of images; unset: compile on GPUs only (vllm)."
        ),
    ] = None
    gpu_memory_utilization: Annotated[float, typer.Option(help="Share of the GPU's memory to use (vllm).")] = 0.9
    max_images_in_flight: Annotated[int, typer.Option(help="Maximum images at one time; bounds memory.")] = 256
    timeout: Annotated[float, typer.Option(help="Seconds for one image, with its wait in the engine.")] = 3600.0
    retries: Annotated[int, typer.Option(help="How often a failed request is sent again.", rich_help_panel=SERVER)] = 5
    verbose: Annotated[bool, typer.Option("--verbose", help="Show vLLM's messages; unset: they go to a file.")] = False

    def __post_init__(self) -> None:
        if self.backend is None:
            object.__setattr__(self, "backend", Backend.OPENAI if self.base_url else Backend.VLLM)
        for name in ("tensor_parallel", "data_parallel", "max_images_in_flight", "timeout"):
            self._check(name, getattr(self, name) > 0, "above 0")
        self._check("retries", self.retries >= 0, "0 or more")
        self._check("max_model_len", self.max_model_len is None or self.max_model_len > 1, "above 1")
        self._check("gpu_memory_utilization", 0 < self.gpu_memory_utilization <= 1, "above 0 and at most 1")
        if self.backend is Backend.OPENAI and not self.base_url:
            raise SetupError("--backend openai needs the address of the server: give --base-url.")
        if self.backend is Backend.VLLM and self.base_url:
            raise SetupError("--base-url names a server, --backend vllm loads the model here: give one of them.")

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise SetupError(f"{_flag(name)} {getattr(self, name)!r} does not work: it must be {wanted}.")


def from_settings(name: str) -> OptionInfo:
    """A command's option with the documentation and the range of ``divek.<name>``."""
    return typer.Option(help=f"{Settings.model_fields[name].description} Allowed: {allowed(name)}.")


@dataclass(frozen=True)
class SamplingOptions:
    """How the K answers of an image are sampled; defaults and ranges are those of training (divek_verl/settings.py)."""

    PANEL: ClassVar = "Sampling"
    samples: Annotated[int, from_settings("num_samples")] = DEFAULTS.num_samples
    temperature: Annotated[float, from_settings("temperature")] = DEFAULTS.temperature
    top_p: Annotated[float, from_settings("top_p")] = DEFAULTS.top_p
    top_k: Annotated[int, from_settings("top_k")] = DEFAULTS.top_k
    repetition_penalty: Annotated[float, from_settings("repetition_penalty")] = DEFAULTS.repetition_penalty
    max_new_tokens: Annotated[int, typer.Option(help="Token limit for each answer.")] = 1024
    min_pixels: Annotated[int, from_settings("min_pixels")] = DEFAULTS.min_pixels
    max_pixels: Annotated[int, from_settings("max_pixels")] = DEFAULTS.max_pixels
    seed: Annotated[
        int | None, typer.Option(help="Each image's own seed comes from this and its id; unset: random.")
    ] = None

    def __post_init__(self) -> None:
        self.as_training()

    def as_training(self) -> Settings:
        """The settings with which a training run samples as these options do."""
        names = {_RENAMED.get(name, name): name for name in Settings.model_fields}
        values = {names[name]: value for name, value in dataclasses.asdict(self).items() if name in names}
        values["seed"] = self.seed or 0
        if str(values.get("num_options")).isdecimal():  # text, because it may be auto
            values["num_options"] = int(values["num_options"])
        # Several greedy answers would be equal, a single one is fine.
        greedy = self.samples == 1 and self.temperature == 0
        if greedy:
            del values["temperature"]
        try:
            settings = read_settings(values)
        except SetupError as error:
            raise SetupError(re.sub(r"divek\.(\w+)=", lambda found: f"{_flag(found[1])} ", str(error))) from None
        return settings.model_copy(update={"temperature": 0.0}) if greedy else settings

    def sampling(self) -> Sampling:
        """The same for an engine, which is told the number of samples with each request."""
        return Sampling(
            self.temperature, self.top_p, self.top_k, self.repetition_penalty, self.max_new_tokens, self.seed
        )


def _flag(name: str) -> str:
    """``--auto-share`` for ``auto_share``."""
    return f"--{_RENAMED.get(name, name).replace('_', '-')}"


def _in_panel(annotation: Any, panel: str | None) -> Any:
    """The annotation of an option, listed in ``panel`` of the help unless it names its own."""
    option = copy.copy(annotation.__metadata__[0])
    option.rich_help_panel = option.rich_help_panel or panel
    return Annotated[annotation.__origin__, option]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` for typer: an argument that is a dataclass becomes one option for each of its fields."""
    hints = get_type_hints(command, include_extras=True)
    groups = [name for name, hint in hints.items() if dataclasses.is_dataclass(hint)]
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        annotations = get_type_hints(hints[name], include_extras=True)
        for field in dataclasses.fields(hints[name]):
            default = parameter.empty if field.default is dataclasses.MISSING else field.default
            # What is required stands in the first panel.
            panel = None if default is parameter.empty else getattr(hints[name], "PANEL", None)
            annotation = _in_panel(annotations[field.name], panel)
            parameters.append(parameter.replace(name=field.name, default=default, annotation=annotation))
    # Keyword-only, so that options without a default may follow others with one; help lists what is required first.
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    parameters.sort(key=lambda parameter: parameter.default is not parameter.empty)

    @functools.wraps(command)
    def with_fields(**values: object) -> None:
        for name in groups:
            own = {field.name: values.pop(field.name) for field in dataclasses.fields(hints[name])}
            values[name] = hints[name](**own)
        command(**values)

    with_fields.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_fields.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_fields
