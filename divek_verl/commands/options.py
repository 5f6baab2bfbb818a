"""What ``divek eval`` and ``divek predict`` are told about the model, the two steps and the judge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from divek_verl.engines.base import Sampling
from divek_verl.engines.options import Backend, EngineOptions
from divek_verl.engines.two_step import TwoStepSettings
from divek_verl.errors import SetupError
from divek_verl.evaluation.judge import JudgeSettings
from divek_verl.question import QuestionRules


@dataclass(frozen=True)
class AnsweringModel(EngineOptions):
    """``EngineOptions`` where the address of a server is enough to say that a server answers."""

    def __post_init__(self) -> None:
        if self.base_url:
            object.__setattr__(self, "backend", Backend.OPENAI)
        super().__post_init__()


@dataclass(frozen=True)
class TwoStepOptions:
    """How both questions are asked; the defaults of the K answers are the training run's."""

    samples: Annotated[int, typer.Option(help="K, answers to the open question.")] = 20
    options: Annotated[str, typer.Option(help="At most so many become options, 2 to 26; or auto.")] = "5"
    temperature: Annotated[float, typer.Option(help="Of the K answers.")] = 1.0
    top_p: Annotated[float, typer.Option(help="Of the K answers.")] = 0.95
    top_k: Annotated[int, typer.Option(help="Of the K answers; -1 for no limit.")] = -1
    repetition_penalty: Annotated[float, typer.Option(help="Of the K answers; 1 for none.")] = 1.1
    choice_temperature: Annotated[float, typer.Option(help="Of the choice; 0: the most likely one.")] = 0.0
    max_new_tokens: Annotated[int, typer.Option(help="Token limit of one completion, in both steps.")] = 1024
    max_pixels: Annotated[int, typer.Option(help="Pictures are shown with at most so many pixels.")] = 401408
    min_pixels: Annotated[int, typer.Option(help="Pictures are shown with at least so many pixels.")] = 3136
    seed: Annotated[int, typer.Option(help="Of samples and shuffles, together with each image's id.")] = 0

    def __post_init__(self) -> None:
        for name, holds, wanted in (
            ("temperature", self.temperature > 0 or self.samples == 1, "above 0, or all samples would be one answer"),
            ("choice_temperature", self.choice_temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k == -1 or self.top_k >= 1, "-1 (no limit) or at least 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
        ):
            if not holds:
                option = name.replace("_", "-")
                raise SetupError(f"--{option} {getattr(self, name)} does not work: it must be {wanted}.")

    def settings(self, *, ask_choice: bool = True) -> TwoStepSettings:
        """Raises SetupError for a number of samples or options that cannot work."""
        shared = {"max_new_tokens": self.max_new_tokens, "seed": self.seed}
        return TwoStepSettings(
            num_samples=self.samples,
            rules=QuestionRules(int(self.options) if self.options.isdecimal() else self.options),  # type: ignore[arg-type]
            open_sampling=Sampling(self.temperature, self.top_p, self.top_k, self.repetition_penalty, **shared),
            choice_sampling=Sampling(self.choice_temperature, 1.0, -1, 1.0, **shared),
            seed=self.seed,
            ask_choice=ask_choice,
        )


@dataclass(frozen=True)
class JudgeOptions:
    """Who decides whether an answer outside the class list means the true class."""

    judge: Annotated[
        str, typer.Option(help="classes: nobody, it is wrong; openai: a model behind an OpenAI-compatible server.")
    ] = "classes"
    judge_model: Annotated[str | None, typer.Option(help="The server's name of the judge (openai).")] = None
    judge_base_url: Annotated[
        str | None, typer.Option(help="Address of the judge's server (openai); by default that of --base-url.")
    ] = None
    judge_cache: Annotated[Path, typer.Option(help="File of verdicts, kept from run to run (openai).")] = Path(
        "~/.cache/divek_verl/verdicts.jsonl"
    )
    judge_concurrency: Annotated[int, typer.Option(help="Requests to the judge at one time (openai).")] = 16
    judge_retries: Annotated[int, typer.Option(help="Of one request to the judge, with growing waits (openai).")] = 5
    judge_timeout: Annotated[float, typer.Option(help="Seconds for one request to the judge (openai).")] = 60.0
    judge_max_tokens: Annotated[int, typer.Option(help="Token limit of a judge's reply (openai).")] = 1024
    judge_input_price: Annotated[float | None, typer.Option(help="Price of a million tokens in (openai).")] = None
    judge_output_price: Annotated[float | None, typer.Option(help="Price of a million tokens out (openai).")] = None

    def settings(self, base_url: str | None) -> JudgeSettings | None:
        """None for the class list alone.

        Raises:
            SetupError: the judge is of no known kind, or lacks its model or address.
        """
        if self.judge == "classes":
            return None
        if self.judge != "openai":
            raise SetupError(f"--judge {self.judge!r} is no judge: use classes or openai.")
        address = self.judge_base_url or base_url
        if not self.judge_model or not address:
            raise SetupError("--judge openai needs --judge-model, and --judge-base-url or --base-url.")
        return JudgeSettings(
            model=self.judge_model,
            base_url=address,
            cache=self.judge_cache.expanduser(),
            max_concurrency=self.judge_concurrency,
            max_retries=self.judge_retries,
            timeout=self.judge_timeout,
            max_reply_tokens=self.judge_max_tokens,
            input_price=self.judge_input_price,
            output_price=self.judge_output_price,
        )
