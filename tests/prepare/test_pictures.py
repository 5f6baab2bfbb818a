"""The check of pictures: what cannot be trained on is a result in words, and nothing waits or piles up."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from divek_verl.prepare.pictures import check_picture, hash_file, in_threads

from .layouts import paint


def find_problem(content: bytes, folder: Path) -> str | None:
    (folder / "picture").write_bytes(content)
    return check_picture(folder / "picture").problem


def encoded(image: Image.Image, kind: str) -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_any_kind_of_pixel_can_be_trained_on(mode: str, tmp_path: Path) -> None:
    assert find_problem(encoded(Image.new(mode, (12, 9)), "TIFF"), tmp_path) is None


@pytest.mark.parametrize(("size", "fits"), [((8, 8), True), ((7, 100), False), ((100, 7), False)])
def test_both_sides_are_at_least_8_pixels(size: tuple[int, int], fits: bool, tmp_path: Path) -> None:
    problem = find_problem(encoded(Image.new("RGB", size), "PNG"), tmp_path)
    assert (problem is None) == fits
    assert fits or f"{size[0]}x{size[1]}" in str(problem)


def test_a_file_is_read_once_and_hashed(tmp_path: Path) -> None:
    paint(tmp_path / "a.jpg", 1)
    content = (tmp_path / "a.jpg").read_bytes()
    picture = check_picture(tmp_path / "a.jpg", keep_content=True)
    assert (picture.problem, picture.content) == (None, content)
    assert picture.digest == hashlib.sha256(content).digest() == hash_file(tmp_path / "a.jpg")
    assert check_picture(tmp_path / "a.jpg").content is None


def test_what_is_no_picture_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    expected = {
        "empty": "is empty",
        "text": "cannot be decoded",
        "loop": "cannot be read",
        "gone": "cannot be read (No such file",
        "folder": "is no file",
        "pipe": "is no file",
    }
    for name, reason in expected.items():
        problem = check_picture(tmp_path / f"{name}.jpg").problem
        assert problem is not None and problem.startswith(reason), (name, problem)
        assert "\n" not in problem


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(257 * 2**20)
    assert check_picture(tmp_path / "sparse.jpg").problem == "has 257.0 MB, the most is 256.0"


def test_results_come_in_order_and_only_a_few_are_ahead() -> None:
    taken = 0

    def keys() -> Iterator[int]:
        nonlocal taken
        for key in range(1000):
            taken += 1
            yield key

    for done, (key, result) in enumerate(in_threads(lambda key: key * 2, keys())):
        assert (key, result) == (done, done * 2)
        assert taken <= done + 4 * max(2, os.cpu_count() or 2) + 1
    assert taken == 1000


def test_an_error_of_the_work_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda key: 1 // key, [1, 0]))
