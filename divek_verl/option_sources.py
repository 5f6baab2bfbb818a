"""Sources of a question's options: each ranks class names, for ``QuestionRules.build(ranking=...)``.

Only classes of the row's own list become options, so that a held-out class cannot appear in training. A source need
not add the truth: ``build`` replaces the last option by it. ``policy`` and ``mixed`` rank the truth where it was voted
for; ``random`` and ``text_embedding`` leave it out, so that their questions count as ones with an injected truth.

A user's own source is a class with ``uses_votes`` and ``rank``, named as ``package.module:Class``.
"""

import importlib
import inspect
import math
import random
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames, canonical
from divek_verl.question import MAX_OPTIONS, display_name, listed_counts
from divek_verl.votes import Votes

if TYPE_CHECKING:
    import torch

Seed = int | str

_NGRAM_SIZES = (2, 3)
# The most names that `mixed` asks for. It bounds the cache: whole rankings would grow with the square of the list.
_NEIGHBOURS = 2 * MAX_OPTIONS
_CACHED_NAMES = 4096
_CACHED_LISTS = 8


class OptionSource(Protocol):
    """Ranks classes as candidates for the options.

    ``uses_votes`` says whether training has to sample votes for it; False saves K samples if nothing else needs them.
    """

    uses_votes: bool

    def rank(self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: Seed) -> list[str]:
        """At most ``num_options`` (2 to 26) different classes of the list, best first; equal seeds, equal ranking."""


class PolicySource:
    """The policy's own answers, most frequent first: DiVE-k's option mining."""

    uses_votes = True

    def rank(self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: Seed) -> list[str]:
        """The classes with the most votes; the seed is not used."""
        return list(listed_counts(votes, classes))[:num_options]


class RandomSource:
    """Classes of the list at random, a new draw for each seed."""

    uses_votes = False

    def rank(self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: Seed) -> list[str]:
        """Classes other than the truth."""
        true = None if truth is None else classes.match(truth)
        others = [name for name in classes.names if name != true]
        return random.Random(f"{seed}-random").sample(others, min(num_options, len(others)))


class TextEmbeddingSource:
    """The classes whose names are most similar to the truth's.

    ``text_encoder`` is the folder of a transformers text encoder: similarity is the cosine of its last hidden states,
    averaged over the tokens. It runs once per class list and process, in fp32 on the CPU, and does not stay in memory.
    Without one, similarity is the cosine of character n-gram counts, which needs no model and sees spelling only.

    Raises:
        SetupError: the folder holds no model; from ``rank``, if the model cannot be used.
    """

    uses_votes = False

    def __init__(self, text_encoder: str | None = None) -> None:
        if text_encoder is not None and not (Path(text_encoder) / "config.json").is_file():
            raise SetupError(
                f"The text encoder {text_encoder} is no folder with a config.json: give the folder of a saved "
                "transformers model, or null to compare names by their letters."
            )
        self.text_encoder = text_encoder

    def rank(self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: Seed) -> list[str]:
        """Classes other than the truth, the most similar first; ties keep the order of the list.

        Without a truth, the class with the most votes and those similar to it; without votes, random classes.
        """
        if truth is not None:
            name = display_name(truth, classes)
            return list(nearest_names(classes.names, name, self.text_encoder)[:num_options])
        voted = list(listed_counts(votes, classes))
        if not voted:
            return RandomSource().rank(votes, classes, truth=truth, num_options=num_options, seed=seed)
        return [voted[0], *nearest_names(classes.names, voted[0], self.text_encoder)][:num_options]


class MixedSource:
    """The policy's answers, topped up by another source if they are too few."""

    uses_votes = True

    def __init__(self, topped_up_by: OptionSource) -> None:
        self.topped_up_by = topped_up_by

    def rank(self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: Seed) -> list[str]:
        """Voted classes first, so that a missing truth replaces a topped-up class."""
        voted = list(listed_counts(votes, classes))[:num_options]
        # Twice as many, because some of them may have votes already.
        more = self.topped_up_by.rank(votes, classes, truth=truth, num_options=2 * num_options, seed=seed)
        return list(dict.fromkeys([*voted, *more]))[:num_options]


OPTION_SOURCES: dict[str, type[OptionSource]] = {
    "policy": PolicySource,
    "random": RandomSource,
    "text_embedding": TextEmbeddingSource,
    "mixed": MixedSource,
}
TOP_UPS = ("random", "text_embedding")


def option_source_class(name: str) -> type[OptionSource]:
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
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise SetupError(
            f"The option source {name!r} is made without arguments ({error}): give them defaults."
        ) from None
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
    return TextEmbeddingSource(text_encoder) if encoding else found()


@lru_cache(maxsize=_CACHED_NAMES)
def nearest_names(names: tuple[str, ...], name: str, text_encoder: str | None = None) -> tuple[str, ...]:
    """The names most similar to ``name``, as many as a question can need (``TextEmbeddingSource``).

    Raises:
        SetupError: the text encoder cannot be used.
    """
    index = names.index(name)
    if text_encoder is None:
        cosines = _ngram_cosines(names, index)
    else:
        embeddings = _embeddings(names, text_encoder)
        cosines = (embeddings @ embeddings[index]).tolist()
    # The sort is stable: ties keep the order of the list.
    order = sorted((other for other in range(len(names)) if other != index), key=lambda other: -cosines[other])
    return tuple(names[other] for other in order[:_NEIGHBOURS])


def _ngram_cosines(names: tuple[str, ...], index: int) -> list[float]:
    """Cosine of the n-gram counts of the name at ``index`` and each name, up to a factor that all share."""
    counts = _ngram_counts(names)
    dots = [sum(count * other.get(gram, 0) for gram, count in counts[index].items()) for other in counts]
    lengths = [math.sqrt(sum(count * count for count in other.values())) for other in counts]
    return [dot / length for dot, length in zip(dots, lengths, strict=True)]


@lru_cache(maxsize=_CACHED_LISTS)
def _ngram_counts(names: tuple[str, ...]) -> list[Counter[str]]:
    # Spaces around a name, so that its beginning and its end count, and the shortest name has an n-gram.
    texts = [f" {canonical(name)} " for name in names]
    return [
        Counter(text[start : start + size] for size in _NGRAM_SIZES for start in range(len(text) - size + 1))
        for text in texts
    ]


@lru_cache(maxsize=_CACHED_LISTS)
def _embeddings(names: tuple[str, ...], text_encoder: str) -> "torch.Tensor":
    """A unit vector for each name: fp32 tensor, shape (names, hidden size)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(text_encoder, local_files_only=True)
        # Only safetensors: other weight files are pickles.
        model = AutoModel.from_pretrained(
            text_encoder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).eval()
        with torch.inference_mode():
            # One name at a time, so that no tokenizer has to pad.
            states = [model(**tokenizer(name, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for name in names]
        embeddings = torch.nn.functional.normalize(torch.stack(states), dim=-1)
    except Exception as error:
        cause = next(iter(str(error).splitlines()), "").rstrip(".:")
        raise SetupError(
            f"The text encoder {text_encoder} cannot be used ({type(error).__name__}: {cause}): "
            "give the folder of a transformers text encoder with its tokenizer and safetensors weights."
        ) from error
    if not embeddings.isfinite().all():
        raise SetupError(f"The text encoder {text_encoder} returns numbers that are not finite: give another one.")
    return embeddings
