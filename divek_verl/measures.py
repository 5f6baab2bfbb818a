"""What the K votes on one image say about the policy, beside the multiple-choice answer itself."""

from divek_verl.question import Question, Skip
from divek_verl.reward import MEASURES
from divek_verl.votes import Votes

# In the order in which they are reported; 0.0 where an image could not be asked: it stays in every denominator.
NO_MEASURES = dict.fromkeys(MEASURES, 0.0)


def measure_votes(votes: Votes, truth: str, question: Question | Skip) -> dict[str, float]:
    """One-step accuracy, consistency, recall@k and pass@K of one image, each from 0 to 1.

    ``one_step``: share of the K samples that answer ``truth``. ``consistency``: 1 where the most frequent answer does.
    ``recall``: 1 where ``truth`` is an option for its votes, neither put there nor by luck the class that filled the
    list up. ``pass_at_k``: 1 where any sample answers ``truth``.
    """
    consistent = votes.top == truth
    if isinstance(question, Skip):
        found = consistent
    else:
        found = truth in question.options and truth in votes.counts and not question.truth_injected
    return {
        "one_step": votes.one_step_accuracy(truth),
        "consistency": float(consistent),
        "recall": float(found),
        "pass_at_k": float(truth in votes.counts),
    }
