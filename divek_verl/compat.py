"""Repairs of verl bugs: one function each, with the upstream issue and the versions that need it.

Each has a test in ``tests/test_compat.py`` that fails when the repair no longer works or is no longer needed.
"""

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


def register_hooks() -> None:
    """Apply each repair that the installed verl needs as soon as the module that it mends is imported."""
    if _needed(">=0.9.0,<0.10"):
        wrapt.register_post_import_hook(repair_equal_length_mrope, "verl.utils.tensordict_utils")
