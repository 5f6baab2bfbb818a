"""Shared options: each field is an option, and what cannot work is refused with a sentence."""

import re
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from divek_verl.commands.options import TwoStepOptions
from divek_verl.engines.base import Sampling
from divek_verl.engines.options import Backend, EngineOptions, SamplingOptions, with_options
from divek_verl.errors import SetupError
from divek_verl.settings import Settings


def app_of(called: Callable[..., None]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @with_options
    def command(
        name: Annotated[str, typer.Option()], engine: EngineOptions, sampling: SamplingOptions, last: int = 3
    ) -> None:
        called(name, engine, sampling, last)

    return app


def run(*arguments: str) -> list[Any]:
    seen: list[Any] = []
    app = app_of(lambda *given: seen.extend(given))
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return seen


def test_fields_are_options_beside_the_commands_own() -> None:
    arguments = ["--name", "x", "--model", "m", "--backend", "openai", "--base-url", "u", "--samples", "4"]
    name, engine, sampling, last = run(*arguments, "--last", "5")
    assert (name, last) == ("x", 5)
    assert engine == EngineOptions("m", Backend.OPENAI, base_url="u")
    assert sampling == SamplingOptions(samples=4)


def test_an_option_without_a_default_is_asked_for() -> None:
    with pytest.raises(AssertionError, match="--model"):
        run("--name", "x")


def test_the_defaults_are_those_of_training() -> None:
    assert SamplingOptions().as_training() == Settings(max_new_tokens=1024)
    assert TwoStepOptions().as_training() == Settings(max_new_tokens=1024)


def test_every_value_reaches_the_settings_of_training() -> None:
    given = {"temperature": 0.5, "top_p": 0.8, "top_k": 9, "repetition_penalty": 1.2, "max_new_tokens": 7, "seed": 4}
    rules = {"min_options": 3, "auto_share": 0.5, "auto_max_options": 7}
    pixels = {"min_pixels": 5000, "max_pixels": 6000}
    found = TwoStepOptions(samples=7, options="auto", **given, **rules, **pixels).as_training()
    assert found == Settings(num_samples=7, num_options="auto", **given, **rules, **pixels)
    assert TwoStepOptions(options="4").as_training().num_options == 4


def test_one_answer_may_be_the_most_likely_one() -> None:
    assert SamplingOptions(samples=1, temperature=0.0).as_training().temperature == 0.0
    assert SamplingOptions(samples=1, temperature=0.0).sampling().temperature == 0.0


def test_help_says_what_an_option_means_and_takes() -> None:
    shown = " ".join(re.sub(r"[^ -~]", " ", CliRunner().invoke(app_of(lambda *_: None), ["--help"]).output).split())
    assert "Nucleus (top-p) of the K answers. Allowed: a number above 0 and at most 1. [default: 0.95]" in shown


def test_an_engine_is_told_the_same_sampling() -> None:
    options = SamplingOptions(samples=7, temperature=0.5, top_p=0.8, top_k=9, repetition_penalty=1.2, seed=4)
    assert options.sampling() == Sampling(0.5, 0.8, 9, 1.2, max_new_tokens=1024, seed=4)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"tensor_parallel": 0}, "--tensor-parallel 0 does not work: it must be above 0"),
        ({"timeout": 0.0}, "--timeout"),
        ({"retries": -1}, "--retries"),
        ({"max_model_len": 1}, "--max-model-len"),
        ({"gpu_memory_utilization": 1.5}, "--gpu-memory-utilization"),
        ({"backend": Backend.OPENAI}, "give --base-url"),
        ({"base_url": "http://x", "backend": Backend.VLLM}, "give one of them"),
    ],
)
def test_engine_options_that_cannot_work_are_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SetupError) as refused:
        EngineOptions(**{"model": "m", **changed})
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"samples": 0}, "--samples 0 does not work: it must be a whole number of at least 1."),
        ({"temperature": 0.0}, "--temperature 0.0 does not work: it must be a number above 0."),
        ({"top_p": 1.1}, "--top-p 1.1 does not work: it must be a number above 0 and at most 1."),
        ({"top_k": 0}, "--top-k 0 does not work: it must be -1 or a whole number of at least 1."),
        ({"repetition_penalty": 0.0}, "--repetition-penalty 0.0 does not work: it must be a number above 0."),
        ({"max_new_tokens": 0}, "--max-new-tokens 0 does not work: it must be null or a whole number of at least 1."),
        ({"min_pixels": 9000, "max_pixels": 900}, "--min-pixels 9000 is above --max-pixels 900: lower the first."),
    ],
)
def test_sampling_that_cannot_work_is_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SetupError) as refused:
        SamplingOptions(**changed)
    assert str(refused.value) == sentence
