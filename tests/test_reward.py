import math
import sys
from types import ModuleType
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.reward import compute_score

KEYS = {"score", "acc", "format", "answered", "one_step_greedy", "one_step", "consistency", "recall", "pass_at_k"}
OPTIONS = ["Sooty Tern", "Brandt's Cormorant", "Common Gull"]
TRAIN = {"num_options": 3, "options": OPTIONS, "truth": "Brandt's Cormorant"}
SOURCE = "divek/cub/base"


def _completion(answer: str) -> str:
    return f"<think>Hm.</think><answer>{answer}</answer>"


def _score(completion: str, ground_truth: Any = "B", extra_info: Any = None, **kwargs: Any) -> dict[str, float]:
    return compute_score(SOURCE, completion, ground_truth, TRAIN if extra_info is None else extra_info, **kwargs)


def test_the_right_option_in_format_is_worth_both_rewards() -> None:
    assert _score(_completion("B")) == {
        **{"score": 2.0, "acc": 1.0, "format": 1.0, "answered": 1.0},
        **{"one_step_greedy": 0.0, "one_step": 0.0, "consistency": 0.0, "recall": 0.0, "pass_at_k": 0.0},
    }


@pytest.mark.parametrize(
    ("completion", "score", "acc", "well_formed", "answered"),
    [
        (_completion("b. Brandt's Cormorant"), 2.0, 1.0, 1.0, 1.0),
        ("<answer>B</answer>", 1.0, 1.0, 0.0, 1.0),
        (_completion("A"), 1.0, 0.0, 1.0, 1.0),
        (_completion("D"), 1.0, 0.0, 1.0, 0.0),  # beyond the options
        (_completion("A bird"), 1.0, 0.0, 1.0, 0.0),
        (_completion("Brandt's Cormorant"), 1.0, 0.0, 1.0, 0.0),  # the letter is asked for
        ("B", 0.0, 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_format_and_answer_are_graded_apart(
    completion: str, score: float, acc: float, well_formed: float, answered: float
) -> None:
    result = _score(completion)
    assert [result[key] for key in ("score", "acc", "format", "answered")] == [score, acc, well_formed, answered]


def test_weights_scale_the_parts() -> None:
    assert _score(_completion("B"), format_weight=0.25, answer_weight=3)["score"] == 3.25
    assert _score(_completion("A"), format_weight=0.25, answer_weight=3)["score"] == 0.25


def test_reasoning_below_the_bar_earns_no_format() -> None:
    assert _score(_completion("B"), min_think_characters=3)["score"] == 2.0
    below = _score(_completion("B"), min_think_characters=4)
    assert (below["score"], below["format"], below["acc"]) == (1.0, 0.0, 1.0)
    with pytest.raises(SetupError, match="min_think_characters"):
        _score(_completion("B"), min_think_characters="long")


@pytest.mark.parametrize("weight", [math.nan, math.inf, None, "1"])
def test_an_impossible_weight_is_refused(weight: Any) -> None:
    with pytest.raises(SetupError, match="format_weight"):
        _score(_completion("B"), format_weight=weight)


@pytest.mark.parametrize("ground_truth", ["", None, "brandt cormorant"])
@pytest.mark.parametrize("options", [OPTIONS, tuple(OPTIONS), numpy.array(OPTIONS), numpy.array(OPTIONS, dtype=object)])
def test_in_validation_the_chosen_option_must_be_the_true_class(ground_truth: str | None, options: Any) -> None:
    info = {"num_options": numpy.int64(3), "options": options, "truth": "Brandt's Cormorant"}
    assert _score(_completion("B"), ground_truth, info)["acc"] == 1.0
    assert _score(_completion("C"), ground_truth, info)["acc"] == 0.0


def test_in_validation_no_option_is_right_when_the_truth_is_missing() -> None:
    info = {"options": OPTIONS, "num_options": 3, "truth": "Emu"}
    assert [_score(_completion(letter), "", info)["acc"] for letter in "ABC"] == [0.0, 0.0, 0.0]


def test_a_question_without_any_truth_is_never_right() -> None:
    assert _score(_completion("A"), "", {"options": OPTIONS, "truth": None})["acc"] == 0.0


@pytest.mark.parametrize("options", [None, [], numpy.array([])])
@pytest.mark.parametrize("extra", [{}, {"classes": OPTIONS}])
def test_an_open_question_is_graded_by_class(options: Any, extra: dict[str, Any]) -> None:
    info = {"options": options, **extra}
    assert _score(_completion("brandt cormorant"), "Brandt's Cormorant", info)["score"] == 2.0
    wrong = _score(_completion("the Brandt's Cormorant"), "Brandt's Cormorant", info)
    assert (wrong["acc"], wrong["answered"]) == (0.0, 1.0)
    assert _score(_completion(""), "Brandt's Cormorant", info)["answered"] == 0.0
    assert _score("Brandt's Cormorant", "Brandt's Cormorant", info)["acc"] == 0.0


def test_an_open_question_knows_aliases_of_its_classes() -> None:
    classes = ClassNames(OPTIONS, {"Common Gull": ["Mew Gull"]})
    assert _score(_completion("mew gull"), "Common Gull", {"classes": classes})["acc"] == 1.0
    assert _score(_completion("Emu"), "Emu", {"classes": classes})["acc"] == 0.0


@pytest.mark.parametrize("answer", [".", "-", "''"])
def test_an_empty_truth_matches_nothing(answer: str) -> None:
    assert compute_score(SOURCE, _completion(answer), "", None)["acc"] == 0.0


def test_a_failure_scores_nothing() -> None:
    result = _score(_completion("B"), "B", {**TRAIN, "failure": "image unreadable"})
    assert (result["score"], result["acc"]) == (0.0, 0.0)
    assert set(result) == KEYS


@pytest.mark.parametrize("failure", [None, "", math.nan])
def test_a_null_in_any_form_is_no_failure(failure: Any) -> None:
    assert _score(_completion("B"), "B", {**TRAIN, "failure": failure})["score"] == 2.0


def test_measures_of_the_mining_stand_beside_the_reward() -> None:
    measures = {"one_step": 0.5, "consistency": 1, "recall": numpy.float32(1.0), "pass_at_k": math.nan, "other": 3.0}
    result = _score(_completion("A"), "B", {**TRAIN, "measures": measures})
    assert (result["one_step"], result["consistency"], result["recall"]) == (0.5, 1.0, 1.0)
    assert result["pass_at_k"] == 0.0
    assert set(result) == KEYS


@pytest.mark.parametrize("measures", [None, [], numpy.array(None), {"one_step": None, "recall": "x"}])
def test_missing_measures_are_zero(measures: Any) -> None:
    result = _score(_completion("A"), "B", {**TRAIN, "measures": measures})
    assert all(result[key] == 0.0 for key in ("one_step", "consistency", "recall", "pass_at_k"))


@pytest.mark.parametrize(("answer", "right"), [("Brandt's Cormorant", 1.0), ("Laysan Albatross", 0.0)])
def test_an_open_answer_is_a_vote_of_its_own(answer: str, right: float) -> None:
    """So that `reward=virft` shows what it has, and not zero, beside the measures of DiVE-k."""
    result = _score(_completion(answer), "Brandt's Cormorant", {"split": "val"})
    assert {name: result[name] for name in ("one_step_greedy", "one_step", "consistency", "pass_at_k", "recall")} == {
        **dict.fromkeys(("one_step_greedy", "one_step", "consistency", "pass_at_k"), right),
        "recall": 0.0,
    }


_FRAGMENTS = ["<think>", "</think>", "<answer>", "</answer>", "B", "(", ". ", "\ud800", "\x00"]
_COMPLETIONS = st.text() | st.lists(st.sampled_from(_FRAGMENTS) | st.text(max_size=3)).map("".join)


@given(_COMPLETIONS, st.sampled_from([TRAIN, {**TRAIN, "failure": "x"}, {}, None]))
def test_any_completion_gives_the_same_keys_with_finite_floats(completion: str, info: Any) -> None:
    for ground_truth in ("B", "", "Sooty Tern"):
        result = compute_score(SOURCE, completion, ground_truth, info)
        assert set(result) == KEYS
        assert all(type(value) is float and math.isfinite(value) for value in result.values())


def test_what_verl_passes_besides_is_ignored() -> None:
    assert _score(_completion("B"), reward_router_address=None, reward_model_tokenizer=None)["score"] == 2.0


@pytest.mark.parametrize(
    ("graded", "score", "acc"),
    [
        (1.0, 1.0, 1.0),
        (True, 1.0, 1.0),
        (math.nan, 0.0, 0.0),
        ({"score": -1.0, "acc": False, "pred": "7"}, -1.0, 0.0),
        ({"score": 0.5}, 0.5, 0.5),
    ],
)
def test_other_data_sources_go_to_verls_own_reward(
    monkeypatch: pytest.MonkeyPatch, graded: Any, score: float, acc: float
) -> None:
    seen: list[tuple[Any, ...]] = []
    verl_rewards = ModuleType("verl.utils.reward_score")
    verl_rewards.default_compute_score = lambda *args, **kwargs: seen.append((*args, kwargs)) or graded  # type: ignore[attr-defined]
    for name, module in (
        ("verl", ModuleType("verl")),
        ("verl.utils", ModuleType("verl.utils")),
        ("verl.utils.reward_score", verl_rewards),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    result = compute_score("openai/gsm8k", "#### 7", "7", {"index": 0}, format_weight=9.0, memory_limit_mb=1)
    assert seen == [("openai/gsm8k", "#### 7", "7", {"index": 0}, {"memory_limit_mb": 1})]
    assert set(result) == KEYS
    assert (result["score"], result["acc"]) == (score, acc)


def test_verls_reward_grades_gsm8k() -> None:
    pytest.importorskip("verl")
    assert compute_score("openai/gsm8k", "So #### 7", "7")["score"] == 1.0
    with pytest.raises(SetupError, match="no reward"):
        compute_score("unheard/of", "7", "7")


def test_a_training_row_without_options_means_that_diveks_agent_loop_is_not_in_use() -> None:
    row = {"split": "train", "index": 3}
    for info in (row, {**row, "options": []}, {**row, "options": numpy.array([])}):
        with pytest.raises(SetupError, match="agent_loop_manager_class.*reward=virft"):
            compute_score(SOURCE, _completion("Sooty Tern"), "Sooty Tern", info)
    assert compute_score(SOURCE, _completion("Sooty Tern"), "Sooty Tern", row, open_questions=True)["score"] == 2.0
    # Validation may ask open questions, and a failed image has no options.
    assert compute_score(SOURCE, _completion("Sooty Tern"), "Sooty Tern", {"split": "val"})["score"] == 2.0
    assert compute_score(SOURCE, "", "Sooty Tern", {**row, "failure": "unreadable_image"})["score"] == 0.0
