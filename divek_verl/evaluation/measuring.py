"""The measures of one image, by the class list and, for what the list cannot decide, by a judge."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from divek_verl.evaluation import judge
from divek_verl.evaluation.judge import JudgeCount, JudgeSettings, OpenAIJudge, Pair, Verdict
from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.evaluation.results import Judged
from divek_verl.labels import ClassNames, canonical
from divek_verl.measures import measure_votes
from divek_verl.progress import progress
from divek_verl.question import Question
from divek_verl.reward import compute_score
from divek_verl.votes import Votes


async def measure_all(
    records: Iterable[EvaluationRecord],
    classes: Mapping[tuple[str, str], ClassNames | None],
    settings: JudgeSettings | None,
    *,
    show_progress: bool = False,
) -> tuple[Judged | None, JudgeCount | None]:
    """Set the measures of all records; what the judge, if there is one, decided and what this call asked of it."""
    records = list(records)
    if settings is None:
        for record in records:
            measure(record)
        return None, None
    pairs = sorted({pair for record in records for pair in pairs_to_judge(record, classes[record.key])})
    with progress(total=len(pairs), desc="judge", unit="pair", disable=not show_progress) as bar:
        async with OpenAIJudge(settings) as asked:
            verdicts = await asked.judge(pairs, bar.update)
    for record in records:
        measure_judged(record, classes[record.key], verdicts)
    counted = Counter(verdict.same for verdict in verdicts.values())
    reasons = Counter(str(verdict.reason) for verdict in verdicts.values() if verdict.same is None)
    tokens = [sum(getattr(v, name) for v in verdicts.values()) for name in ("input_tokens", "output_tokens")]
    judged = Judged(
        model=settings.model,
        prompt_sha256=hashlib.sha256(judge.PROMPT.encode()).hexdigest(),
        pairs=len(verdicts),
        same=counted[True],
        different=counted[False],
        unjudged=dict(sorted(reasons.items())),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        cost=settings.cost(*tokens),
    )
    return judged, asked.counted


def measure(record: EvaluationRecord) -> None:
    """Set the measures of a record by its class list alone; the truth is a display name of the list."""
    question = Question(tuple(record.options), None, False)
    record.set_measures(measure_votes(record.counted, record.truth, question, record.greedy))
    record.unjudged, record.judged = {}, {}
    info = {"options": record.options, "truth": record.truth, "failure": record.failure}
    graded = [compute_score(record.data_source, text, "", info) for text in record.completions]
    record.two_step = graded[0]["acc"] if graded else 0.0
    record.rewards = [score["score"] for score in graded]


def pairs_to_judge(record: EvaluationRecord, classes: ClassNames | None) -> set[Pair]:
    """The pairs that need a judge: answers, but not spellings of the truth, that the class list does not decide."""
    known = () if classes is None else classes.names
    greedy = {record.greedy} if record.greedy else set()
    names = {*record.unknown, *greedy.difference(known)}
    if record.truth not in known:
        names |= {*record.votes, *record.options, *greedy}
    return {Pair(record.truth, name) for name in names if canonical(name) != canonical(record.truth)}


def measure_judged(record: EvaluationRecord, classes: ClassNames | None, verdicts: Mapping[Pair, Verdict]) -> None:
    """Set the measures of a record by its class list and, for what the list cannot decide, by ``verdicts``."""
    measure(record)
    asked = {pair.prediction: verdicts[pair] for pair in pairs_to_judge(record, classes)}
    record.judged = {name: str(asked[name]) for name in sorted(asked)}
    if not record.samples:
        return
    names = {*record.votes, *record.unknown, *record.options, record.greedy or ""}
    right = {name for name in names if canonical(name) == canonical(record.truth)}
    right |= {name for name, verdict in asked.items() if verdict.same}
    undecided = {name for name, verdict in asked.items() if verdict.same is None}
    least, most = (_measures(record, names, classes is None) for names in (right, right | undecided))
    record.set_measures(least)
    record.two_step = least["two_step"]
    asked_for = [name for name in least if getattr(record, name) is not None]
    record.unjudged = {name: most[name] - least[name] for name in asked_for if most[name] != least[name]}


def _measures(record: EvaluationRecord, right: Collection[str], as_spelled: bool) -> dict[str, float]:
    """The measures if exactly the names in ``right`` mean the truth; ``as_spelled`` counts the majority by spelling."""
    counts: Counter[str] = Counter()
    for name, count in record.votes.items():
        counts[record.truth if name in right else name] += count
    for name in right:
        counts[record.truth] += record.unknown.get(name, 0)
    unknown = {name: count for name, count in record.unknown.items() if name not in right}
    question = Question(tuple(record.options), None, False)
    greedy = record.truth if record.greedy in right else None
    measures = measure_votes(Votes(counts, unknown, record.unanswered), record.truth, question, greedy)
    found = any(option in right and option in record.votes for option in record.options)
    chosen = record.chosen in right and record.failure is None
    if as_spelled:
        measures["consistency"] = float(record.counted.top in right)
    return {**measures, "recall": float(found), "two_step": float(chosen)}
