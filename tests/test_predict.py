"""The two-step answer for a person's own picture, in Python: every kind of source, every failure by name."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from engines.server import completion, serving
from PIL import Image
from scripted_engine import ScriptedEngine, prompt_text, says

from divek_verl.engines.base import Reply, Request, Sampling
from divek_verl.engines.two_step import TwoStepSettings
from divek_verl.errors import SetupError
from divek_verl.images import PictureLimits
from divek_verl.labels import ClassNames
from divek_verl.predict import AsyncTwoStepClassifier, Prediction, TwoStepClassifier
from divek_verl.prompts import Wording, open_question

FLAGS = Wording("flag", "country")
NAMES = ("Chad", "Romania", "Andorra")
SETTINGS = TwoStepSettings(num_samples=4)


def answer(request: Request, sampling: Sampling) -> Reply:
    if request.key.endswith("/open"):
        return Reply(request.key, (*says("Chad", "Chad", "Romania"), "cut"))
    letter = "A" if "A. Romania" in prompt_text(request.messages) else "B"
    return Reply(request.key, (f"<think>the blue is light</think><answer>{letter}</answer>",))


def picture(colour: tuple[int, int, int] = (200, 30, 30)) -> Image.Image:
    return Image.new("RGB", (32, 24), colour)


def encoded() -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(answer)


@pytest.fixture
def classifier(engine: ScriptedEngine) -> Any:
    with TwoStepClassifier(engine, NAMES, wording=FLAGS, settings=SETTINGS) as made:
        yield made


def test_a_prediction_is_the_class_the_votes_the_options_and_the_reasoning(classifier: TwoStepClassifier) -> None:
    found = classifier.classify(picture())
    assert found.answer == "Romania"
    assert (found.votes, found.unknown, found.unanswered) == ({"Chad": 2, "Romania": 1}, {}, 1)
    assert set(found.options) == {"Chad", "Romania"}
    assert found.letter is not None and found.options["AB".index(found.letter)] == "Romania"
    assert found.reasoning == "the blue is light"
    assert (found.failure, found.source) == (None, "<image 32x24>")


def test_paths_bytes_and_images_are_one_picture_with_one_seed(
    classifier: TwoStepClassifier, engine: ScriptedEngine, tmp_path: Path
) -> None:
    path = tmp_path / "flag.png"
    path.write_bytes(encoded())
    found = classifier.classify_all([path, str(path), encoded(), picture()])
    assert {each.answer for each in found} == {"Romania"}
    assert [each.source for each in found] == [str(path), str(path), f"<{len(encoded())} bytes>", "<image 32x24>"]
    assert len({request.key for request in engine.requests}) == 2


def test_the_model_sees_the_prompt_of_training_and_the_pixel_bounds(
    classifier: TwoStepClassifier, engine: ScriptedEngine
) -> None:
    classifier.classify(picture())
    shown, text = engine.requests[0].messages[0]["content"]
    assert text["text"] == open_question(FLAGS, NAMES)
    assert (shown["min_pixels"], shown["max_pixels"]) == (3136, 401408)
    assert isinstance(shown["image"], Image.Image)


def test_predictions_come_in_the_order_of_the_pictures(classifier: TwoStepClassifier) -> None:
    pictures = [picture((index, 0, 0)) for index in range(20)]
    found = classifier.classify_all([*pictures, b"no picture"], in_flight=3)
    assert [each.failure for each in found] == [None] * 20 + ["unreadable_image"]


def test_no_picture_in_flight_is_refused_and_does_not_hang(engine: ScriptedEngine) -> None:
    async def run() -> None:
        await asyncio.wait_for(AsyncTwoStepClassifier(engine, NAMES).classify_all([picture()], in_flight=0), timeout=5)

    with pytest.raises(SetupError, match="in_flight is 0"):
        asyncio.run(run())


def test_a_name_can_be_given(classifier: TwoStepClassifier) -> None:
    assert classifier.classify(picture(), name="my flag").source == "my flag"


def test_what_cannot_be_read_is_a_prediction_with_a_reason(classifier: TwoStepClassifier, tmp_path: Path) -> None:
    missing = classifier.classify(tmp_path / "none.png")
    assert (missing.answer, missing.failure) == (None, "unreadable_image")
    assert missing.detail == f"{tmp_path / 'none.png'} cannot be read (No such file or directory)"
    assert classifier.classify("https://example.org/flag.png").failure == "unreadable_image"


@pytest.mark.parametrize(
    ("opened", "chosen", "failure"),
    [
        (Reply("k", failure="timeout", detail="slow"), None, "timeout"),
        (Reply("k", says("Chad")), Reply("k", failure="server_error"), "server_error"),
        (Reply("k", says("Chad")), Reply("k", says("neither")), "no_option_named"),
    ],
)
def test_a_request_that_fails_is_a_prediction_with_a_reason(opened: Reply, chosen: Reply, failure: str) -> None:
    engine = ScriptedEngine(lambda request, _: opened if request.key.endswith("/open") else chosen)
    with TwoStepClassifier(engine, NAMES, settings=SETTINGS) as classifier:
        found = classifier.classify(picture())
    assert (found.answer, found.failure) == (None, failure)


def test_a_filler_is_no_answer() -> None:
    engine = ScriptedEngine(
        lambda request, _: Reply("k", says(*["Narnia"] * 3, "Oz") if request.key.endswith("/open") else says("A"))
    )
    with TwoStepClassifier(engine, NAMES, settings=TwoStepSettings(num_samples=4)) as classifier:
        found = classifier.classify(picture())
    assert (found.answer, found.failure) == (None, "no_class_named")
    assert found.detail == "none of 4 samples names a class of the list (most frequent: Narnia 3x, Oz 1x)"
    assert found.letter == "A" and set(found.votes) == set()


def test_a_prediction_is_plain_json(classifier: TwoStepClassifier) -> None:
    record = classifier.classify(picture()).to_json()
    assert isinstance(record["options"], list)
    assert set(record) == set(Prediction("x").to_json())


def test_the_async_variant_runs_in_the_callers_loop(engine: ScriptedEngine) -> None:
    async def run() -> list[Prediction]:
        classifier = AsyncTwoStepClassifier(engine, ClassNames(NAMES), settings=SETTINGS, limits=PictureLimits())
        return await classifier.classify_all([picture(), encoded()])

    assert [each.answer for each in asyncio.run(run())] == ["Romania", "Romania"]


def test_the_sync_variant_works_inside_a_running_loop(classifier: TwoStepClassifier) -> None:
    """As in a notebook."""

    async def run() -> Prediction:
        return classifier.classify(picture())

    assert asyncio.run(run()).answer == "Romania"


def test_a_closed_classifier_stays_closed(engine: ScriptedEngine) -> None:
    classifier = TwoStepClassifier(engine, NAMES)
    classifier.close()
    classifier.close()


@pytest.mark.parametrize("names", [["Chad"], ["Chad", "chad"], []])
def test_a_class_list_that_cannot_work(engine: ScriptedEngine, names: list[str]) -> None:
    with pytest.raises(SetupError):
        TwoStepClassifier(engine, names)


def test_a_running_server_is_asked() -> None:
    def script(body: dict[str, Any]) -> tuple[int, Any, float]:
        picture_part = body["messages"][0]["content"][0]
        assert picture_part["image_url"]["url"].startswith("data:image/png;base64,")
        return 200, completion(says(*["Chad"] * body["n"]) if body.get("n", 1) > 1 else says("A")), 0.0

    with (
        serving(script) as address,
        TwoStepClassifier.from_server(address, "m", NAMES, settings=TwoStepSettings(num_samples=3)) as classifier,
    ):
        found = classifier.classify(picture())
    assert (found.votes, found.letter) == ({"Chad": 3}, "A")


def test_a_server_that_is_not_there_is_a_setup_error() -> None:
    with serving(lambda body: (200, {}, 0.0)) as address:
        pass
    with pytest.raises(SetupError, match="Nothing answers at"):
        TwoStepClassifier.from_server(address, "m", NAMES)


def test_a_model_that_is_not_there_is_a_setup_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds neither a model"):
        TwoStepClassifier.from_model(tmp_path, NAMES)
