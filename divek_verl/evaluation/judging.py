"""Have a judge decide on what the class list cannot, after all images have been asked: each pair once."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from divek_verl.evaluation import judge
from divek_verl.evaluation.judge import JudgeCount, JudgeSettings, OpenAIJudge, Pair, Verdict
from divek_verl.evaluation.measuring import pairs_to_judge
from divek_verl.evaluation.results import Judged
from divek_verl.evaluation.visits import EvaluatedVisit
from divek_verl.labels import ClassNames


def all_pairs(visits: Sequence[EvaluatedVisit], classes: Mapping[tuple[str, str], ClassNames]) -> list[Pair]:
    """Every pair that some image needs, sorted."""
    return sorted({pair for visit in visits for pair in pairs_to_judge(visit, classes[visit.key])})


async def judge_pairs(
    pairs: Sequence[Pair], settings: JudgeSettings, on_done: Callable[[], object]
) -> tuple[dict[Pair, Verdict], JudgeCount]:
    """The verdicts, and what they took this time."""
    async with OpenAIJudge(settings) as judging:
        return await judging.judge(pairs, on_done), judging.counted


def describe(verdicts: Mapping[Pair, Verdict], settings: JudgeSettings) -> Judged:
    """What stands in the results."""
    counted = Counter(verdict.same for verdict in verdicts.values())
    reasons = Counter(verdict.reason or "unknown" for verdict in verdicts.values() if verdict.same is None)
    tokens = [sum(getattr(v, name) for v in verdicts.values()) for name in ("input_tokens", "output_tokens")]
    return Judged(
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
