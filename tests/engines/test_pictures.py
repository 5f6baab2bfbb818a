"""Pictures reach an engine as training shows them."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from divek_verl.engines.pictures import read_pictures, to_chat
from divek_verl.images import UnreadableImage


def sideways(path: Path) -> Path:
    """A wide picture that a camera marked as turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (112, 56), "red").save(path, exif=exif)
    return path


def about(image: object) -> list[dict]:
    picture = {"type": "image", "image": image, "min_pixels": 3136, "max_pixels": 401408}
    return [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [picture, {"type": "text", "text": "?"}]},
    ]


def test_a_sideways_picture_is_turned(tmp_path: Path) -> None:
    path = sideways(tmp_path / "a.jpg")
    url = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
    for source in (str(path), url):
        (image,) = read_pictures(about(source))
        assert image.size == (56, 112)


def test_transparency_is_white_as_in_training(tmp_path: Path) -> None:
    Image.new("RGBA", (56, 56), (0, 0, 0, 0)).save(tmp_path / "a.png")
    (image,) = read_pictures(about(str(tmp_path / "a.png")))
    assert image.getpixel((10, 10)) == (255, 255, 255)


def test_a_picture_in_memory_is_taken_as_it_is() -> None:
    (image,) = read_pictures(about(Image.new("RGB", (56, 56), "blue")))
    assert image.getpixel((10, 10)) == (0, 0, 255)


def test_a_server_gets_the_same_pixels(tmp_path: Path) -> None:
    (_, user) = to_chat(about(str(sideways(tmp_path / "a.jpg"))))
    content = base64.b64decode(user["content"][0]["image_url"]["url"].partition(",")[2])
    (local,) = read_pictures(about(str(tmp_path / "a.jpg")))
    assert list(Image.open(io.BytesIO(content)).getdata()) == list(local.getdata())


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_picture_is_unreadable(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImage):
        read_pictures(about(str(tmp_path / "a.png")))
