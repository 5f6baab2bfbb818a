"""Options that several ``divek`` commands share: which model answers, where it runs and how it is sampled.

A command takes them as one argument each, ``engine: EngineOptions``; ``with_options`` shows every field as an option
of its own.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, get_type_hints

import typer

from divek_verl.engines.base import Sampling
from divek_verl.errors import SetupError


class Backend(str, Enum):
    """What answers: an engine in this process, or a server that speaks OpenAI's protocol."""

    VLLM = "vllm"
    OPENAI = "openai"


@dataclass(frozen=True)
class EngineOptions:
    """Which model answers, and where it runs.

    Raises:
        SetupError: a number is out of range, or an option of the other backend is given.
    """

    model: Annotated[str, typer.Option(help="Folder of the model, or its name on the server (--backend openai).")]
    backend: Annotated[Backend, typer.Option(help="vllm: load the model here; openai: ask a server.")] = Backend.VLLM
    base_url: Annotated[
        str | None, typer.Option(help="Address of the server, such as http://localhost:8000/v1 (openai).")
    ] = None
    api_key_variable: Annotated[
        str, typer.Option(help="Environment variable that holds the server's key (openai).")
    ] = "OPENAI_API_KEY"
    tensor_parallel: Annotated[int, typer.Option(help="GPUs that share each layer (vllm).")] = 1
    data_parallel: Annotated[
        int | None,
        typer.Option(
            help="Copies of the model; all samples of an image use one. Unset: 1; on a CPU, for many images and a "
            "small model, up to one for each core (vllm)."
        ),
    ] = None
    dtype: Annotated[str, typer.Option(help="Number format of the weights; auto: the model's own (vllm).")] = "auto"
    max_model_len: Annotated[
        int | None,
        typer.Option(help="Tokens of prompt and answer; unset: the model's own, on a CPU at most 4096 (vllm)."),
    ] = None
    compile: Annotated[
        bool | None,
        typer.Option(
            help="Compile the model at start, which pays from some thousand images on; unset: on GPUs (vllm)."
        ),
    ] = None
    gpu_memory_utilization: Annotated[float, typer.Option(help="Share of the GPU's memory to use (vllm).")] = 0.9
    max_images_in_flight: Annotated[int, typer.Option(help="Images at work at one time; bounds memory.")] = 256
    timeout: Annotated[float, typer.Option(help="Seconds for one image, waiting inside the engine included.")] = 3600.0
    retries: Annotated[int, typer.Option(help="Times that a failed request is sent again (openai).")] = 5

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "max_images_in_flight", "timeout"):
            self._check(name, getattr(self, name) > 0, "above 0")
        self._check("data_parallel", self.data_parallel is None or self.data_parallel > 0, "above 0")
        self._check("retries", self.retries >= 0, "0 or more")
        self._check("max_model_len", self.max_model_len is None or self.max_model_len > 1, "above 1")
        self._check("gpu_memory_utilization", 0 < self.gpu_memory_utilization <= 1, "above 0 and at most 1")
        if self.backend is Backend.OPENAI and not self.base_url:
            raise SetupError("--backend openai needs the address of the server: give --base-url.")
        if self.backend is Backend.VLLM and self.base_url:
            raise SetupError("--base-url is the address of a server: use it with --backend openai.")

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            option = name.replace("_", "-")
            raise SetupError(f"--{option} {getattr(self, name)!r} does not work: it must be {wanted}.")


@dataclass(frozen=True)
class SamplingOptions:
    """How the K answers of an image are drawn; the defaults are the training run's (config/divek/online.yaml).

    Raises:
        SetupError: a number is out of range.
    """

    samples: Annotated[int, typer.Option(help="K, answers sampled for each image.")] = 20
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0
    top_p: Annotated[float, typer.Option(help="Nucleus, in (0, 1].")] = 0.95
    top_k: Annotated[int, typer.Option(help="Top-k; -1 for no limit.")] = -1
    repetition_penalty: Annotated[float, typer.Option(help="Repetition penalty; 1 for none.")] = 1.1
    max_new_tokens: Annotated[int, typer.Option(help="Token limit of one answer.")] = 1024
    seed: Annotated[
        int | None, typer.Option(help="Each image's own seed is derived from it and its id; unset: drawn anew.")
    ] = None

    def __post_init__(self) -> None:
        rules = {
            "samples": (self.samples >= 1, "at least 1"),
            "temperature": (self.temperature > 0 or self.samples == 1, "above 0, or all samples would be one answer"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k == -1 or self.top_k >= 1, "-1 (no limit) or at least 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
        }
        for name, (holds, wanted) in rules.items():
            if not holds:
                option = name.replace("_", "-")
                raise SetupError(f"--{option} {getattr(self, name)} does not work: it must be {wanted}.")

    def sampling(self) -> Sampling:
        """The same for an engine, which is told the number of samples with each request."""
        values = dataclasses.asdict(self)
        del values["samples"]
        return Sampling(**values)


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``command`` for typer: each argument that is a dataclass becomes one option for each of its fields."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters = list(_parameters(command, hints, groups))

    @functools.wraps(command)
    def with_fields(**values: Any) -> Any:
        for name, group in groups.items():
            own = {field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            values[name] = group(**own)
        return command(**values)

    with_fields.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_fields.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_fields


def _parameters(command: Callable[..., Any], hints: dict[str, Any], groups: dict[str, Any]) -> Iterator[Any]:
    """Keyword-only, so that options without a default may follow others with one."""
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            yield parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        group = groups[parameter.name]
        fields = get_type_hints(group, include_extras=True)
        for field in dataclasses.fields(group):
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            kind = inspect.Parameter.KEYWORD_ONLY
            yield inspect.Parameter(field.name, kind, default=default, annotation=fields[field.name])
