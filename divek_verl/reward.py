"""The reward, in the signature that verl calls: format plus the right option (DiVE-k, reward section)."""

import math
from collections.abc import Mapping
from importlib import import_module
from string import ascii_uppercase
from typing import SupportsFloat

from divek_verl.answers import has_format, parse_answer, parse_option
from divek_verl.class_lists import classes_of
from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames, canonical
from divek_verl.measures import VOTE_MEASURES
from divek_verl.prompts import is_divek

# Key of a row's extra_info: the folder of the class list that grades an answer to its open question.
CLASS_FOLDER = "class_folder"
# The measures of an open question that is asked once; there are no options to recall the truth.
_OF_ONE_ANSWER = ("one_step_greedy", "one_step", "consistency", "pass_at_k")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: Mapping[str, object] | None = None,
    *,
    format_weight: float = 1.0,
    answer_weight: float = 1.0,
    min_think_characters: int = 1,
    open_questions: bool = False,
    **kwargs: object,
) -> dict[str, float]:
    """Grades one completion; the same keys for every row, all finite.

    ``score`` is ``format_weight * format + answer_weight * acc``. ``acc`` is 1.0 where the answer is right,
    ``format`` where the completion keeps the format (``has_format``) with at least ``min_think_characters`` visible
    characters of reasoning, ``answered`` where it names an option or, for an open question, anything at all. An open
    answer is a vote of K = 1 for the other measures. A row with ``extra_info["failure"]`` scores 0. Rows of other data
    sources go to verl's own reward.

    ``open_questions`` allows training rows without options, as ``reward=virft`` has them. Without it such a row
    means that the run does not use DiVE-k's agent loop: it would train the open question, paid like a choice.

    Raises:
        SetupError: for a weight that is no finite number, a data source that verl cannot grade, and a training row
            without options; never for what a completion says.
    """
    if not is_divek(str(data_source)):
        return _verl_score(data_source, solution_str, ground_truth, extra_info, kwargs)
    numbers = {"format_weight": format_weight, "answer_weight": answer_weight}
    for name, weight in {**numbers, "min_think_characters": min_think_characters}.items():
        if not isinstance(weight, int | float) or not math.isfinite(weight):
            raise SetupError(f"The reward's {name} is {weight!r}; set a finite number.")
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
    well_formed = float(has_format(completion, int(min_think_characters)))
    score = 0.0 if failed else format_weight * well_formed + answer_weight * acc
    measures = info.get("measures")
    if measures is None and not _as_list(info.get("options")):
        # One open answer is the whole vote, and verl's validation is greedy unless it is told otherwise.
        measures = dict.fromkeys(_OF_ONE_ANSWER, acc)
    return _result(score, acc, measures, well_formed=well_formed, answered=float(answered))


def _grade(data_source: str, completion: str, ground_truth: object, info: Mapping[str, object]) -> tuple[bool, bool]:
    """Whether the completion answers, and whether the answer is right."""
    options, truth = _as_list(info.get("options")), _text(info.get("truth"))
    if options:
        chosen = parse_option(completion, len(options))
        if chosen is None:
            return False, False
        letter = _text(ground_truth).upper()
        if len(letter) == 1 and letter in ascii_uppercase[: len(options)]:
            return True, ascii_uppercase[chosen] == letter
        # Validation has no letter of the truth where the truth is not an option.
        return True, _same_class(_text(options[chosen]), truth or _text(ground_truth))
    answer, truth = parse_answer(completion) or "", _text(ground_truth) or truth
    if not answer:
        return False, False
    classes, folder = info.get("classes"), _text(info.get(CLASS_FOLDER))
    if not isinstance(classes, ClassNames):
        classes = classes_of(folder, data_source) if folder else None
    if classes is not None:  # knows aliases, which the canonical form does not
        return True, _same_class(classes.match_answer(answer) or "", classes.match(truth) or "")
    return True, _same_class(answer, truth)


def _same_class(name: str, truth: str) -> bool:
    return canonical(name) == canonical(truth) != ""


def _verl_score(
    data_source: str, solution_str: str, ground_truth: object, extra_info: object, kwargs: dict[str, object]
) -> dict[str, float]:
    """verl's own reward under our keys, so that one batch can mix data sources; only this imports verl."""
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
    score: object, acc: object, measures: object = None, *, well_formed: float = 0.0, answered: float = 0.0
) -> dict[str, float]:
    given = measures if isinstance(measures, Mapping) else {}
    return {
        "score": _finite(score),
        "acc": _finite(acc),
        "format": well_formed,
        "answered": answered,
        **{key: _finite(given.get(key)) for key in VOTE_MEASURES},
    }


def _finite(value: object) -> float:
    """0.0 for what is no finite number: a missing measure is None, or nan from a parquet file."""
    try:
        number = float(value) if isinstance(value, SupportsFloat | str) else 0.0
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _text(value: object) -> str:
    """``value`` if it is text, else the empty text: a null arrives in several forms."""
    return value if isinstance(value, str) else ""


def _as_list(value: object) -> list[object]:
    """A list of a list, tuple or numpy array; empty for anything else."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else []
