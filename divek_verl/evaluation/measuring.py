"""The measures of one image; with a judge, also by how much each would rise if all that is unjudged were right."""

from collections.abc import Callable, Mapping

from divek_verl.evaluation.judge import Pair, Verdict
from divek_verl.evaluation.visits import EvaluatedVisit
from divek_verl.labels import ClassNames, canonical
from divek_verl.measures import measure_votes
from divek_verl.question import Question
from divek_verl.reward import compute_score
from divek_verl.votes import Votes

# In the order in which they are shown.
TITLES = {
    "two_step": "two-step accuracy",
    "one_step": "one-step accuracy",
    "consistency": "consistency",
    "recall": "recall@k",
    "pass_at_k": "pass@K",
}
MEANINGS = {
    "two_step": "the option chosen in the second step is the true class",
    "one_step": "share of the K samples that name the true class",
    "consistency": "the most frequent answer of the class list is the true class",
    "recall": "the true class is an option for its votes",
    "pass_at_k": "at least one of the K samples names the true class",
}
OF_VOTES = ("one_step", "consistency", "recall", "pass_at_k")


def measure(visit: EvaluatedVisit) -> None:
    """Set the measures of a visit by its class list alone: the truth is a display name of it."""
    question = Question(tuple(visit.options), None, False)
    _set(visit, measure_votes(visit.counted, visit.truth, question) if visit.samples else {})
    visit.unjudged, visit.judged = {}, {}
    info = {"options": visit.options, "truth": visit.truth, "failure": visit.failure}
    graded = [compute_score(visit.data_source, text, "", info) for text in visit.completions]
    visit.two_step = graded[0]["acc"] if graded else 0.0
    visit.rewards = [score["score"] for score in graded]


def pairs_to_judge(visit: EvaluatedVisit, classes: ClassNames) -> set[Pair]:
    """What the class list cannot decide: answers outside it and, where the truth is outside it, every answer.

    Two spellings of one name need no judge, in the list or out of it.
    """
    names = set(visit.unknown)
    if visit.truth not in classes.names:
        names |= set(visit.votes) | set(visit.options)
    return {Pair(visit.truth, name) for name in names if canonical(name) != canonical(visit.truth)}


def measure_judged(visit: EvaluatedVisit, classes: ClassNames, verdicts: Mapping[Pair, Verdict]) -> None:
    """Set the measures of a visit by the class list and, where that cannot decide, by ``verdicts``."""
    measure(visit)
    asked = {pair.prediction: verdicts[pair] for pair in pairs_to_judge(visit, classes)}
    visit.judged = {name: str(asked[name]) for name in sorted(asked)}
    if not visit.samples:
        return

    def known(name: str) -> bool:
        return canonical(name) == canonical(visit.truth) or (name in asked and asked[name].same is True)

    def possible(name: str) -> bool:
        return known(name) or (name in asked and asked[name].same is None)

    least, most = _measures(visit, known), _measures(visit, possible)
    _set(visit, least)
    visit.two_step = least["two_step"]
    visit.unjudged = {name: most[name] - least[name] for name in least if most[name] != least[name]}


def _measures(visit: EvaluatedVisit, right: Callable[[str], bool]) -> dict[str, float]:
    """The measures where ``right`` says which names mean the truth."""
    merged: dict[str, int] = {}
    unknown: dict[str, int] = {}
    for name, count in visit.votes.items():
        merged[visit.truth if right(name) else name] = merged.get(visit.truth if right(name) else name, 0) + count
    for name, count in visit.unknown.items():
        if right(name):
            merged[visit.truth] = merged.get(visit.truth, 0) + count
        else:
            unknown[name] = count
    votes = Votes(merged, unknown, visit.unanswered)
    found = any(right(option) and option in visit.votes for option in visit.options)
    measures = measure_votes(votes, visit.truth, Question(tuple(visit.options), None, False))
    chosen = visit.chosen is not None and right(visit.chosen) and visit.failure is None
    return {**measures, "recall": float(found), "two_step": float(chosen)}


def _set(visit: EvaluatedVisit, measures: Mapping[str, float]) -> None:
    for name in OF_VOTES:
        setattr(visit, name, measures.get(name, 0.0))
