"""The token ids of an open question, without the pixels of its picture.

verl's token builder runs a model's whole processor and discards the pixels, because vLLM processes the picture again.
A prompt only needs to know how many tokens a picture takes, and that follows from its size.
"""

import logging
from collections.abc import Sequence

from PIL import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopBase

logger = logging.getLogger(__name__)


class PromptTokens:
    """Builds the prompts of one agent loop, without processing pictures if it can.

    The first prompt with a picture is also built verl's way (``verl/utils/tokenizer/continuous_token.py``:
    ``build_initial_tokens``). If the two differ, as for a processor of another kind, verl's way is used from then on.

    Args:
        loop: an agent loop of verl's (``verl/experimental/agent_loop/agent_loop.py``).
    """

    def __init__(self, loop: AgentLoopBase) -> None:
        self._loop = loop
        self._agrees: bool | None = None if can_count(loop) else False

    def __call__(self, messages: list[dict], images: Sequence[Image.Image] | None) -> list[int]:
        """The prompt's token ids, a picture's placeholders repeated; takes milliseconds, so call it in a thread.

        Raises:
            ValueError: a prompt with a picture is longer than ``rollout.prompt_length``; it cannot be cut.
        """
        token_ids = self._build(messages, images)
        limit = self._loop.rollout_config.prompt_length
        if images and len(token_ids) > limit:
            raise ValueError(f"{len(token_ids)} tokens, data.max_prompt_length={limit}")
        return list(self._loop._cap_text_prompt_length(token_ids))

    def _build(self, messages: list[dict], images: Sequence[Image.Image] | None) -> list[int]:
        if not images or self._agrees is False:
            return self._processed(messages, images)
        counted = self._counted(messages, images)
        if self._agrees is None:
            processed = self._processed(messages, images)
            self._agrees = counted == processed
            if not self._agrees:
                logger.warning("divek_verl: this model's pictures are processed to count their tokens (slower)")
            return processed
        return counted

    def _processed(self, messages: list[dict], images: Sequence[Image.Image] | None) -> list[int]:
        builder = self._loop.continuous_token_builder
        return list(builder.build_initial_tokens(messages, images=list(images) if images else None))

    def _counted(self, messages: list[dict], images: Sequence[Image.Image]) -> list[int]:
        from verl.utils.tokenizer.chat_template import apply_chat_template

        processor = self._loop.processor
        options = {**self._loop.apply_chat_template_kwargs, "add_generation_prompt": True, "tokenize": False}
        text = apply_chat_template(processor, messages, **options)
        counts = processor._get_num_multimodal_tokens(image_sizes=[(image.height, image.width) for image in images])
        return _repeated(processor.tokenizer(text)["input_ids"], processor.image_token_id, counts["num_image_tokens"])


def can_count(loop: AgentLoopBase) -> bool:
    """Whether the processor can tell a picture's tokens from its size, with no options that change its pixels."""
    needed = ("image_token_id", "_get_num_multimodal_tokens")
    return all(hasattr(loop.processor, name) for name in needed) and not loop.mm_processor_kwargs


def _repeated(token_ids: Sequence[int], placeholder: int, counts: Sequence[int]) -> list[int]:
    """``token_ids`` with the n-th placeholder repeated ``counts[n]`` times."""
    left = iter(counts)
    return [each for token in token_ids for each in [token] * (next(left, 1) if token == placeholder else 1)]
