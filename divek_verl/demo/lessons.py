"""What the demo model is taught before GRPO: prompts with the responses it should give, as token numbers.

Four kinds of lessons, from cheap to real:
    look-up   text only: `A. x`, `B. y`, then many `y B`: which letter stands beside a name
    telling   text only: a name is told, and is to be repeated with its letter
    caption   a picture and its name, without any question
    question  the two questions of DiVE-k as `divek_verl.prompts` words them, with their responses
All pictures show base classes in the training drawings. Names of the other classes appear in texts alone.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from transformers import Qwen2Tokenizer

from divek_verl.prepare.sets.flags import WORDING as FLAGS
from divek_verl.prompts import multiple_choice, open_question
from divek_verl.question import Question

IMAGE = "<|image_pad|>"
_GUESS = "It looks like"


@dataclass(frozen=True)
class Lesson:
    """One training sequence.

    Attributes:
        tokens: prompt and response.
        weights: weight of each token in the loss, 0 for what the model only reads.
        picture: number of the picture shown; None for a text.
    """

    tokens: list[int]
    weights: list[float]
    picture: int | None = None


def open_response(name: str) -> str:
    """The response to the open question that answers `name`."""
    return f"<think>{_GUESS} {name}</think><answer> {name}</answer>"


def choice_response(name: str, letter: str) -> str:
    """The response to the multiple-choice question: the class that the model sees, then its letter.

    The letter follows the name at once: a look-up over one step is the easiest that there is to learn.
    """
    return f"<think>{_GUESS} {name} {letter}</think><answer> {letter}</answer>"


def told(text: str, name: str) -> str:
    """A question that gives its answer away in words."""
    return f"This is the flag of {name}.\n{text}"


def tokenizer_texts(names: Sequence[str]) -> list[str]:
    """Every wording that the model reads or writes, for training the tokenizer."""
    options = "\n".join(f"{letter}. {letter}" for letter in ascii_uppercase)
    questions = [told(open_question(FLAGS, [""]), ""), multiple_choice(FLAGS, options)]
    return [
        _GUESS,
        "user\nassistant\n",
        *questions,
        open_response(""),
        *(choice_response("", a) for a in ascii_uppercase),
    ]


@dataclass(frozen=True)
class Teacher:
    """Writes lessons; the caller's `rng` decides about everything random.

    Attributes:
        tokenizer: of the demo model.
        image_tokens: placeholder tokens that one picture takes.
        base: class names of the pictures.
        names: all class names.
    """

    tokenizer: Qwen2Tokenizer
    image_tokens: int
    base: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def new(self) -> tuple[str, ...]:
        """The classes of which no picture is shown."""
        return tuple(name for name in self.names if name not in self.base)

    def look_up(self, rng: random.Random, options: int, queries: int) -> Lesson:
        """A list of `options` names with letters, and `queries` of its names, each followed by its letter."""
        question = Question(tuple(rng.sample(self.names, options)), None, False)
        asked = [rng.randrange(options) for _ in range(queries)]
        lines = self._encode(question.text + "\n")
        pairs = self._encode("".join(f" {question.options[i]} {ascii_uppercase[i]}" for i in asked))
        return Lesson(lines + pairs, [0.0] * len(lines) + [0.0, 1.0] * queries)

    def telling(self, rng: random.Random, options: int) -> Lesson:
        """The told question in short: a sentence that names one of `options` names, then that name and its letter."""
        question = Question(tuple(rng.sample(self.names, options)), rng.randrange(options), False)
        name = question.options[question.answer or 0]
        read = self._encode(told(question.text, name) + f"\n{_GUESS}")
        said = self._encode(f" {name} {question.letter}")
        return Lesson(read + said, [0.0] * len(read) + [1.0] * len(said))

    def caption(self, name: str, picture: int) -> Lesson:
        """A picture and what it looks like."""
        text = self._encode(self.shown("") + f"{_GUESS} {name}")
        return Lesson(text, [0.0] * (len(text) - 1) + [1.0], picture)

    def open_question(self, name: str, listed: Sequence[str], picture: int) -> Lesson:
        """The open question about a picture with the class list `listed`, answered with `name`."""
        return self._dialogue(self.shown(open_question(FLAGS, listed)), open_response(name), picture)

    def choice(self, name: str, options: Sequence[str], picture: int) -> Lesson:
        """The multiple-choice question about a picture."""
        question = Question(tuple(options), options.index(name), False)
        text = self.shown(multiple_choice(FLAGS, question.text))
        return self._dialogue(text, choice_response(name, str(question.letter)), picture)

    def told_choice(self, name: str, options: Sequence[str]) -> Lesson:
        """A multiple-choice question without a picture that says what the answer is."""
        question = Question(tuple(options), options.index(name), False)
        text = told(multiple_choice(FLAGS, question.text), name)
        return self._dialogue(text, choice_response(name, str(question.letter)), None)

    def told_open_question(self, name: str, listed: Sequence[str]) -> Lesson:
        """An open question without a picture that says what the answer is."""
        return self._dialogue(told(open_question(FLAGS, listed), name), open_response(name), None)

    def prompt(self, text: str) -> list[int]:
        """Tokens of one user message, up to where the model answers."""
        messages = [{"role": "user", "content": text}]
        rendered = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._encode(rendered)

    def shown(self, text: str) -> str:
        """`text` after the picture that it asks about."""
        return f"<|vision_start|>{IMAGE * self.image_tokens}<|vision_end|>{text}"

    def _dialogue(self, text: str, response: str, picture: int | None) -> Lesson:
        question, answer = self.prompt(text), self._encode(response + "<|im_end|>")
        # What is decided, names and letters, counts more than the form around it.
        weights = [_weight(token) for token in self.tokenizer.convert_ids_to_tokens(answer)]
        return Lesson(question + answer, [0.0] * len(question) + weights, picture)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])


def _weight(token: str) -> float:
    decides = token.startswith(" ") or token.removeprefix("Ġ") in ascii_uppercase
    return 3.0 if decides else 0.5
