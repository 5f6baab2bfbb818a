"""The two-step answer for your own pictures, in Python.

    from divek_verl.predict import TwoStepClassifier
    from divek_verl.prompts import Wording

    flags = Wording("flag", "country or region")
    with TwoStepClassifier.from_model("runs/demo/model", ["Chad", "Romania", "Moldova"], wording=flags) as classifier:
        prediction = classifier.classify("flag.png")
        print(prediction.answer, prediction.votes, prediction.reasoning)

In a program with its own event loop, ``AsyncTwoStepClassifier`` does the same with ``await``.
"""

import asyncio
import hashlib
import threading
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

from PIL import Image
from typing_extensions import Unpack

from divek_verl import prompts
from divek_verl.answers import parse_reasoning
from divek_verl.engines.base import Engine
from divek_verl.engines.rows import PreparedRow
from divek_verl.engines.two_step import TwoStepSettings, ask_two_steps
from divek_verl.errors import SetupError
from divek_verl.images import PictureLimits, PictureSource, UnreadableImage, load_picture
from divek_verl.labels import ClassNames
from divek_verl.prompts import Wording
from divek_verl.records import FailureReason
from divek_verl.settings import DEFAULTS
from divek_verl.votes import Votes

if TYPE_CHECKING:
    from divek_verl.engines.options import EngineOptions

T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """The two-step answer for one picture.

    Attributes:
        source: path or description of the picture.
        answer: the chosen class; None if the second completion names no option, or a step failed.
        votes: class -> number of samples that answer it, most frequent first.
        unknown: the same for answers outside the class list.
        unanswered: samples without an answer.
        options: classes of the multiple-choice question, in the order of their letters.
        letter: the chosen letter.
        reasoning: content of the ``<think>`` element of the second completion.
        completion: the whole second completion.
        failure: name of the ``FailureReason`` if there is no answer; ``detail`` says more.
    """

    source: str
    answer: str | None = None
    votes: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0
    options: tuple[str, ...] = ()
    letter: str | None = None
    reasoning: str | None = None
    completion: str | None = None
    failure: str | None = None
    detail: str | None = None

    def to_json(self) -> dict[str, object]:
        """Plain types for JSON."""
        return {**asdict(self), "options": list(self.options)}


class ClassifierOptions(TypedDict, total=False):
    """The optional arguments of ``AsyncTwoStepClassifier``."""

    wording: Wording
    settings: TwoStepSettings
    limits: PictureLimits
    min_pixels: int
    max_pixels: int


@dataclass
class AsyncTwoStepClassifier:
    """Names the class of pictures: K open answers, their votes, one multiple-choice question.

    Attributes:
        engine: answers the questions; the caller closes it.
        classes: the class list, as names or as ``ClassNames`` with aliases.
        wording: nouns of the prompts, such as ``Wording("bird", "species")``.
        settings: how both questions are asked.
        limits: which pictures are accepted.
        min_pixels, max_pixels: bounds of the picture that the model sees.

    Raises:
        SetupError: fewer than two classes, or names that cannot be told apart.
    """

    engine: Engine
    classes: ClassNames | Iterable[str]
    _: KW_ONLY
    wording: Wording = Wording()
    settings: TwoStepSettings = TwoStepSettings()
    limits: PictureLimits = PictureLimits()
    min_pixels: int = DEFAULTS.min_pixels
    max_pixels: int = DEFAULTS.max_pixels

    def __post_init__(self) -> None:
        self._names = two_or_more(self.classes)

    async def classify(self, picture: PictureSource, *, name: str | None = None) -> Prediction:
        """The two-step answer for a path, encoded bytes, a data URL or a Pillow image.

        An unreadable picture or a failed request raises nothing: the prediction has a ``failure``. ``name`` becomes
        the prediction's ``source``.
        """
        if isinstance(picture, bytes):
            source = name or f"<{len(picture)} bytes>"
        elif isinstance(picture, Image.Image):
            source = name or f"<image {picture.width}x{picture.height}>"
        else:
            source = name or str(picture)
        try:
            image = await asyncio.to_thread(load_picture, picture, self.limits)
        except UnreadableImage as error:
            return Prediction(source, failure=str(FailureReason.UNREADABLE_IMAGE), detail=str(error))
        answer = await ask_two_steps(self.engine, self.row(image), self.settings)
        completion = answer.choice_reply.texts[0] if answer.choice_reply and answer.choice_reply.texts else None
        failed, detail = answer.failed_reply, None
        failure = None if answer.chosen is not None else str(FailureReason.NO_OPTION_NAMED)
        if failed is not None:
            failure, detail = str(failed.failure or FailureReason.NO_COMPLETION), failed.detail
        elif not answer.votes.counts:
            # Every option is a filler: whatever the second step chose is no answer.
            failure, detail = str(FailureReason.NO_CLASS_NAMED), _instead(answer.votes)
        return Prediction(
            source=source,
            answer=answer.chosen if failure is None else None,
            votes=dict(answer.votes.counts),
            unknown=dict(answer.votes.unknown),
            unanswered=answer.votes.unanswered,
            options=answer.question.options if answer.question is not None else (),
            letter=answer.letter,
            reasoning=parse_reasoning(completion or ""),
            completion=completion,
            failure=failure,
            detail=detail,
        )

    async def classify_all(self, pictures: Iterable[PictureSource], *, in_flight: int = 64) -> list[Prediction]:
        """The predictions in the order of ``pictures``; at most ``in_flight`` pictures are processed at a time."""
        if in_flight < 1:
            raise SetupError(f"in_flight is {in_flight}: it must be at least 1.")
        slots = asyncio.Semaphore(in_flight)

        async def one(picture: PictureSource) -> Prediction:
            async with slots:
                return await self.classify(picture)

        return list(await asyncio.gather(*(one(picture) for picture in pictures)))

    def row(self, image: Image.Image) -> PreparedRow:
        """The row of an upright RGB picture; an equal picture gets equal seeds, whatever file it came from."""
        text = prompts.open_question(self.wording, self._names.names)
        picture = {"type": "image", "image": image, "min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        messages = [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]
        digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:32]
        return PreparedRow("", digest, "", "", self._names, self.wording, messages)


class TwoStepClassifier:
    """``AsyncTwoStepClassifier`` for programs without an event loop, and for notebooks.

    Make it with ``from_model`` or ``from_server``. Close it, or use it as a context manager, to end the model's
    processes. It may be called from several threads.
    """

    def __init__(
        self,
        engine: Engine,
        classes: ClassNames | Iterable[str],
        *,
        _loop: "_LoopThread | None" = None,
        **options: Unpack[ClassifierOptions],
    ) -> None:
        """As for ``AsyncTwoStepClassifier``; ``engine`` must not be bound to an event loop of the caller."""
        self._classifier = AsyncTwoStepClassifier(engine, classes, **options)
        self._loop = _loop or _LoopThread()

    @classmethod
    def from_model(
        cls, model: str | Path, classes: ClassNames | Iterable[str], **options: Unpack[ClassifierOptions]
    ) -> "TwoStepClassifier":
        """Load a model into this process: a Hugging Face folder, or a verl checkpoint, which is merged first.

        Raises:
            SetupError: there is no model, or it does not start.
        """
        from divek_verl.engines.checkpoints import model_folder
        from divek_verl.engines.options import EngineOptions

        return cls.from_options(EngineOptions(model=model_folder(str(model)), verbose=True), classes, **options)

    @classmethod
    def from_server(
        cls, base_url: str, model: str, classes: ClassNames | Iterable[str], **options: Unpack[ClassifierOptions]
    ) -> "TwoStepClassifier":
        """Ask the model named ``model`` on an OpenAI-compatible server, with the key in ``OPENAI_API_KEY``.

        Raises:
            SetupError: nothing answers at ``base_url``, or the key is refused.
        """
        from divek_verl.engines.options import Backend, EngineOptions

        engine = EngineOptions(model=model, base_url=base_url, backend=Backend.OPENAI)
        return cls.from_options(engine, classes, **options)

    @classmethod
    def from_options(
        cls, engine: "EngineOptions", classes: ClassNames | Iterable[str], **options: Unpack[ClassifierOptions]
    ) -> "TwoStepClassifier":
        """Open the engine that ``engine`` describes; it is closed with the classifier.

        Raises:
            SetupError: the engine cannot be started or reached, or the class list is too short.
        """
        from divek_verl.engines import open_engine

        # Check the list before loading the model, which may take minutes.
        names = two_or_more(classes)
        loop = _LoopThread()
        try:
            opened = loop.run(loop.closing.enter_async_context(open_engine(engine)))
            return cls(opened, names, _loop=loop, **options)
        except BaseException:
            loop.close()
            raise

    def classify(self, picture: PictureSource, *, name: str | None = None) -> Prediction:
        """See ``AsyncTwoStepClassifier.classify``."""
        return self._loop.run(self._classifier.classify(picture, name=name))

    def classify_all(self, pictures: Sequence[PictureSource], *, in_flight: int = 64) -> list[Prediction]:
        """See ``AsyncTwoStepClassifier.classify_all``."""
        return self._loop.run(self._classifier.classify_all(pictures, in_flight=in_flight))

    def close(self) -> None:
        """Close the engine that this object opened; a second call does nothing."""
        self._loop.close()

    def __enter__(self) -> "TwoStepClassifier":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _instead(votes: Votes) -> str:
    """What the samples say where none names a class of the list."""
    frequent = ", ".join(f"{name} {count}x" for name, count in list(votes.unknown.items())[:3])
    said = f" (most frequent: {frequent})" if frequent else ""
    return f"none of {votes.total} samples names a class of the list{said}"


def two_or_more(classes: ClassNames | Iterable[str]) -> ClassNames:
    """The class list; a SetupError if it has fewer than two classes."""
    names = classes if isinstance(classes, ClassNames) else ClassNames(classes)
    if len(names) < 2:
        raise SetupError("A question needs two classes: add classes to the list.")
    return names


class _LoopThread:
    """An event loop in its own thread, because an engine is bound to the loop that opened it.

    ``closing`` holds what was opened in the loop.
    """

    def __init__(self) -> None:
        self.closing = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="divek-classifier", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[object, None, T]) -> T:
        """The result of ``work``, which Ctrl-C cancels."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self.run(self.closing.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
