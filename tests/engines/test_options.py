"""Shared options: each field is an option, and what cannot work is refused with a sentence."""

from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from divek_verl.engines.base import Sampling
from divek_verl.engines.options import Backend, EngineOptions, SamplingOptions, with_options
from divek_verl.errors import SetupError
from divek_verl.settings import Settings


def run(*arguments: str) -> list[Any]:
    seen: list[Any] = []
    app = typer.Typer()

    @app.command()
    @with_options
    def command(
        name: Annotated[str, typer.Option()], engine: EngineOptions, sampling: SamplingOptions, last: int = 3
    ) -> None:
        seen.extend([name, engine, sampling, last])

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
    names = ("temperature", "top_p", "top_k", "repetition_penalty")
    mined, trained = SamplingOptions(), Settings()
    assert [getattr(mined, name) for name in names] == [getattr(trained, name) for name in names]
    assert mined.samples == trained.num_samples


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
        ({"base_url": "http://x"}, "--backend openai"),
    ],
)
def test_engine_options_that_cannot_work_are_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SetupError) as refused:
        EngineOptions(**{"model": "m", **changed})
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"samples": 0},
        {"temperature": 0.0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"repetition_penalty": 0.0},
        {"max_new_tokens": 0},
    ],
)
def test_sampling_that_cannot_work_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="--" + next(iter(changed)).replace("_", "-")):
        SamplingOptions(**changed)
