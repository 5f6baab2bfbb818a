"""Prompts that are counted are verl's own, token for token; where they would not be, verl's way is kept to."""

import logging
from typing import Any

import pytest
from PIL import Image

from divek_verl.trainer.prompt_tokens import PromptTokens, can_count

from .worker_fakes import build, folder, queue

SIZES = [(28, 28), (112, 84), (140, 252), (560, 28)]


def conversation(*images: Image.Image, text: str = "Which flag is this?") -> list[dict]:
    pictures = [{"type": "image", "image": image} for image in images]
    return [{"role": "system", "content": "Short answers."}, {"role": "user", "content": [*pictures, _text(text)]}]


def _text(text: str) -> dict:
    return {"type": "text", "text": text}


def picture(size: tuple[int, int] = (112, 84)) -> Image.Image:
    return Image.new("RGB", size, (200, 30, 30))


@pytest.fixture
def loop(build: Any) -> Any:
    """verl's single-turn agent loop."""
    return build("data.max_prompt_length=400").miner._single_turn_loop()


def verls_own(loop: Any, *images: Image.Image) -> list[int]:
    return list(loop.continuous_token_builder.build_initial_tokens(conversation(*images), images=list(images) or None))


@pytest.fixture
def trusted(loop: Any) -> PromptTokens:
    """One that has compared its way with verl's."""
    tokens = PromptTokens(loop)
    tokens(conversation(picture()), [picture()])
    return tokens


def forbid_pixels(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a picture was processed")

    monkeypatch.setattr(loop.continuous_token_builder, "build_initial_tokens", refuse)


@pytest.mark.parametrize("size", SIZES)
def test_a_counted_prompt_is_verls_own(
    loop: Any, trusted: PromptTokens, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = verls_own(loop, picture(size))
    forbid_pixels(loop, monkeypatch)
    assert trusted(conversation(picture(size)), [picture(size)]) == expected


def test_each_of_two_pictures_has_its_own_number_of_tokens(
    loop: Any, trusted: PromptTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [picture((56, 56)), picture((140, 84))]
    expected = verls_own(loop, *images)
    forbid_pixels(loop, monkeypatch)
    assert trusted(conversation(*images), images) == expected


def test_a_prompt_without_a_picture_is_built_by_verl(loop: Any, trusted: PromptTokens) -> None:
    assert trusted(conversation(), None) == verls_own(loop)


@pytest.mark.parametrize("off_by", [-1, 1])
def test_where_the_two_ways_differ_verls_is_taken_every_time(
    loop: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, off_by: int
) -> None:
    count = type(loop.processor)._get_num_multimodal_tokens

    def miscount(self: Any, image_sizes: Any, **kwargs: Any) -> dict:
        found = count(self, image_sizes=image_sizes, **kwargs)
        return {"num_image_tokens": [number + off_by for number in found["num_image_tokens"]]}

    monkeypatch.setattr(type(loop.processor), "_get_num_multimodal_tokens", miscount)
    tokens = PromptTokens(loop)
    with caplog.at_level(logging.WARNING):
        for size in SIZES:
            assert tokens(conversation(picture(size)), [picture(size)]) == verls_own(loop, picture(size))
    assert len(caplog.records) == 1


def test_options_that_change_the_pixels_leave_it_to_verl(loop: Any) -> None:
    assert can_count(loop)
    loop.mm_processor_kwargs = {"max_pixels": 784}
    assert not can_count(loop)


def test_a_processor_that_cannot_tell_leaves_it_to_verl(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "processor", object())
    assert not can_count(loop)


def test_a_prompt_that_does_not_fit_says_what_to_change(trusted: PromptTokens) -> None:
    large = picture((560, 560))
    with pytest.raises(ValueError, match="data.max_prompt_length=400"):
        trusted(conversation(large), [large])
