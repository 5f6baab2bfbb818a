"""Measures of an image: one table of names and meanings, and those that follow from its open answers."""

from dataclasses import dataclass

from divek_verl.question import Question, Skip
from divek_verl.votes import Votes


@dataclass(frozen=True)
class Measure:
    """A number from 0 to 1 for each image.

    Attributes:
        name: key in records, in the reward's result and in verl's validation metrics.
        title: heading for readers.
        meaning: one sentence.
    """

    name: str
    title: str
    meaning: str


# In the order in which they are reported.
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("two_step", "two-step accuracy", "The option chosen in the second step is the true class."),
        Measure("one_step_greedy", "one-step accuracy, greedy", "One greedy open answer names the true class."),
        Measure("one_step", "one-step accuracy (pass@1)", "Share of the K samples that name the true class."),
        Measure("consistency", "majority vote (maj@K)", "The most frequent class among the samples is the true one."),
        Measure("recall", "recall", "The true class is an option because it was voted for, not injected or a filler."),
        Measure("pass_at_k", "pass@K", "At least one of the K samples names the true class."),
    )
}
# Those that follow from the open answers; the rollout passes them on to stand beside the reward of every completion.
VOTE_MEASURES = ("one_step_greedy", "one_step", "consistency", "recall", "pass_at_k")
# An image that could not be asked stays in every denominator.
NO_MEASURES = dict.fromkeys(VOTE_MEASURES, 0.0)


def measure_votes(votes: Votes, truth: str, question: Question | Skip, greedy: str | None = None) -> dict[str, float]:
    """The ``VOTE_MEASURES`` of one image; ``truth`` and ``greedy``, the greedy open answer, are display names."""
    consistent = votes.top == truth
    if isinstance(question, Skip):
        recalled = consistent
    else:
        recalled = truth in question.options and truth in votes.counts and not question.truth_injected
    return {
        "one_step_greedy": float(greedy == truth),
        "one_step": votes.one_step_accuracy(truth),
        "consistency": float(consistent),
        "recall": float(recalled),
        "pass_at_k": float(truth in votes.counts),
    }
