"""From chat messages to what an engine is given: the prompt's text, and its pictures read and sized as in training."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from divek_verl.images import UnreadableImage, load_picture


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation, and its pictures in the order of their places in it."""

    text: str
    images: list[Image.Image]


def read_pictures(messages: Sequence[Mapping[str, Any]], patch_size: int = 14) -> list[Image.Image]:
    """The pictures of a conversation, within its pixel bounds and cut to whole patches, as verl's rollouts see them.

    Raises:
        UnreadableImage: one of them cannot be read.
    """
    from qwen_vl_utils import process_vision_info

    decoded = _decoded(messages)
    try:
        images, _ = process_vision_info(decoded, image_patch_size=patch_size)
    except ValueError as error:
        raise UnreadableImage("the picture", f"cannot be sized ({error})") from error
    return images or []


def _decoded(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The conversation with its pictures decoded and upright, as in training; qwen-vl-utils ignores orientation."""
    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": list(map(_upright, message["content"]))}
        for message in messages
    ]


def _upright(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part["type"] != "image" or isinstance(part["image"], Image.Image):
        return part
    return {**part, "image": load_picture(part["image"])}


class PromptBuilder:
    """Renders conversations with the chat template of a model's own processor."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.patch_size = int(getattr(getattr(processor, "image_processor", None), "patch_size", 14))

    def __call__(self, messages: Sequence[Mapping[str, Any]]) -> Prompt:
        """Raises UnreadableImage."""
        images = read_pictures(messages, self.patch_size)
        template = self.processor.apply_chat_template
        return Prompt(template(list(messages), add_generation_prompt=True, tokenize=False), images)

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Token ids of the text, with one placeholder for each picture; the engine makes room for its patches."""
        return list(self.processor.tokenizer(prompt.text)["input_ids"])


def to_chat(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation in OpenAI's form, each picture as a data URL (PNG, so that no pixel changes).

    Raises:
        UnreadableImage: a picture cannot be read.
    """
    return [{**message, "content": _parts(message["content"])} for message in messages]


def _parts(content: Any) -> Any:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "image":
        return part
    (image,) = read_pictures([{"role": "user", "content": [part]}])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
