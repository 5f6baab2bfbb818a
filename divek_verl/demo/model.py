"""A Qwen2.5-VL of about 3 million parameters, with a processor and a tokenizer of its own.

Nothing is downloaded: the tokenizer is trained on the texts that the demo uses. It keeps Qwen's special tokens,
pre-tokenizer and chat format, so verl and vLLM treat the model as any Qwen2.5-VL.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from divek_verl.cpu.torchvision_stub import define_missing_operators
from divek_verl.errors import SetupError

define_missing_operators()

from transformers import (  # noqa: E402  (torchvision has to be prepared first)
    AddedToken,
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    set_seed,
)

_SPECIAL_NAMES = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end "
    "vision_start vision_end vision_pad image_pad video_pad"
)
SPECIAL_TOKENS = tuple(f"<|{name}|>" for name in _SPECIAL_NAMES.split())
# The files of a trained vision tower: its part of the configuration, and its weights.
TOWER_CONFIG, TOWER_WEIGHTS = "tower.json", "tower.safetensors"
ANSWER_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_BPE_SIZE = 512
_ROPE_THETA = 10000.0

# Starting point of the look-up: see _prepare_look_up.
_OFFSETS = (1, 2, 3, 4)
_MATCHING_HEADS = 4
_EMBEDDING_SCALE = 3.75
_OUTPUT_SCALE = 0.1
_HEAD_SCALE = 0.4

# Qwen2.5-VL's chat template without the default system message, which would take a third of the demo's prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def use_one_thread() -> None:
    """Compute on one thread, unless ``OMP_NUM_THREADS`` says otherwise.

    A second thread saves at most a quarter of a step of this small model. Beside another busy process it made a step
    19 times slower, because each of the many short parallel sections waits for both threads (benchmarks/threads.py).
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def build_tokenizer(texts: Iterable[str], names: Sequence[str]) -> Qwen2Tokenizer:
    """A byte-level BPE trained on `texts` in which " <name>", with its space, is one token for each of `names`.

    Single tokens matter: a model this small learns to look an option up by its name only when the name is one token.
    """
    bpe = Qwen2Tokenizer().backend_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=_BPE_SIZE, min_frequency=1, show_progress=False, initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(pair) for pair in trained["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=4096,
    )
    words = [*ANSWER_TAGS, *(f" {name}" for name in names)]
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's processor around `tokenizer`: patches of 14 pixels, merged 2 by 2."""
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: Qwen2Tokenizer, vision: Mapping[str, Any] | None = None) -> Qwen2_5_VLConfig:
    """The configuration of the demo model for `tokenizer`; `vision` changes that of its vision tower."""
    special = ("<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    end, pad, image, video, start, stop = tokenizer.convert_tokens_to_ids(list(special))
    # With the usual 0.02, a model this narrow does not learn to look a name up among the options.
    initializer_range = 0.08
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": 4096,
        "initializer_range": initializer_range,
        "rms_norm_eps": 1e-6,
        # head_dim / 2 = 16 rotary frequencies for time, height and width in Qwen2.5-VL's proportion 1 : 1.5 : 1.5
        "rope_parameters": {"rope_type": "default", "rope_theta": _ROPE_THETA, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "use_cache": True,
        "tie_word_embeddings": True,
    }
    tower = {
        "depth": 3,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_heads": 4,
        "out_hidden_size": 192,
        "window_size": 112,
        "fullatt_block_indexes": [0, 1, 2],
        "initializer_range": initializer_range,
        **(vision or {}),
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=tower,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=stop,
        tie_word_embeddings=True,
        initializer_range=initializer_range,
    )


def build_model(tokenizer: Qwen2Tokenizer, seed: int, tower: Path | None = None) -> Qwen2_5_VLForConditionalGeneration:
    """An untrained model in fp32; the same seed gives the same weights.

    `tower` is a folder with a trained vision tower: `TOWER_CONFIG` and `TOWER_WEIGHTS`.
    """
    set_seed(seed)
    vision = json.loads((tower / TOWER_CONFIG).read_text(encoding="utf-8")) if tower else None
    model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer, vision)).float()
    if tower:
        model.model.visual.load_state_dict(load_file(tower / TOWER_WEIGHTS))
    _prepare_look_up(model)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def _prepare_look_up(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Initialise the attention heads so that looking a name up among the options is easy to learn.

    Finding the letter of a named option is a two-step look-up (an induction circuit), which gradient descent finds
    late and suddenly. If the heads start in the pattern of trained transformers, it appears within half a minute
    (mimetic initialisation: Trockman and Kolter 2023, arXiv 2305.09828): heads of the first layer look a fixed number
    of tokens back, heads of the other layers look at tokens like their own. Nothing is frozen.
    """
    decoder = model.model.language_model
    with torch.no_grad():
        # Heads can compare tokens only while the embedding outweighs what the layers add to it.
        decoder.embed_tokens.weight *= _EMBEDDING_SCALE
        decoder.norm.weight /= _EMBEDDING_SCALE
        for layer in decoder.layers:
            layer.self_attn.o_proj.weight *= _OUTPUT_SCALE
            layer.mlp.down_proj.weight *= _OUTPUT_SCALE
        for head, offset in enumerate(_OFFSETS):
            _look_back(decoder.layers[0].self_attn, head, offset)
        for layer in decoder.layers[1:]:
            for head in range(_MATCHING_HEADS):
                _look_at_alike(layer.self_attn, head)


def _rows(attention: torch.nn.Module, head: int) -> slice:
    return slice(head * attention.head_dim, (head + 1) * attention.head_dim)


def _angles(attention: torch.nn.Module) -> torch.Tensor:
    """The rotation of each rotary frequency from one token to the next, in radians, fastest first."""
    half = attention.head_dim // 2
    return _ROPE_THETA ** (-torch.arange(half) / half)


def _look_back(attention: torch.nn.Module, head: int, offset: int) -> None:
    """Biases whose rotary product is largest `offset` tokens back, whatever the tokens are."""
    rows, angles = _rows(attention, head), _angles(attention)
    strength = torch.zeros(len(angles))
    strength[: len(angles) // 2] = 6.0
    turned = -offset * angles
    attention.q_proj.weight[rows] *= 0.3
    attention.k_proj.weight[rows] *= 0.3
    attention.q_proj.bias[rows] = torch.cat([strength * turned.cos(), strength * turned.sin()])
    attention.k_proj.bias[rows] = torch.cat([strength, torch.zeros_like(strength)])
    attention.o_proj.weight[:, rows] *= _HEAD_SCALE / _OUTPUT_SCALE


def _look_at_alike(attention: torch.nn.Module, head: int) -> None:
    """Equal queries and keys, only in the slow rotary frequencies, so that distance hardly counts."""
    rows, angles = _rows(attention, head), _angles(attention)
    slow = torch.cat([angles < 0.05] * 2).float()[:, None]
    attention.q_proj.weight[rows] *= 1.2 * slow
    attention.k_proj.weight[rows] = attention.q_proj.weight[rows]
    attention.o_proj.weight[:, rows] *= _HEAD_SCALE / _OUTPUT_SCALE


def image_tokens(processor: Qwen2_5_VLProcessor, image: torch.Tensor) -> int:
    """The number of placeholder tokens of one picture (uint8, shape (3, height, width))."""
    grid = processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"]
    return int(grid[0].prod()) // processor.image_processor.merge_size**2


def picture_inputs(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    images: Sequence[torch.Tensor],
    tokens: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The model's further inputs for `tokens`, shape (batch, length), with one picture in each sequence.

    All pictures have the same size and position in their sequence, so the position ids of the first serve all.
    """
    inputs = processor.image_processor(images=list(images), return_tensors="pt")
    kinds = (tokens[:1] == processor.image_token_id).int()
    positions, _ = model.model.get_rope_index(tokens[:1], kinds, image_grid_thw=inputs["image_grid_thw"][:1])
    return {**inputs, "position_ids": positions.expand(-1, len(tokens), -1)}


def save(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, folder: Path) -> None:
    """Write weights, configuration, processor and tokenizer for `from_pretrained` and vLLM."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)


def load(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """The model that `save` wrote, in fp32 and evaluation mode, with its processor."""
    if not (folder / "config.json").is_file():
        raise SetupError(f"{folder} holds no model: make one with python -m divek_verl.demo.warm_start.")
    network = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return network.eval(), Qwen2_5_VLProcessor.from_pretrained(folder)
