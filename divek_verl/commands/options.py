"""Options of ``divek eval`` and ``divek predict``: the two steps and the judge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from divek_verl.engines.base import Sampling
from divek_verl.engines.options import SamplingOptions, from_settings
from divek_verl.engines.two_step import TwoStepSettings
from divek_verl.errors import SetupError
from divek_verl.evaluation.judge import JudgeSettings
from divek_verl.settings import DEFAULTS


@dataclass(frozen=True)
class TwoStepOptions(SamplingOptions):
    """How both questions are asked; defaults and ranges are those of training (divek_verl/settings.py)."""

    options: Annotated[str, from_settings("num_options")] = str(DEFAULTS.num_options)
    min_options: Annotated[int, from_settings("min_options")] = DEFAULTS.min_options
    auto_share: Annotated[float, from_settings("auto_share")] = DEFAULTS.auto_share
    auto_max_options: Annotated[int, from_settings("auto_max_options")] = DEFAULTS.auto_max_options
    choice_temperature: Annotated[float, typer.Option(help="Temperature of the choice; 0: the most likely one.")] = 0.0
    seed: Annotated[
        int, typer.Option(help="Seed for samples and the order of options, combined with each image's id.")
    ] = DEFAULTS.seed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choice_temperature < 0:
            raise SetupError(f"--choice-temperature {self.choice_temperature} does not work: it must be at least 0.")

    def settings(self, *, ask_choice: bool = True) -> TwoStepSettings:
        return TwoStepSettings(
            num_samples=self.samples,
            rules=self.as_training().rules,
            open_sampling=self.sampling(),
            choice_sampling=Sampling(self.choice_temperature, 1.0, -1, 1.0, self.max_new_tokens, self.seed),
            seed=self.seed,
            ask_choice=ask_choice,
        )


@dataclass(frozen=True)
class JudgeOptions:
    """Who decides whether an answer outside the class list means the true class."""

    PANEL: ClassVar = "Judge"
    judge: Annotated[
        str,
        typer.Option(help="classes: such an answer is wrong; openai: ask a model behind an OpenAI-compatible server."),
    ] = "classes"
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge on its server (openai).")] = None
    judge_base_url: Annotated[str | None, typer.Option(help="The judge's server (openai); unset: --base-url.")] = None
    judge_cache: Annotated[Path, typer.Option(help="File that keeps verdicts between runs (openai).")] = Path(
        "~/.cache/divek_verl/verdicts.jsonl"
    )
    judge_concurrency: Annotated[int, typer.Option(help="Maximum requests to the judge at one time (openai).")] = 16
    judge_retries: Annotated[int, typer.Option(help="Retries of a request, with growing waits (openai).")] = 5
    judge_timeout: Annotated[float, typer.Option(help="Seconds for one request to the judge (openai).")] = 60.0
    judge_max_tokens: Annotated[int, typer.Option(help="Token limit of the judge's reply (openai).")] = 1024
    judge_input_price: Annotated[float | None, typer.Option(help="Price of a million input tokens (openai).")] = None
    judge_output_price: Annotated[float | None, typer.Option(help="Price of a million output tokens (openai).")] = None

    def settings(self, base_url: str | None) -> JudgeSettings | None:
        """None if the class list alone decides; a SetupError if the judge lacks its model or address."""
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
