"""``divek prepare`` as a whole: settings, reproducibility, damage, and the scripts that run the same."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from prepare.layouts import MUSHROOMS, aircraft, cars, cub, flowers, grocery, paint, pets
from prepare.running import classes, contents, counts, images, prepare, rows

from divek_verl import cli
from divek_verl.class_lists import image_root
from divek_verl.commands.prepare import COMMANDS
from divek_verl.prepare.sets import WORDINGS

REPOSITORY = Path(__file__).resolve().parents[2]
MAKERS = {"cub": cub, "flowers": flowers, "pets": pets, "cars": cars, "aircraft": aircraft, "grocery": grocery}


@pytest.mark.parametrize("name", MAKERS)
def test_few_shot_writes_the_same_images_of_each_class_for_one_seed(name: str, tmp_path: Path) -> None:
    few_shot = ["--data-root", MAKERS[name](tmp_path / "raw"), "--setting", "few-shot", "--shots", 3]
    out, again, other = (
        prepare(name, *few_shot, "--seed", seed, out=tmp_path / f"out{number}") for number, seed in enumerate((0, 0, 1))
    )
    assert contents(out) == contents(again)
    assert set(images(out, "train")) != set(images(other, "train"))
    assert set(counts(out)) == {"train", "val"}
    assert counts(out)["train"] == 3 * len(classes(out)["all"])
    assert {row["data_source"] for row in rows(out, "train") + rows(out, "val")} == {f"divek/{name}/all"}
    assert not set(images(out, "train")) & set(images(out, "val"))
    assert classes(out)["wording"] == asdict(WORDINGS[name])
    assert f"Look at the {WORDINGS[name].thing} in the image" in rows(out, "train")[0]["prompt"][0]["content"]


def test_parquet_files_do_not_depend_on_where_the_images_are(tmp_path: Path) -> None:
    for place in ("a", "b/c"):
        prepare("cub", "--data-root", cub(tmp_path / place / "CUB_200_2011"), out=tmp_path / "out" / place)
    one, two = contents(tmp_path / "out/a"), contents(tmp_path / "out/b/c")
    assert [name for name in one if one[name] != two[name]] == ["set.json"]


def test_a_set_can_be_moved_alone_and_with_its_images(tmp_path: Path) -> None:
    cub(tmp_path / "home/CUB_200_2011")
    out = prepare("cub", "--data-root", tmp_path / "home", out=tmp_path / "home/prepared/cub")
    image = images(out, "train")[0]
    assert not Path(image).is_absolute()
    alone = out.rename(tmp_path / "alone")
    assert (image_root(str(alone), "cub") / image).is_file()
    alone.rename(out)
    (tmp_path / "home").rename(tmp_path / "moved")
    assert (image_root(str(tmp_path / "moved/prepared/cub"), "cub") / image).is_file()


def test_embedded_images_are_the_files(tmp_path: Path) -> None:
    root = cub(tmp_path / "CUB_200_2011")
    out = prepare("cub", "--data-root", root, "--embed-images", out=tmp_path / "out")
    for row in rows(out, "val_new"):
        assert row["images"][0]["bytes"] == (root / "images" / row["extra_info"]["image_id"]).read_bytes()
    assert "image_roots" not in json.loads((out / "set.json").read_text())


@pytest.mark.parametrize(
    ("option", "value", "sizes"), [("--limit", 5, (5, 5, 4)), ("--val-fraction", 0.5, (15, 15, 10))]
)
def test_a_limit_and_the_share_of_validation_are_options(
    tmp_path: Path, option: str, value: float, sizes: tuple[int, int, int]
) -> None:
    out = prepare("cub", "--data-root", cub(tmp_path / "raw"), option, value, out=tmp_path / "out")
    assert counts(out) == dict(zip(("train", "val_base", "val_new"), sizes, strict=True))


def test_a_share_that_acts_on_nothing_is_said_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Aircraft has a validation part of its own."""
    root = aircraft(tmp_path / "raw")
    prepare("aircraft", "--data-root", root, "--val-fraction", 0.5, out=tmp_path / "out")
    assert "--val-fraction has no effect: aircraft has a validation part" in capsys.readouterr().out


def test_a_truncated_image_stops_and_the_earlier_set_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = cub(tmp_path / "raw")
    out = prepare("cub", "--data-root", root, out=tmp_path / "out")
    before = contents(out)
    victim = root / "images" / images(out, "train")[0]
    victim.write_bytes(victim.read_bytes()[:50])
    capsys.readouterr()
    prepare("cub", "--data-root", root, out=out, status=2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {victim} cannot be decoded (") and error.endswith("with --on-error skip.")
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert counts(prepare("cub", "--data-root", root, "--on-error", "skip", out=out))["train"] == 23


@pytest.mark.parametrize("name", ["image_folder", "hf"])
def test_a_set_of_ones_own_is_asked_about_in_its_own_words(name: str, tmp_path: Path) -> None:
    for number in range(24):
        paint(tmp_path / "raw" / MUSHROOMS[number % 4] / f"{number}.png", number)
    root = ["--data-root", tmp_path / "raw"]
    told = prepare(name, *root, "--thing", "mushroom", "--kind", "genus", out=tmp_path / "told")
    silent = prepare(name, *root, out=tmp_path / "silent")
    assert classes(told)["wording"] == {"thing": "mushroom", "kind": "genus"}
    assert classes(silent)["wording"] == {"thing": "main object", "kind": "category"}
    for out, words in ((told, "the mushroom in the image and decide its most likely genus"), (silent, "main object")):
        assert all(words in row["prompt"][0]["content"] for row in rows(out, "train") + rows(out, "val_new"))


@pytest.mark.parametrize("name", ["image_folder", "hf"])
def test_the_help_asks_for_the_words_of_ones_own_set(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["prepare", name, "--help"]) == 0
    assert "--thing bird --kind species" in " ".join(capsys.readouterr().out.split())


# The scripts


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "data_prep" / f"{name}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_there_is_a_script_for_each_command() -> None:
    assert {path.stem for path in (REPOSITORY / "data_prep").glob("*.py")} == set(COMMANDS)
    for name in COMMANDS:
        text = (REPOSITORY / "data_prep" / f"{name}.py").read_text()
        assert f"python data_prep/{name}.py" in text
        assert f"`divek prepare {name}` is the same command" in text


def test_a_script_writes_what_the_command_writes(tmp_path: Path) -> None:
    root = pets(tmp_path / "raw")
    done = script("pets", "--data-root", root, "--out", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    prepare("pets", "--data-root", root, out=tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_script_ends_with_status_2_and_one_sentence(tmp_path: Path) -> None:
    done = script("cub", "--data-root", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""
