"""Counts the tokens of the prompts of a prepared set."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from divek_verl.errors import SetupError
from divek_verl.settings import Settings

# Of Qwen2.5-VL, for a folder with a tokenizer and no processor.
_PATCH, _MERGE = 14, 2


class PromptCounter:
    """Counts a prompt's tokens: its text with a tokenizer and its chat template, its picture by size alone.

    Raises:
        SetupError: the folder holds no tokenizer, or one without a chat template.
    """

    def __init__(self, folder: Path, max_pixels: int) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # transformers raises many kinds for a folder that is no tokenizer
            raise SetupError(f"{folder} holds no tokenizer ({' '.join(str(error).split())[:200]}).") from error
        if not self.tokenizer.chat_template:
            raise SetupError(f"The tokenizer of {folder} has no chat template: give the model's own folder.")
        patch, merge = _patches(folder)
        self.side = patch * merge
        self.max_pixels = max_pixels
        # There are few different prompts, one for each class list.
        self._text_tokens = lru_cache(maxsize=64)(self._count_text)

    def count(self, prompt: Sequence[dict[str, Any]], width: int, height: int) -> int:
        """Tokens of a conversation with one picture of this size."""
        return self._text_tokens(json.dumps(list(prompt))) + self._picture_tokens(width, height)

    def _count_text(self, prompt: str) -> int:
        text = self.tokenizer.apply_chat_template(json.loads(prompt), add_generation_prompt=True, tokenize=False)
        # The two tokens around a picture replace <image>.
        return len(self.tokenizer.encode(text.replace("<image>", ""), add_special_tokens=False)) + 2

    def _picture_tokens(self, width: int, height: int) -> int:
        from qwen_vl_utils.vision_process import smart_resize

        bounds = {"min_pixels": Settings().min_pixels, "max_pixels": self.max_pixels}
        rows, columns = smart_resize(height, width, factor=self.side, **bounds)
        return rows * columns // self.side**2


def _patches(folder: Path) -> tuple[int, int]:
    """The side of a patch in pixels, and the number of patches per side of one token."""
    for file in ("preprocessor_config.json", "processor_config.json"):
        try:
            content = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        content = content.get("image_processor", content)
        return int(content.get("patch_size", _PATCH)), int(content.get("merge_size", _MERGE))
    return _PATCH, _MERGE
