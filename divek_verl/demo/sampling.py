"""Answers of the demo model, sampled in batches with a key-value cache and without a server."""

import random
from collections import Counter, defaultdict
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
        """`count` completions of each prompt, in the order of `prompts`; equal completions stand together."""
        generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
        completions: dict[int, list[str]] = {}
        for numbers in _batches(prompts):
            tokens = self._complete([prompts[number] for number in numbers], count, generator)
            completions |= {number: self._decode(each) for number, each in zip(numbers, tokens, strict=True)}
        return [completions[number] for number in range(len(prompts))]

    def _decode(self, tokens: list[list[int]]) -> list[str]:
        return list(self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True))

    def _complete(self, prompts: Sequence[Prompt], count: int, generator: torch.Generator) -> list[list[list[int]]]:
        """`count` completions of each prompt, all prompts of one length, as token numbers without the end token.

        Completions that began alike are computed once: a row stands for all of them and splits where they part.
        """
        ends = {self.processor.tokenizer.eos_token_id, self.processor.tokenizer.pad_token_id}
        complete: list[list[list[int]]] = [[] for _ in prompts]
        rows = [_Row(number, count, []) for number in range(len(prompts))]
        tokens = torch.tensor([prompt.tokens for prompt in prompts])
        images = [prompt.image for prompt in prompts if prompt.image is not None]
        seen = model.picture_inputs(self.network, self.processor, images, tokens) if images else _text(tokens)
        position = int(seen["position_ids"].max())
        output = self.network(input_ids=tokens, use_cache=True, logits_to_keep=1, **seen)
        for step in range(MAX_NEW_TOKENS):
            parents, rows = self._split(rows, output.logits[:, -1], generator)
            going = []
            for place, row in enumerate(rows):
                if row.tokens[-1] in ends or step == MAX_NEW_TOKENS - 1:
                    complete[row.prompt] += [[t for t in row.tokens if t not in ends]] * row.count
                else:
                    going.append(place)
            if not going:
                break
            rows = [rows[place] for place in going]
            output.past_key_values.batch_select_indices(torch.tensor([parents[place] for place in going]))
            position += 1
            output = self.network(
                input_ids=torch.tensor([[row.tokens[-1]] for row in rows]),
                past_key_values=output.past_key_values,
                position_ids=torch.full((3, len(rows), 1), position),
                use_cache=True,
            )
        return complete

    def _split(
        self, rows: "list[_Row]", logits: torch.Tensor, generator: torch.Generator
    ) -> "tuple[list[int], list[_Row]]":
        """The rows after one more token, and for each the place of the row that it came from."""
        drawn = self._draw(logits, max(row.count for row in rows), generator).tolist()
        parents, after = [], []
        for place, row in enumerate(rows):
            for token, count in Counter(drawn[place][: row.count]).items():
                parents.append(place)
                after.append(_Row(row.prompt, count, [*row.tokens, token]))
        return parents, after

    def _draw(self, logits: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
        """`count` independent draws of the next token of every row; shape (rows, count)."""
        if self.temperature == 0:
            return logits.argmax(dim=-1, keepdim=True).expand(-1, count)
        ranked, order = (logits / self.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        # top_p keeps the most likely tokens up to the one that reaches it.
        ranked[ranked.cumsum(dim=-1) - ranked >= self.top_p] = 0.0
        return order.gather(-1, torch.multinomial(ranked, count, replacement=True, generator=generator))


@dataclass(frozen=True)
class _Row:
    """`count` completions of one prompt that are equal so far."""

    prompt: int
    count: int
    tokens: list[int]


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
