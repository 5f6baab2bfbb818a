"""The end of a prompt in vLLM's engine on a CPU: copied from one sample to the next instead of computed again.

vLLM's prefix cache shares whole blocks, and its attention on a CPU has none below 16 tokens (``cpu_attn.py``), so that
each of a prompt's n samples computes up to 16 tokens anew: of the demo's prompts ten, which is a third of all that is
computed for an image. Here the unfinished block is copied from a sample that runs, in the same step if need be, through
the interface that vLLM has for caches of any kind, ``KVConnectorBase_V1``. vLLM itself does so for Mamba's states only;
no upstream issue is known for attention (2026-11).
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, KVConnectorRole
from vllm.v1.request import Request, RequestStatus

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig


def end_of_prompt(request: Request, block_size: int) -> int:
    """Where the block of the prompt's last token starts; the cache never gives that block: one token is to compute."""
    return int((request.num_prompt_tokens - 1) // block_size * block_size)


class Holders:
    """The requests that run, by their prompts, and the block in which each holds its prompt's end."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._of_prompt: dict[Hashable, dict[str, tuple[Request, int]]] = {}
        self._prompts: dict[str, Hashable] = {}

    def find(self, request: Request) -> int | None:
        """The block of a request with the same prompt; of all, the one that has held it longest."""
        for holder, block in self._of_prompt.get(self._prompt(request), {}).values():
            # A preempted request has given its blocks back, which nobody tells.
            if holder.status is RequestStatus.RUNNING:
                return block
        return None

    def add(self, request: Request, block: int) -> None:
        prompt = self._prompt(request)
        self._prompts[request.request_id] = prompt
        self._of_prompt.setdefault(prompt, {})[request.request_id] = request, block

    def remove(self, request: Request) -> None:
        """Nothing happens where it was not added."""
        prompt = self._prompts.pop(request.request_id, None)
        if prompt is None:
            return
        del self._of_prompt[prompt][request.request_id]
        if not self._of_prompt[prompt]:
            del self._of_prompt[prompt]

    def _prompt(self, request: Request) -> Hashable:
        """The hash of its whole blocks (of tokens, pictures, adapter and salt), and the tokens after them."""
        start = end_of_prompt(request, self._block_size)
        return request.block_hashes[start // self._block_size - 1], tuple(request.prompt_token_ids[start:])


@dataclass
class Copies(KVConnectorMetadata):
    """The copies of one step: from which blocks, to which."""

    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)


class PromptEnds(KVConnectorBase_V1):
    """vLLM makes one in its scheduler, which says what is copied, and one beside the model, which copies.

    Raises:
        ValueError: prompts may be computed in parts, so that a block could be copied before it is filled.
    """

    def __init__(self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig") -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        if vllm_config.scheduler_config.enable_chunked_prefill:
            raise ValueError("The ends of prompts can only be shared with enable_chunked_prefill=False.")
        self._block_size: int = vllm_config.cache_config.block_size
        self._holders = Holders(self._block_size)
        self._copies = Copies()
        self._caches: dict[str, torch.Tensor] = {}
        self._sources = self._targets = torch.empty(0, dtype=torch.long)

    @property
    def requires_kv_delivery(self) -> bool:
        """No: nothing is handed on when a request ends."""
        return False

    # In the scheduler.

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int, bool]:
        """All of the prompt's end but its last token, where all before it is in the cache."""
        start = end_of_prompt(request, self._block_size)
        if num_computed_tokens != start or not self._is_shared(request) or self._holders.find(request) is None:
            return 0, False
        return request.num_prompt_tokens - 1 - start, False

    def update_state_after_alloc(self, request: Request, blocks: "KVCacheBlocks", num_external_tokens: int) -> None:
        self._holders.remove(request)
        if not self._is_shared(request):
            return
        own, index = blocks.get_block_ids()[0], end_of_prompt(request, self._block_size) // self._block_size
        if index >= len(own):
            # Its picture waits for room in the encoder, so that this step ends before it.
            return
        source = self._holders.find(request) if num_external_tokens else None
        if source is not None:
            self._copies.sources.append(source)
            self._copies.targets.append(own[index])
        self._holders.add(request, own[index])

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> Copies:
        copies, self._copies = self._copies, Copies()
        return copies

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, None]:
        self._holders.remove(request)
        return False, None

    def _is_shared(self, request: Request) -> bool:
        """Not where no hash is before the end, a picture reaches into it, or answers have begun (after preemption)."""
        start = end_of_prompt(request, self._block_size)
        places = [feature.mm_position for feature in request.mm_features]
        return start > 0 and not request.num_output_tokens and all(at.offset + at.length <= start for at in places)

    # Beside the model.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """The caches of all layers; the first dimension of each is that of its blocks."""
        self._caches = kv_caches

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        copies = self._get_connector_metadata()
        self._sources = torch.tensor(copies.sources, dtype=torch.long)
        self._targets = torch.tensor(copies.targets, dtype=torch.long)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Called between the writing of a layer's keys and values, sources' included, and its attention.

        Whole blocks are copied, as the order within is the attention's own. What is copied too much is written later,
        except for the last token of the prompt: that has the same keys and values in both.
        """
        if len(self._sources):
            cache = self._caches[layer_name]
            cache.index_copy_(0, self._targets, cache.index_select(0, self._sources))

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing is kept anywhere else."""

    def wait_for_save(self) -> None:
        """Nothing is kept anywhere else."""
