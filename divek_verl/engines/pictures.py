"""Chat messages as an engine takes them: the prompt's text, and its pictures read and sized as in training."""

import base64
import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from divek_verl.images import UnreadableImage, load_picture
from divek_verl.prompts import Message

if TYPE_CHECKING:
    from transformers import ProcessorMixin


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation, and its pictures in order."""

    text: str
    images: list[Image.Image]


def read_pictures(messages: Sequence[Message], patch_size: int = 14) -> list[Image.Image]:
    """The pictures of a conversation within its pixel bounds, cut to whole patches as in verl; or UnreadableImage."""
    from qwen_vl_utils import process_vision_info

    def upright(part: Message) -> Message:
        # qwen-vl-utils would ignore the orientation.
        is_file = part["type"] == "image" and not isinstance(part["image"], Image.Image)
        return {**part, "image": load_picture(part["image"])} if is_file else part

    decoded = [_with_parts(message, upright) for message in messages]
    try:
        images, _ = process_vision_info(decoded, image_patch_size=patch_size)
    except ValueError as error:
        raise UnreadableImage("the picture", f"cannot be sized ({error})") from error
    return images or []


def to_chat(messages: Sequence[Message]) -> list[Message]:
    """The conversation in OpenAI's form, pictures as PNG data URLs, so that no pixel changes; or UnreadableImage."""

    def encoded(part: Message) -> Message:
        if part["type"] != "image":
            return part
        (image,) = read_pictures([{"role": "user", "content": [part]}])
        buffer = io.BytesIO()
        # Matching only runs halves the time of a photograph, and its size stays the same.
        image.save(buffer, format="PNG", compress_type=zlib.Z_RLE)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    return [_with_parts(message, encoded) for message in messages]


def _with_parts(message: Message, change: Callable[[Message], Message]) -> Message:
    content = message["content"]
    return message if isinstance(content, str) else {**message, "content": [change(part) for part in content]}


class PromptBuilder:
    """Renders conversations with the chat template of a model's own processor."""

    def __init__(self, processor: "ProcessorMixin") -> None:
        self.processor = processor
        self.patch_size = int(getattr(getattr(processor, "image_processor", None), "patch_size", 14))

    def __call__(self, messages: Sequence[Message]) -> Prompt:
        """Raises UnreadableImage."""
        images = read_pictures(messages, self.patch_size)
        template = self.processor.apply_chat_template
        return Prompt(template(list(messages), add_generation_prompt=True, tokenize=False), images)

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Token ids of the text, with one placeholder for each picture; the engine makes room for its patches."""
        return list(self.processor.tokenizer(prompt.text)["input_ids"])
