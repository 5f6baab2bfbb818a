"""Parses a completion: its answer element, the option letter in it, and whether it keeps the format.

Completions are untrusted and may be very long, so all functions take time linear in their length.
"""

import re
import unicodedata
from itertools import islice

_ANSWER_TAG = re.compile(r"<(/?)answer\s*>", re.IGNORECASE)
_THINK_TAGS = [re.compile(rf"<{slash}think\s*>", re.IGNORECASE) for slash in ("", "/")]
_ANY_TAG = re.compile(r"</?(?:think|answer)\s*>", re.IGNORECASE)
_FORMAT = ["<think>", "</think>", "<answer>", "</answer>"]

# Letters and symbols that show nothing: Hangul fillers and the empty Braille pattern.
_BLANK = "\u115f\u1160\u3164\uffa0\u2800"
_WRAPPING = " \t\r\n_`\"'\u2018\u2019\u201c\u201d"

# `B`, `(B)`, `[B]`, each optionally after `option`; _is_name_or_nothing judges what follows.
_LETTER = re.compile(
    r"(?:(?:option|choice|answer)(?:\s*:\s*|\s+|(?=[(\[])))?"
    r"(?:\((?P<round>[a-z])\)|\[(?P<square>[a-z])\]|(?P<bare>[a-z])(?![a-z0-9]))",
    re.IGNORECASE | re.ASCII,
)
_BARE_MARK = re.compile(r"[.):]+|\s+[-\u2013\u2014](?=\s)")
_BRACKET_MARK = re.compile(r"[.:]+|\s+[-\u2013\u2014](?=\s)|(?=\s)")
# `a.k.a. gull` and `e.g. a gull` begin as `A. name` does.
_ABBREVIATION = re.compile(r"\.[a-z]\.", re.IGNORECASE)
# A letter that starts another option, as in `B. Sooty Albatross C. Laysan Albatross`.
_FURTHER_OPTION = re.compile(r"(?<![\w/'\u2019-])\(?([a-z])[.):\]]+(?=\s*\w)", re.IGNORECASE | re.ASCII)
# A letter that competes with the first, as in `B. or C` and `B. Not C`; `a` before more text is an article.
_OTHER_CHOICE = re.compile(
    r"(?:\b(?i:or|and|not|nor|is|maybe|perhaps)\b|[,;&|+])\s*[(\[]?"
    r"([A-Zb-z]|a(?=\W*\Z))(?![\w'\u2019/-])",
    re.ASCII,
)
_ONLY_LETTER = re.compile(r"\W*[a-z]\W*", re.IGNORECASE | re.ASCII)


def parse_answer(completion: str) -> str | None:
    """The content of the last complete ``<answer>`` element, stripped; None if there is none.

    Tags may be in any case. An element is an opening tag and the next closing tag with no answer tag between
    them: the innermost of nested elements counts, and one cut off before its closing tag does not. An empty
    element gives the empty string.
    """
    # Text, tag, text, tag, ..., text; a tag appears as its slash or as the empty string.
    parts = _ANSWER_TAG.split(completion)
    for closing in range(len(parts) - 2, 2, -2):
        if parts[closing] and not parts[closing - 2]:
            return parts[closing - 1].strip()
    return None


def parse_reasoning(completion: str) -> str | None:
    """The content of the first ``<think>`` element, stripped; None if there is none. Tags may be in any case."""
    opening = _THINK_TAGS[0].search(completion)
    closing = _THINK_TAGS[1].search(completion, opening.end()) if opening else None
    return completion[opening.end() : closing.start()].strip() if opening and closing else None


def parse_option(completion: str, num_options: int) -> int | None:
    """The zero-based option that the answer element names.

    A letter is accepted in either case, bare or in brackets, with or without a full stop, colon or closing
    bracket; followed by the option's name; after ``option``, ``choice`` or ``answer``; and all of these in bold
    or quotes. None for no element, no letter, several letters, a letter beyond ``num_options``, and prose such
    as ``A bird``.
    """
    answer = parse_answer(completion)
    if answer is None:
        return None
    answer = answer.replace("*", "").strip(_WRAPPING)
    found = _LETTER.match(answer)
    if found is None:
        return None
    option = _index(found["round"] or found["square"] or found["bare"], num_options)
    mark = _BARE_MARK if found["bare"] else _BRACKET_MARK
    return option if _is_name_or_nothing(answer[found.end() :], mark, option, num_options) else None


def has_format(completion: str, min_think_characters: int = 1) -> bool:
    """Whether the completion is exactly ``<think>...</think>``, any white space, ``<answer>...</answer>``.

    Nothing may surround it, not even white space; tags are in lower case, and each occurs once. Both elements hold
    visible text, the first at least ``min_think_characters`` of letters, digits, punctuation and symbols.
    """
    if not completion.startswith(_FORMAT[0]) or not completion.endswith(_FORMAT[3]):
        return False
    if _ANY_TAG.findall(completion) != _FORMAT:
        return False
    thought, _, rest = completion[len(_FORMAT[0]) :].partition(_FORMAT[1])
    between, _, answer = rest[: -len(_FORMAT[3])].partition(_FORMAT[2])
    shows = _has_visible(thought, max(1, min_think_characters)) and _has_visible(answer, 1)
    return shows and not between.strip()


def _has_visible(text: str, count: int) -> bool:
    """Whether at least ``count`` characters can be seen; marks, format characters and fillers cannot."""
    visible = (char for char in text if unicodedata.category(char)[0] in "LNPS" and char not in _BLANK)
    return next(islice(visible, count - 1, None), None) is not None


def _is_name_or_nothing(rest: str, mark: re.Pattern[str], option: int | None, num_options: int) -> bool:
    """Whether the letter is followed by nothing, or by a mark and a name that names no other option."""
    if not rest:
        return True
    marked = mark.match(rest)
    if marked is None or _ABBREVIATION.match(rest):
        return False
    name = rest[marked.end() :].strip()
    if _ONLY_LETTER.fullmatch(name):
        return False
    others = (*_FURTHER_OPTION.finditer(name), *_OTHER_CHOICE.finditer(" " + name))
    return all(_index(other[1], num_options) in (None, option) for other in others)


def _index(letter: str, num_options: int) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if index < num_options else None
