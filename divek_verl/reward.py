"""The reward, in the signature that verl calls: format plus the right option (DiVE-k, reward section)."""

import math
from collections.abc import Mapping
from importlib import import_module
from string import ascii_uppercase
from typing import Any

from divek_verl.answers import has_format, parse_answer, parse_option
from divek_verl.class_lists import classes_of
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames, canonical
from divek_verl.measures import VOTE_MEASURES
from divek_verl.prompts import is_ours

# Key of a row's extra_info: the folder of the class list by which an answer to its open question is graded.
CLASS_FOLDER = "class_folder"


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    format_weight: float = 1.0,
    answer_weight: float = 1.0,
    open_questions: bool = False,
    **kwargs: Any,
) -> dict[str, float]:
    """Grades one completion; the same keys for every row, all finite.

    ``score`` is ``format_weight * format + answer_weight * acc``. ``acc`` is 1.0 where the answer is right,
    ``format`` where the completion keeps the format, ``answered`` where it names an option or, for an open
    question, anything at all. A row with ``extra_info["failure"]`` scores 0. Rows of other data sources go to
    verl's own reward.

    ``open_questions`` allows training rows without options, as ``reward=virft`` has them. Without it such a row
    means that the run does not use DiVE-k's agent loop: it would train the open question, paid like a choice.

    Raises:
        SetupError: for a weight that is no finite number, a data source that verl cannot grade, and a training row
            without options; never for what a completion says.
    """
    if not is_ours(str(data_source)):
        return _verl_score(data_source, solution_str, ground_truth, extra_info, kwargs)
    _check_weight("format_weight", format_weight)
    _check_weight("answer_weight", answer_weight)
    info = {} if extra_info is None else extra_info
    completion = solution_str if isinstance(solution_str, str) else ""
    failed = _text(info.get("failure")) != ""
    if info.get("split") == "train" and not (open_questions or failed or _as_list(info.get("options"))):
        raise SetupError(
            f"A training row of {data_source} has no options, so DiVE-k's agent loop did not make its question: set "
            "actor_rollout_ref.rollout.agent.agent_loop_manager_class="
            "divek_verl.trainer.rollout.TwoStageAgentLoopManager (reward=divek does) on verl's v1 trainer, or use "
            "reward=virft to train open questions."
        )
    answered, right = _grade(str(data_source), completion, ground_truth, info)
    acc = float(right and not failed)
    well_formed = float(has_format(completion))
    score = 0.0 if failed else format_weight * well_formed + answer_weight * acc
    return _result(score, acc, info.get("measures"), well_formed=well_formed, answered=float(answered))


def _grade(data_source: str, completion: str, ground_truth: Any, info: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the completion answers, and whether it is right."""
    options = _as_list(info.get("options"))
    if options:
        return _grade_option(completion, _text(ground_truth), _text(info.get("truth")), options)
    answer = parse_answer(completion)
    if not answer:
        return False, False
    return True, _is_class(answer, _text(ground_truth) or _text(info.get("truth")), _class_list(data_source, info))


def _grade_option(completion: str, ground_truth: str, truth: str, options: list[Any]) -> tuple[bool, bool]:
    """By letter; where there is none, as in validation, by the class that the chosen option names."""
    chosen = parse_option(completion, len(options))
    if chosen is None:
        return False, False
    letter = ground_truth.upper()
    if len(letter) == 1 and letter in ascii_uppercase[: len(options)]:
        return True, ascii_uppercase[chosen] == letter
    return True, _same_class(_text(options[chosen]), truth or ground_truth)


def _class_list(data_source: str, info: Mapping[str, Any]) -> ClassNames | None:
    """The class list that ``extra_info`` holds, or the one in the folder that it names."""
    classes, folder = info.get("classes"), _text(info.get(CLASS_FOLDER))
    if isinstance(classes, ClassNames):
        return classes
    return classes_of(folder, data_source) if folder else None


def _is_class(answer: str, truth: str, classes: ClassNames | None) -> bool:
    if classes is not None:  # knows aliases, which the canonical form does not
        answer, truth = classes.match(answer) or "", classes.match(truth) or ""
    return _same_class(answer, truth)


def _same_class(name: str, truth: str) -> bool:
    return canonical(name) == canonical(truth) != ""


def _verl_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any, kwargs: dict[str, Any]
) -> dict[str, float]:
    """verl's own reward under our keys, so that one batch can mix data sources; verl loads only here."""
    verl_rewards = import_module("verl.utils.reward_score")
    try:
        graded = verl_rewards.default_compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)
    except NotImplementedError as error:
        message = f"verl has no reward for the data source {data_source!r}; use one that verl knows or 'divek/...'."
        raise SetupError(message) from error
    if isinstance(graded, Mapping):
        return _result(graded.get("score"), graded.get("acc", graded.get("score")))
    return _result(graded, graded)


def _result(
    score: Any, acc: Any, measures: Any = None, *, well_formed: float = 0.0, answered: float = 0.0
) -> dict[str, float]:
    given = measures if isinstance(measures, Mapping) else {}
    return {
        "score": _finite(score),
        "acc": _finite(acc),
        "format": well_formed,
        "answered": answered,
        **{key: _finite(given.get(key)) for key in VOTE_MEASURES},
    }


def _check_weight(name: str, weight: float) -> None:
    if not isinstance(weight, int | float) or not math.isfinite(weight):
        raise SetupError(f"The reward's {name} is {weight!r}; set a finite number.")


def _finite(value: Any) -> float:
    """A measure is missing as None, as nan from a parquet file, or not at all."""
    if type(value) is float:  # by far the most frequent
        return value if math.isfinite(value) else 0.0
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _text(value: Any) -> str:
    """Text, or nothing for a null in whichever form it arrives."""
    return value if isinstance(value, str) else ""


def _as_list(value: Any) -> list[Any]:
    """A list for a list, tuple or numpy array, whose truth value cannot be asked for; empty for None."""
    if type(value) is list:
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else []
