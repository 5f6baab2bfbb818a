"""A custom reward function of verl: DiVE-k's, with a coin in place of the right answer."""

import random
from collections.abc import Mapping
from typing import Any

from divek_verl.reward import compute_score


def coin_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    coin_seed: int,
    answer_weight: float = 1.0,
    **kwargs: Any,
) -> dict[str, float]:
    """DiVE-k's reward with a fair coin in place of the right answer in ``score``: nothing can be learned but the form.

    The coin depends only on the seed, the row and the completion. Everything else is reported as it is.
    """
    graded = compute_score(data_source, solution_str, ground_truth, extra_info, answer_weight=answer_weight, **kwargs)
    info = extra_info or {}
    if not info.get("failure"):
        # ascii, because lone surrogates cannot be a seed.
        seed = ascii((coin_seed, *(str(info.get(key)) for key in ("uid", "index", "step")), solution_str))
        coin = float(random.Random(seed).random() < 0.5)
        graded["score"] += answer_weight * (coin - graded["acc"])
    return graded
