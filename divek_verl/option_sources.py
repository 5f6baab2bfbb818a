"""Where the options of a question come from: names in order of preference, for ``build_question(ranking=...)``.

Every source draws from the row's own class list alone, so that a held-out class cannot appear in training. The truth
is not a source's concern: ``build_question`` puts it in the place of the last name. ``policy`` and ``mixed`` rank it
where it was voted for; ``random`` and ``text_embedding`` leave it out, so that a question has ``num_options`` options,
the truth included, and counts as one with a truth injected.
"""

import importlib
import math
import random
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames, canonical
from divek_verl.question import MAX_OPTIONS, display_name, listed_counts
from divek_verl.votes import Votes

_NGRAM_SIZES = (2, 3)
# What `mixed` may ask for. Bounds the cache: a whole ranking for each class would grow with the list's square.
_NEIGHBOURS = 2 * MAX_OPTIONS
_CACHED_NAMES = 4096
_CACHED_LISTS = 8


class OptionSource(Protocol):
    """A way to choose the options.

    Attributes:
        uses_votes: whether the options of a question with a truth depend on the votes.
    """

    uses_votes: bool

    def rank(
        self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: int | str
    ) -> list[str]:
        """At most ``num_options`` (2 to 26) different classes of the list, the preferred first."""


class PolicySource:
    """The policy's own answers, most frequent first: DiVE-k's option mining."""

    uses_votes = True

    def rank(
        self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: int | str
    ) -> list[str]:
        """The most voted classes, the truth among them where it is one; the seed has no part in it."""
        return list(listed_counts(votes, classes))[:num_options]


class RandomSource:
    """Any classes of the list, drawn anew with each seed."""

    uses_votes = False

    def rank(
        self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: int | str
    ) -> list[str]:
        """Classes other than the truth; equal seeds draw equal classes."""
        others = _others(classes, truth)
        return random.Random(f"{seed}-random").sample(others, min(num_options, len(others)))


class TextEmbeddingSource:
    """The classes whose names are nearest to the truth's.

    ``text_encoder`` is the folder of a transformers text encoder: names are compared by the cosine of its last hidden
    states, averaged over the tokens. It runs once for each class list and process, in fp32 on the CPU, and is not
    kept in memory. Without one, names are compared by the cosine of their character n-grams, which needs no model and
    sees spelling alone.

    Raises:
        SetupError: the folder holds no model; from ``rank``, where it cannot be used.
    """

    uses_votes = False

    def __init__(self, text_encoder: str | None = None) -> None:
        if text_encoder is not None and not (Path(text_encoder) / "config.json").is_file():
            raise SetupError(
                f"The text encoder {text_encoder} is no folder with a config.json: give the folder of a saved "
                "transformers model, or null to compare names by their letters."
            )
        self.text_encoder = text_encoder

    def rank(
        self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: int | str
    ) -> list[str]:
        """Classes other than the truth, the nearest to it first; equally near ones in the order of the list.

        Without a truth: the most voted class and then the nearest to it; without votes as well, random ones.
        """
        if truth is not None:
            return list(self._nearest(display_name(truth, classes), classes)[:num_options])
        voted = list(listed_counts(votes, classes))
        if not voted:
            return RandomSource().rank(votes, classes, truth=truth, num_options=num_options, seed=seed)
        return [voted[0], *self._nearest(voted[0], classes)][:num_options]

    def _nearest(self, name: str, classes: ClassNames) -> tuple[str, ...]:
        return nearest_names(classes.names, name, self.text_encoder)


class MixedSource:
    """The policy's answers, topped up by another source where they are fewer than the options."""

    uses_votes = True

    def __init__(self, topped_up_by: OptionSource) -> None:
        self.topped_up_by = topped_up_by

    def rank(
        self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: int | str
    ) -> list[str]:
        """``num_options`` classes, as far as the list has them: a missing truth replaces a topped-up one first."""
        voted = list(listed_counts(votes, classes))[:num_options]
        # Twice as many, because some may have been voted for.
        more = self.topped_up_by.rank(votes, classes, truth=truth, num_options=2 * num_options, seed=seed)
        return list(dict.fromkeys([*voted, *more]))[:num_options]


OPTION_SOURCES: dict[str, type[Any]] = {
    "policy": PolicySource,
    "random": RandomSource,
    "text_embedding": TextEmbeddingSource,
    "mixed": MixedSource,
}
TOP_UPS = ("random", "text_embedding")


def option_source_class(name: str) -> type[Any]:
    """The class of the source called ``name``, or of a user's own, ``package.module:Class``.

    Raises:
        SetupError: no such source, or the class has no ``rank`` or no ``uses_votes``.
    """
    if name in OPTION_SOURCES:
        return OPTION_SOURCES[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(OPTION_SOURCES)
        raise SetupError(f"The option source {name!r} does not exist: use one of {known}, or package.module:Class.")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise SetupError(
            f"The option source {name!r} cannot be imported ({error}): correct it or PYTHONPATH."
        ) from error
    except AttributeError:
        raise SetupError(
            f"The module {module_name} has no {attribute!r}: correct the option source {name!r}."
        ) from None
    if not isinstance(found, type) or not callable(getattr(found, "rank", None)):
        raise SetupError(f"The option source {name!r} is not a class with a method rank(votes, classes, ...): add it.")
    if not isinstance(getattr(found, "uses_votes", None), bool):
        raise SetupError(f"The option source {name!r} does not say uses_votes = True or False: add it to the class.")
    return found


def build_option_source(name: str, *, mixed_with: str = "random", text_encoder: str | None = None) -> OptionSource:
    """The source called ``name``, or a user's own ``package.module:Class``; ``mixed_with`` tops up ``mixed`` only.

    Raises:
        SetupError: no such source, or a text encoder that is not there or that this source would not use.
    """
    found = option_source_class(name)
    if mixed_with not in TOP_UPS:
        raise SetupError(f"Mixed options cannot be topped up by {mixed_with!r}: use one of {', '.join(TOP_UPS)}.")
    encoding = name == "text_embedding" or (name == "mixed" and mixed_with == "text_embedding")
    if text_encoder is not None and not encoding:
        raise SetupError(
            f"A text encoder is given, but the option source {name!r} would not use it: remove it, or take "
            "'text_embedding', alone or to top 'mixed' up."
        )
    if name == "mixed":
        return MixedSource(build_option_source(mixed_with, text_encoder=text_encoder))
    source: OptionSource = TextEmbeddingSource(text_encoder) if encoding else found()
    return source


def _others(classes: ClassNames, truth: str | None) -> list[str]:
    """All classes but the truth, however it is spelled."""
    true = None if truth is None else classes.match(truth)
    return [name for name in classes.names if name != true]


@lru_cache(maxsize=_CACHED_NAMES)
def nearest_names(names: tuple[str, ...], name: str, text_encoder: str | None = None) -> tuple[str, ...]:
    """The other names, the nearest first, as many as a question can need; see ``TextEmbeddingSource``.

    Raises:
        SetupError: the text encoder cannot be used.
    """
    place = names.index(name)
    cosines = _ngram_cosines(names, place) if text_encoder is None else _encoder_cosines(names, place, text_encoder)
    # The sort is stable: equally near names keep the order of the list.
    order = sorted((other for other in range(len(names)) if other != place), key=lambda other: -cosines[other])
    return tuple(names[other] for other in order[:_NEIGHBOURS])


def _ngram_cosines(names: tuple[str, ...], place: int) -> list[float]:
    """Cosine of the n-gram counts of the name at ``place`` and each name, up to a factor that all share."""
    counts = _ngram_counts(names)
    own = counts[place]
    dots = (sum(count * other.get(gram, 0) for gram, count in own.items()) for other in counts)
    return [dot / _length(other) for dot, other in zip(dots, counts, strict=True)]


def _length(counts: Counter[str]) -> float:
    return math.sqrt(sum(count * count for count in counts.values()))


@lru_cache(maxsize=_CACHED_LISTS)
def _ngram_counts(names: tuple[str, ...]) -> list[Counter[str]]:
    return [_ngrams(name) for name in names]


def _ngrams(name: str) -> Counter[str]:
    # Spaces around it, so that how a name begins and ends counts, and the shortest has an n-gram.
    text = f" {canonical(name)} "
    return Counter(text[start : start + size] for size in _NGRAM_SIZES for start in range(len(text) - size + 1))


def _encoder_cosines(names: tuple[str, ...], place: int, text_encoder: str) -> list[float]:
    embeddings = _embeddings(names, text_encoder)
    cosines: list[float] = (embeddings @ embeddings[place]).tolist()
    return cosines


@lru_cache(maxsize=_CACHED_LISTS)
def _embeddings(names: tuple[str, ...], text_encoder: str) -> Any:
    """A unit vector for each name: fp32 tensor, shape (names, hidden size)."""
    import torch

    try:
        embeddings = torch.nn.functional.normalize(_averaged_states(names, text_encoder), dim=-1)
    except Exception as error:
        raise SetupError(
            f"The text encoder {text_encoder} cannot be used ({type(error).__name__}: {_first_line(error)}): "
            "give the folder of a transformers text encoder with its tokenizer and safetensors weights."
        ) from error
    if not embeddings.isfinite().all():
        raise SetupError(f"The text encoder {text_encoder} gives numbers that are not finite: give another one.")
    return embeddings


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").rstrip(".:")


def _averaged_states(names: tuple[str, ...], text_encoder: str) -> Any:
    """Last hidden states averaged over the tokens; one name at a time, so that no tokenizer has to pad."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(text_encoder, local_files_only=True)
    # Safetensors alone: other weight files are pickles.
    model = AutoModel.from_pretrained(text_encoder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    model.eval()
    with torch.inference_mode():
        states = [model(**tokenizer(name, return_tensors="pt")).last_hidden_state[0] for name in names]
    return torch.stack([state.mean(dim=0) for state in states])
