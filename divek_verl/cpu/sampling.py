"""vLLM's sampler on a CPU: the same draws without sorting every sequence's logits, and every seed is kept.

Of a step of 256 sequences of the demo's model, vLLM's own takes a third. For top-p it sorts all logits with their
places; it draws noise twice, number by number, where all sequences have a seed; and it ignores all seeds of a batch in
which one sequence has none or is greedy (on GPUs it does not).
"""

import functools
from typing import Any

import torch

SAMPLER_MODULE = "vllm.v1.sample.sampler"
DRAWING_MODULE = "vllm.v1.sample.ops.topk_topp_sampler"
# A sum of probabilities in another order may be off by so much; who is closer to the border is looked at exactly.
ROUNDING = 1e-3
# Numbers in double precision, which bounds their memory for large vocabularies.
DRAWN_AT_ONCE = 2**18


def exponential_noise(logits: torch.Tensor, generators: dict[int, torch.Generator]) -> torch.Tensor:
    """Noise of the shape of ``logits``, float32; a row that has a generator takes it from there.

    It is bit by bit that of torch's ``exponential_``, which takes one logarithm after the other.
    """
    noise = torch.empty(logits.shape)
    at_once = max(1, DRAWN_AT_ONCE // logits.shape[1])
    for first in range(0, len(noise), at_once):
        rows = noise[first : first + at_once]
        uniform = torch.empty(rows.shape, dtype=torch.float64)
        seeded = [(row, generators[index]) for index, row in enumerate(uniform, first) if index in generators]
        if len(seeded) < len(uniform):
            uniform.uniform_()
        for row, generator in seeded:
            row.uniform_(generator=generator)
        rows.copy_(uniform.neg_().log1p_().neg_())
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


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Those of the next token, float32."""
    return logits.softmax(dim=-1, dtype=torch.float32)


def draw(probs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A token for each row of ``probs``, which the noise decides: (sequences,)."""
    return (probs / noise).argmax(dim=-1)


def draw_from_nucleus(logits: torch.Tensor, noise: torch.Tensor, p: torch.Tensor, mask: Any) -> torch.Tensor:
    """What ``draw`` would draw from the logits after top-p; ``mask`` applies that to a few rows and their ``p``.

    A token is drawn from all, and only if it may be outside of the nucleus its row is masked and drawn from again, with
    the noise that it had. A token within is what would have been drawn from the nucleus too, for the noise decides and
    the masked tokens did not win.
    """
    probs = probabilities(logits)
    drawn = draw(probs, noise)
    rows = may_be_outside(probs, drawn, p)
    if len(rows):
        drawn[rows] = draw(probabilities(mask(logits[rows], p[rows])), noise[rows])
    return drawn


def note_whether_logprobs_are_asked(module: Any) -> None:
    """``vllm.v1.sample.sampler``: what is drawn from has to be made only where a request wants to see it.

    verl's engines are set to hand back the logprobs after top-p; mining asks for none.
    """
    original = module.Sampler.sample

    @functools.wraps(original)
    def sample(self: Any, logits: torch.Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        asked = sampling_metadata.max_num_logprobs is not None or bool(sampling_metadata.logprob_token_ids)
        self.topk_topp_sampler.divek_logprobs_asked = asked
        return original(self, logits, sampling_metadata, *args, **kwargs)

    module.Sampler.sample = sample


def draw_without_sorting(module: Any) -> None:
    """``vllm.v1.sample.ops.topk_topp_sampler``; no upstream issue is known for it (2026-11)."""
    original = module.TopKTopPSampler.forward_cpu
    handed_back = {
        "processed_logits": lambda logits: logits,
        "processed_logprobs": lambda logits: logits.log_softmax(dim=-1, dtype=torch.float32),
    }

    @functools.wraps(original)
    def forward_cpu(
        self: Any,
        logits: torch.Tensor,
        generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> Any:
        if self.use_fp64_gumbel:
            return original(self, logits, generators, k, p)
        noise = exponential_noise(logits, generators)
        if self.logprobs_mode in handed_back and getattr(self, "divek_logprobs_asked", True):
            within = module.apply_top_k_top_p(logits, k, p)
            return draw(probabilities(within), noise), handed_back[self.logprobs_mode](within)
        if k is not None:
            logits = module.apply_top_k_top_p(logits, k, None)
        if p is None:
            return draw(probabilities(logits), noise), None
        return draw_from_nucleus(logits, noise, p, lambda few, p: module.apply_top_k_top_p(few, None, p)), None

    module.TopKTopPSampler.forward_cpu = forward_cpu
