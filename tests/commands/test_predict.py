"""``divek predict``: the answer on the terminal or as JSON lines, and class lists from a file or a prepared set."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from engines.server import completion, serving
from evaluation.fabricated_set import BASE, write_set
from PIL import Image
from rich.console import Console
from scripted_engine import says

from divek_verl import cli
from divek_verl.commands.predict import read_class_file, show
from divek_verl.errors import SetupError
from divek_verl.images import PictureLimits, load_picture
from divek_verl.predict import Prediction
from divek_verl.prompts import Wording, open_question


def script(body: dict[str, Any]) -> tuple[int, Any, float]:
    several = body.get("n", 1) > 1
    return 200, completion(says(*["Chad", "Romania", "Chad"]) if several else says("A")), 0.0


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    Image.new("RGB", (32, 24), (200, 30, 30)).save(tmp_path / "flag.png")
    return tmp_path / "flag.png"


def predict(address: str, *arguments: str) -> int:
    return cli.run(["predict", *arguments, "--model", "m", "--base-url", address, "--samples", "3"])


def test_json_lines_and_nothing_else(flag: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Chad\n\n Romania \nAndorra\n")
    with serving(script) as address:
        assert predict(address, str(flag), str(flag), "--classes", str(names), "--json") == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["source"] for line in lines] == [str(flag)] * 2
    assert lines[0]["votes"] == {"Chad": 2, "Romania": 1}
    assert lines[0]["answer"] == lines[0]["options"][0]
    assert lines[0]["reasoning"] == "because"


def test_a_prepared_set_gives_the_class_list_and_the_wording(
    flag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "data", {"base": 1})
    asked: list[str] = []

    def remember(body: dict[str, Any]) -> tuple[int, Any, float]:
        asked.append(body["messages"][0]["content"][1]["text"])
        return script(body)

    with serving(remember) as address:
        assert predict(address, str(flag), "--data", str(tmp_path / "data"), "--side", "base") == 0
        assert predict(address, str(flag), "--data", str(tmp_path / "data"), "--kind", "nation") == 0
    assert open_question(Wording("flag", "country"), BASE) == asked[0]
    assert any("flag" in text and "nation" in text for text in asked)
    assert "Chad" in capsys.readouterr().out


def test_a_folder_stands_for_its_pictures(flag: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (path,) = write_set(tmp_path / "data", {"base": 1})
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "more/a.png", "c.PNG"):
        (folder / name).write_bytes(flag.read_bytes())
    (folder / "notes.txt").write_text("seen in spring")
    with serving(script) as address:
        assert predict(address, str(folder), "--data", str(path), "--json", "--limit", "2") == 0
    shown = capfd.readouterr()
    sources = [json.loads(line)["source"] for line in shown.out.splitlines()]
    assert sources == [str(folder / "b.png"), str(folder / "c.PNG")]
    assert "1 files are no pictures by their suffix, left out" in shown.err
    assert predict(address, str(tmp_path / "none"), "--data", str(path)) == 2


def test_no_engine_is_started_where_no_picture_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "data", {"base": 1})
    (tmp_path / "text.png").write_text("text")
    # Nothing answers at this address, and nobody asks.
    given = [str(tmp_path / "text.png"), str(tmp_path / "none.png")]
    assert predict("http://127.0.0.1:9/v1", *given, "--data", str(tmp_path / "data")) == 2
    shown = capsys.readouterr()
    assert shown.out.count("no answer, unreadable_image") == 2
    assert "None of 2 pictures can be read: give picture files, or folders of them" in shown.err


def test_a_picture_without_an_answer_is_status_1(
    flag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "data", {"base": 1})
    with serving(script) as address:
        assert predict(address, str(flag), str(tmp_path / "none.png"), "--data", str(tmp_path / "data")) == 1
    shown = capsys.readouterr().out
    assert "no answer, unreadable_image" in shown


def test_only_the_first_picture_that_can_be_read_is_decoded_twice(
    flag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "data", {"base": 1})
    decoded: Counter[str] = Counter()

    def counted(picture: Any, limits: PictureLimits) -> Image.Image:
        decoded[Path(picture).name] += 1
        return load_picture(picture, limits)

    monkeypatch.setattr("divek_verl.commands.predict.load_picture", counted)
    monkeypatch.setattr("divek_verl.predict.load_picture", counted)
    given = [str(tmp_path / name) for name in ("none.png", "flag.png", "missing.png", "second.png")]
    flag.with_name("second.png").write_bytes(flag.read_bytes())
    with serving(script) as address:
        assert predict(address, *given, "--data", str(tmp_path / "data"), "--json") == 1
    assert decoded == {"none.png": 1, "flag.png": 2, "missing.png": 1, "second.png": 1}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["source"] for line in lines] == given
    assert [line["failure"] for line in lines] == ["unreadable_image", None, "unreadable_image", None]


@pytest.mark.parametrize("content", ["\ufeffChad\nRomania\n", '["Chad", "Romania"]', "Chad\r\n\r\n  Romania"])
def test_class_names_of_a_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "names"
    path.write_bytes(content.encode("utf-8"))
    assert read_class_file(path) == ["Chad", "Romania"]


def test_files_that_hold_no_class_names(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        read_class_file(tmp_path / "none")
    (tmp_path / "list").write_text('["Chad", ')
    with pytest.raises(SetupError, match="is not a JSON list"):
        read_class_file(tmp_path / "list")
    (tmp_path / "classes.json").write_text('{"base": ["Chad", "Romania"]}')
    with pytest.raises(SetupError, match="JSON object: give --data the folder"):
        read_class_file(tmp_path / "classes.json")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SetupError, match="cannot be read"):
        read_class_file(tmp_path / "bytes")


def test_a_list_of_one_class_is_refused_before_a_model_is_loaded(
    flag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.txt").write_text("Chad")
    # Nothing answers at this address, and nobody asks.
    assert predict("http://127.0.0.1:9/v1", str(flag), "--classes", str(tmp_path / "one.txt")) == 2
    assert "A question needs two classes" in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["--classes", "a", "--data", "b"]])
def test_there_is_one_class_list(given: list[str], flag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", str(flag), "--model", "m", *given]) == 2
    assert "give either --classes FILE or --data DIR" in capsys.readouterr().err


def shown(prediction: Prediction) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    show(prediction, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_all_that_is_known_is_shown() -> None:
    text = shown(
        Prediction(
            "flag.png",
            answer="Chad",
            votes={"Romania": 11, "Chad": 7},
            unknown={"Atlantis": 1},
            unanswered=1,
            options=("Chad", "Romania"),
            letter="A",
            reasoning="the blue is light",
        )
    )
    for part in ("flag.png", "Chad", "11", "Atlantis (not in the class list)", "no answer", "the blue is light"):
        assert part in text


def test_what_a_model_writes_cannot_speak_to_the_terminal() -> None:
    text = shown(
        Prediction("\x1b]0;x\x07[red]", answer=None, failure="no_option_named", completion="\x1b[2J[bold]\u202e")
    )
    assert "\x1b" not in text and "\u202e" not in text
    assert "[bold]" in text and "[red]" in text
