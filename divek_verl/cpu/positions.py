"""mRoPE positions in vLLM's engine: those of one prompt and its picture are worked out once for all of its samples."""

import functools
from typing import Any

MODULE = "vllm.v1.worker.gpu_model_runner"


def share_positions(module: Any) -> None:
    """``vllm.v1.worker.gpu_model_runner``: a request for n completions becomes n, one after the other.

    vLLM goes through prompt and pictures for each of them again, which for the demo's short answers is a fortieth of
    the engine's time. No upstream issue is known for it (2026-11).
    """
    original = module.GPUModelRunner._init_mrope_positions

    @functools.wraps(original)
    def init_mrope_positions(self: Any, req_state: Any) -> None:
        prompt = _prompt_of(req_state)
        last: Any = getattr(self, "_divek_last_positions", None)
        if prompt is None or last is None or prompt != last[0]:
            original(self, req_state)
            # Nothing writes to them: vLLM copies them into a batch's own.
            self._divek_last_positions = prompt, req_state.mrope_positions, req_state.mrope_position_delta
        else:
            _, req_state.mrope_positions, req_state.mrope_position_delta = last

    module.GPUModelRunner._init_mrope_positions = init_mrope_positions


def _prompt_of(req_state: Any) -> Any:
    """What positions follow from: the prompt's tokens, and which pictures (by their hashes) are where."""
    if req_state.prompt_token_ids is None:
        return None
    pictures = [(each.identifier, each.mm_position.offset, each.mm_position.length) for each in req_state.mm_features]
    return req_state.prompt_token_ids, pictures
