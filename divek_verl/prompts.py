"""The text of both questions: one template each, filled with the wording of a data set.

The picture and the fixed sentences come first and the names last, so that prompts share the longest prefix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from divek_verl.errors import SetupError

# A chat message: role and content, which is text or a list of parts.
Message = Mapping[str, Any]

SIDES = ("base", "new", "all")
# verl puts a picture where this stands in a prompt.
PLACEHOLDER = "<image>"

_OPEN = (
    "Look at the {thing} in the image and decide its most likely {kind}. "
    "First reason about its shape, colours and other details that you see inside <think> </think>. "
    "Then give exactly one name{spelled} inside <answer> </answer> and write nothing after it.{listed}"
)
_MULTIPLE_CHOICE = (
    "Look at the {thing} in the image and decide its most likely {kind}. "
    "First reason about its shape, colours and other details that you see inside <think> </think>. "
    "Then give only the letter of the right option below inside <answer> </answer> "
    "and write nothing after it.\n"
    "Options:\n{options}"
)


@dataclass(frozen=True)
class Wording:
    """The nouns of a data set: ``thing`` is in the picture, ``kind`` is what the answer names.

    Raises:
        SetupError: a noun is empty or holds a line break.
    """

    thing: str = "main object"
    kind: str = "category"

    def __post_init__(self) -> None:
        for noun in (self.thing, self.kind):
            if len(noun.splitlines()) != 1 or not noun.strip():
                raise SetupError(f"The wording {noun!r} is no noun: give one line of text such as 'bird' or 'species'.")


def open_question(wording: Wording, names: Sequence[str]) -> str:
    """The question whose K answers are the votes: which of ``names`` is in the image? Without names, it lists none."""
    listed = {"spelled": ", spelled as in the list below,", "listed": f"\nList: {', '.join(names)}"} if names else {}
    return _OPEN.format(thing=wording.thing, kind=wording.kind, **{"spelled": "", "listed": "", **listed})


def multiple_choice(wording: Wording, options_text: str) -> str:
    """The question that the policy is trained on; ``options_text`` is ``Question.text``."""
    return _MULTIPLE_CHOICE.format(thing=wording.thing, kind=wording.kind, options=options_text)


def user_prompt(text: str) -> list[dict[str, str]]:
    """One user message with the picture before ``text``."""
    for placeholder in (PLACEHOLDER, "<video>"):
        if placeholder in text:
            raise SetupError(f"A class name or prompt holds {placeholder!r}, which verl reads as a file; remove it.")
    return [{"role": "user", "content": f"{PLACEHOLDER}{text}"}]


def with_text(messages: Sequence[Message], text: str) -> list[dict[str, Any]]:
    """The conversation with its last message's text replaced by ``text``; pictures keep their place before it."""
    *before, last = [dict(message) for message in messages]
    content = last["content"]
    pictures = [] if isinstance(content, str) else [part for part in content if part["type"] != "text"]
    return [*before, {**last, "content": [*pictures, {"type": "text", "text": text}]}]


def is_divek(data_source: str) -> bool:
    """Whether a row takes the two steps of DiVE-k; other rows of a mixed run stay verl's."""
    return data_source.startswith("divek/")


def check_stored_row(name: str, row: Mapping[str, Any], prompt_key: str = "prompt", image_key: str = "images") -> bool:
    """Whether a row of a parquet file is DiVE-k's; ``name`` tells the reader which row it is.

    Raises:
        SetupError: it has no data source, or is DiVE-k's and has no truth, no prompt, or another number of pictures
            than its prompt has places for, at least one.
    """
    source, prompt, images = row.get("data_source"), row.get(prompt_key), row.get(image_key) or []
    if isinstance(source, str) and not is_divek(source):
        return False
    records = [row.get("reward_model"), *(prompt if isinstance(prompt, list) else [])]
    reward_model, *messages = [record if isinstance(record, Mapping) else {} for record in records]
    truth, contents = reward_model.get("ground_truth"), [message.get("content") for message in messages]
    places = sum(str(content).count(PLACEHOLDER) for content in contents)
    if not isinstance(source, str):
        problem = f"the data_source {source!r}, which is no text"
    elif not isinstance(row.get("extra_info") or {}, Mapping):
        problem = "an extra_info that is no record"
    elif not isinstance(truth, str) or not truth:
        problem = f"the truth {truth!r}, which is no class name"
    elif not contents or not all(contents):
        problem = "a prompt that is no list of messages with text"
    elif places != len(images) or not images:
        problem = f"{len(images)} pictures, and its prompt {places} times {PLACEHOLDER}"
    elif not all(isinstance(each, Mapping) and (each.get("bytes") or each.get("image")) for each in images):
        problem = "a picture with neither a path nor bytes"
    else:
        return True
    raise SetupError(f"{name} has {problem}: prepare the data again.")


def parse_data_source(data_source: str) -> tuple[str, str]:
    """The data set and side of ``divek/<dataset>/<base|new|all>``."""
    prefix, _, rest = data_source.partition("/")
    dataset, _, side = rest.partition("/")
    if prefix != "divek" or not dataset or side not in SIDES:
        raise SetupError(
            f"The data source {data_source!r} is not 'divek/<dataset>/<side>' with a side of "
            f"{', '.join(SIDES)}; prepare the data again or correct the column."
        )
    return dataset, side
