"""Which images the report shows as examples."""

from collections.abc import Callable, Collection, Iterable, Sequence

from divek_verl.report.pairs import Pair
from divek_verl.report.scores import source_order

Chosen = list[Pair | None]

# One learnt, one of look-alikes, one that the policy got wrong all along.
KINDS: tuple[Callable[[Pair], bool], ...] = (
    lambda pair: pair.outcome == "Wrong before, right after",
    lambda pair: pair.latest.right,
    lambda pair: not pair.latest.right and not pair.before.right,
)


def choose_examples(pairs: Sequence[Pair]) -> list[Pair]:
    """Up to three instructive images: one learnt, one of look-alikes, one that the policy still gets wrong.

    Of those that qualify, the one whose samples are most evenly split between the truth and a look-alike; a kind
    without an image gives its place to the next look-alike. The same records give the same choice.
    """
    chosen: Chosen = []
    for kind in KINDS:
        chosen.append(_most_instructive(filter(kind, pairs), chosen))
    if chosen[-1] is None:
        chosen[-1] = _most_instructive([pair for pair in pairs if not pair.latest.right], chosen)
    for place, pair in enumerate(chosen):
        chosen[place] = pair or _most_instructive(pairs, chosen)
    return [pair for pair in chosen if pair is not None]


def _most_instructive(pairs: Iterable[Pair], chosen: Chosen) -> Pair | None:
    names = {pair.name for pair in chosen if pair}
    truths = {pair.before.truth for pair in chosen if pair}
    left = [pair for pair in pairs if pair.name not in names]
    return min(left, key=lambda pair: _rank(pair, truths), default=None)


def _rank(pair: Pair, truths: Collection[str]) -> tuple:
    """The least is the most instructive: a class not yet shown first, then one that could be right, then the split."""
    could_be_right = sum(visit.answer is not None for visit in pair.visits)
    split = max(visit.closeness for visit in pair.visits)
    return pair.before.truth in truths, -could_be_right, -split, source_order(pair.name[0]), pair.name
