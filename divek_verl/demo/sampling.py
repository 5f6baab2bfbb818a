"""Answers of the demo model, sampled in batches with a key-value cache and without a server."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from divek_verl.demo import model

MAX_NEW_TOKENS = 16
_BATCH = 32


@dataclass(frozen=True)
class Prompt:
    """Prompt tokens and the picture (uint8, shape (3, height, width)) that their placeholders stand for."""

    tokens: list[int]
    image: torch.Tensor | None = None


@dataclass(frozen=True)
class Sampler:
    """A model with its processor, and how its next token is drawn (temperature 0: the most likely one)."""

    network: model.Qwen2_5_VLForConditionalGeneration
    processor: model.Qwen2_5_VLProcessor
    temperature: float = 1.0
    top_p: float = 1.0

    @torch.inference_mode()
    def sample(self, prompts: Sequence[Prompt], count: int, seed: str) -> list[list[str]]:
        """`count` completions of each prompt, in the order of `prompts`."""
        generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
        completions: dict[int, list[str]] = {}
        for numbers in _batches(prompts):
            tokens = self._complete([prompts[number] for number in numbers], count, generator)
            texts = self.processor.tokenizer.batch_decode(
                _until_end(tokens, self._ends), skip_special_tokens=True
            )
            completions |= {n: texts[i * count : (i + 1) * count] for i, n in enumerate(numbers)}
        return [completions[number] for number in range(len(prompts))]

    @property
    def _ends(self) -> set[int]:
        return {self.processor.tokenizer.eos_token_id, self.processor.tokenizer.pad_token_id}

    def _complete(self, prompts: Sequence[Prompt], count: int, generator: torch.Generator) -> torch.Tensor:
        """Completions of prompts of one length, `count` in a row for each; shape (prompts * count, new tokens)."""
        tokens = torch.tensor([prompt.tokens for prompt in prompts])
        images = [prompt.image for prompt in prompts if prompt.image is not None]
        seen = model.picture_inputs(self.network, self.processor, images, tokens) if images else _text(tokens)
        position = int(seen["position_ids"].max())
        output = self.network(input_ids=tokens, use_cache=True, logits_to_keep=1, **seen)
        cache = output.past_key_values
        cache.batch_repeat_interleave(count)
        logits = output.logits[:, -1].repeat_interleave(count, dim=0)
        new: list[torch.Tensor] = []
        for _ in range(MAX_NEW_TOKENS):
            new.append(self._draw(logits, generator))
            position += 1
            if torch.isin(torch.stack(new), torch.tensor(sorted(self._ends))).any(dim=0).all():
                break
            positions = torch.full((3, len(logits), 1), position)
            output = self.network(
                input_ids=new[-1][:, None], past_key_values=cache, position_ids=positions, use_cache=True
            )
            logits = output.logits[:, -1]
        return torch.stack(new, dim=1)

    def _draw(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        ranked, order = (logits / self.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        # top_p keeps the most likely tokens up to the one that reaches it.
        ranked[ranked.cumsum(dim=-1) - ranked >= self.top_p] = 0.0
        return order.gather(-1, torch.multinomial(ranked, 1, generator=generator))[:, 0]


def _text(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Positions of a prompt without a picture: time, height and width all count tokens."""
    return {"position_ids": torch.arange(tokens.shape[1]).expand(3, *tokens.shape)}


def _batches(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Numbers of prompts that can run together without padding: of one length, all with a picture or all without."""
    alike: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        alike[len(prompt.tokens), prompt.image is None].append(number)
    for numbers in alike.values():
        for start in range(0, len(numbers), _BATCH):
            yield numbers[start : start + _BATCH]


def _until_end(tokens: torch.Tensor, ends: set[int]) -> list[list[int]]:
    rows = []
    for row in tokens.tolist():
        end = next((place for place, token in enumerate(row) if token in ends), len(row))
        rows.append(row[:end])
    return rows
