"""Repairs of verl bugs: one function each, with the upstream issue and the versions that need it.

Each has a test in ``tests/test_compat.py`` that fails when the repair no longer works or is no longer needed.
"""

import functools
from typing import Any

import wrapt
from packaging.specifiers import SpecifierSet


def _needed(versions: str) -> bool:
    from importlib.metadata import version

    return SpecifierSet(versions).contains(version("verl"), prereleases=True)


def rebuild_position_ids(data: Any) -> None:
    """Give nested mRoPE ``position_ids`` of shape (batch, components, length) their ragged dimension back.

    verl #7899: where all sequences of a batch have one length (so also in a batch of one), torch takes the
    component dimension for the ragged one, and ``maybe_fix_3d_position_ids`` then only relabels it: the next
    ``unbind`` fails with "split_with_sizes expects split_sizes to sum exactly to ...". Here the tensor is rebuilt.
    """
    from verl.utils.tensordict_utils import nested_tensor_from_tensor_list

    if "position_ids" not in data.keys():  # noqa: SIM118  (a TensorDict's `in` looks at nested keys)
        return
    position_ids = data["position_ids"]
    if not position_ids.is_nested or position_ids.dim() != 3:
        return
    values, offsets = position_ids._values, position_ids._offsets
    flipped = int(offsets[-1]) == values.shape[0]
    if not flipped:
        position_ids._ragged_idx = 2
        return
    rows = list(values.split(offsets.diff().tolist(), dim=0))
    data["position_ids"] = nested_tensor_from_tensor_list(rows, ragged_idx=2)


def repair_equal_length_mrope(module: Any) -> None:
    """verl #7899, in ``verl.utils.tensordict_utils``."""
    module.maybe_fix_3d_position_ids = rebuild_position_ids


def repair_text_only_batches(module: Any) -> None:
    """``verl.models.transformers.qwen2_vl``: a micro-batch without a picture, as when another task is mixed in.

    verl then runs the vision tower on a blank picture, so that all ranks take part in its collectives, and calls
    ``mean()`` on what it returns. Under transformers 5 that is an output object and no tensor, so training dies with
    "'BaseModelOutputWithPooling' object has no attribute 'mean'". No upstream issue is known for it (2026-11).
    """
    original = module._get_input_embeds

    @functools.wraps(original)
    def get_input_embeds(
        model: Any,
        input_ids: Any,
        attention_mask: Any = None,
        pixel_values: Any = None,
        pixel_values_videos: Any = None,
        *grids: Any,
        **named_grids: Any,
    ) -> Any:
        if pixel_values is not None or pixel_values_videos is not None:
            pixels = (pixel_values, pixel_values_videos)
            return original(model, input_ids, attention_mask, *pixels, *grids, **named_grids)
        embeddings = model.get_input_embeddings()(input_ids)
        features, _ = module.unpack_visual_output(_see_nothing(model, embeddings))
        mask = None if attention_mask is None else attention_mask.to(embeddings.device)
        return embeddings + 0.0 * features.mean(), mask

    module._get_input_embeds = get_input_embeds


def _see_nothing(model: Any, like: Any) -> Any:
    """The vision tower's output for a blank picture of four by four patches."""
    import torch

    vision = model.config.vision_config
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    grid = torch.tensor([[1, 4, 4]], dtype=torch.long, device=like.device)
    return model.visual(like.new_zeros((16, patch)), grid_thw=grid)


def register_hooks() -> None:
    """Apply each repair that the installed verl needs as soon as the module that it mends is imported."""
    if _needed(">=0.9.0,<0.10"):
        wrapt.register_post_import_hook(repair_equal_length_mrope, "verl.utils.tensordict_utils")
        wrapt.register_post_import_hook(repair_text_only_batches, "verl.models.transformers.qwen2_vl")
