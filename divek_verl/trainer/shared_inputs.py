"""The inputs that all rollouts of one visit have in common, computed once.

verl loads the picture and runs the whole Hugging Face processor for every rollout: for the prompt's tokens, for the
reward and for the trainer, the last two in the event loop that also mines. Their results are equal within a visit.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

T = TypeVar("T")
VERLS_LOOP, OUR_LOOP = "single_turn_agent", "divek_single_turn_agent"
# What follows from the picture alone. A processor that returns more runs for every rollout, as verl has it.
PICTURE_INPUTS = {"pixel_values", "image_grid_thw", "images_seqlens", "mm_token_type_ids"}


class SharedInputs:
    """The shared inputs of one visit."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Future[Any]] = {}
        self._images: list[Any] | None = None
        self._model_inputs: dict[str, torch.Tensor] = {}

    async def once(self, name: str, compute: Callable[[], Awaitable[T]]) -> T:
        """The result of the first call with ``name``; a rollout that is given up does not take it from the others."""
        if name not in self._tasks:
            self._tasks[name] = asyncio.ensure_future(compute())
        found: T = await asyncio.shield(self._tasks[name])
        return found

    async def prepare(self, output: AgentLoopOutput, compute: Callable[..., dict[str, torch.Tensor]]) -> None:
        """Run verl's ``compute(output, input_ids)`` in a thread, if no rollout of the visit has done so."""
        images = (output.multi_modal_data or {}).get("images")

        async def run() -> None:
            tokens = torch.tensor([*output.prompt_ids, *output.response_ids])
            self._model_inputs = await asyncio.to_thread(compute, output, tokens)
            if set(self._model_inputs) <= PICTURE_INPUTS:
                self._images = images

        if images:
            await self.once("model inputs", run)

    def of(self, output: AgentLoopOutput) -> dict[str, torch.Tensor] | None:
        """The model's inputs for a rollout about the same picture; None if they are not known."""
        media = output.multi_modal_data or {}
        same = self._images is not None and media.get("images") is self._images and set(media) == {"images"}
        # verl removes entries from it.
        return dict(self._model_inputs) if same else None


SHARED: ContextVar[SharedInputs | None] = ContextVar("divek_shared_inputs", default=None)


@register(OUR_LOOP)
class SharingAgentLoop(SingleTurnAgentLoop):
    """verl's single-turn agent loop; the rollouts of a visit share its picture and its prompt's tokens."""

    async def process_multi_modal_info(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        shared, verls_own = SHARED.get(), super().process_multi_modal_info
        if shared is None:
            return dict(await verls_own(messages))
        return dict(await shared.once("media", lambda: verls_own(messages)))

    async def ct_build_initial_tokens(
        self, messages: list[dict[str, Any]], *args: Any, mm_inputs_out: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[int]:
        shared, verls_own = SHARED.get(), super().ct_build_initial_tokens
        if shared is None:
            return list(await verls_own(messages, *args, mm_inputs_out=mm_inputs_out, **kwargs))

        async def build() -> tuple[list[int], dict[str, Any]]:
            found: dict[str, Any] = {}
            return await verls_own(messages, *args, mm_inputs_out=found, **kwargs), found

        tokens, found = await shared.once("tokens", build)
        if mm_inputs_out is not None:
            mm_inputs_out.update(found)
        return list(tokens)
