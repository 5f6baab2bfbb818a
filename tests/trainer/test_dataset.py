import asyncio
import io
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engines.conftest import damaged_avif
from omegaconf import OmegaConf
from PIL import Image

from divek_verl import prompts
from divek_verl.errors import SetupError
from divek_verl.images import UnreadableImage
from divek_verl.labels import ClassNames
from divek_verl.prompts import is_divek
from divek_verl.question import Question, build_question
from divek_verl.reward import compute_score
from divek_verl.trainer.configure import MANAGER
from divek_verl.trainer.dataset import DiveKDataset
from divek_verl.trainer.questions import to_multiple_choice
from divek_verl.votes import Votes

BASE = ("Chad", "Romania", "Andorra", "Moldova")
QUESTION = prompts.open_question(prompts.Wording(), BASE)
Row = dict[str, Any]


def paint(path: Path, size: tuple[int, int] = (112, 84)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 30)).save(path)


def row(index: int, truth: str = "Chad", **changes: Any) -> Row:
    return {
        "data_source": "divek/flags/base",
        "prompt": prompts.user_prompt(QUESTION),
        "images": [{"image": f"images/{index}.png"}],
        "ability": "classification",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"index": index, "split": "train", "image_id": f"flag-{index}", "dataset": "flags"},
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared set: the class lists and four pictures."""
    classes = {"base": list(BASE), "new": ["Monaco", "Indonesia"], "all": [*BASE, "Monaco", "Indonesia"]}
    (tmp_path / "classes.json").write_text(json.dumps({**classes, "aliases": {"Chad": ["Republic of Chad"]}}))
    for index in range(4):
        paint(tmp_path / f"images/{index}.png")
    return tmp_path


def write(folder: Path, rows: Sequence[Row], name: str = "train") -> str:
    path = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


@pytest.fixture
def load(processor: Any) -> Any:
    """Loads files as verl does; keyword arguments change ``data.*``."""

    def load_files(
        files: str | list[str], *, max_samples: int = -1, divek: dict | None = None, vision: bool = True, **data: Any
    ) -> DiveKDataset:
        config = {"max_prompt_length": 256, "filter_overlong_prompts": True, "filter_overlong_prompts_workers": None}
        return DiveKDataset(
            data_files=files,
            tokenizer=processor.tokenizer,
            processor=processor if vision else None,
            config=OmegaConf.create({**config, **data, "divek": divek or {}}),
            max_samples=max_samples,
        )

    return load_files


def image_ids(dataset: DiveKDataset) -> list[str]:
    return [dataset[index]["extra_info"]["image_id"] for index in range(len(dataset))]


# ---------------------------------------------------------------------------------------- a row as the rollout gets it


def test_a_row_is_a_conversation_with_its_picture_first(folder: Path, load: Any) -> None:
    item = load(write(folder, [row(0), row(1)]))[1]
    (message,) = item["raw_prompt"]
    picture, text = message["content"]
    assert message["role"] == "user"
    assert text == {"type": "text", "text": QUESTION}
    assert picture["type"] == "image"
    assert picture["image"] == str(folder / "images" / "1.png")
    assert item["image_root"] == str(folder)
    assert item["reward_model"] == {"style": "rule", "ground_truth": "Chad"}
    assert item["index"] == 1
    assert "images" not in item


def test_a_prepared_set_can_be_moved_and_named_from_the_current_folder(
    folder: Path, load: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, [row(0)])
    moved = tmp_path_factory.mktemp("elsewhere") / "set"
    folder.rename(moved)
    item = load(str(moved / "train.parquet"))[0]
    assert item["raw_prompt"][0]["content"][0]["image"] == str(moved / "images" / "0.png")
    monkeypatch.chdir(moved)
    assert load("train.parquet")[0]["image_root"] == str(moved)


def test_an_absolute_path_stays(folder: Path, load: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    picture = tmp_path_factory.mktemp("pictures") / "a.png"
    paint(picture)
    item = load(write(folder, [row(0, images=[{"image": str(picture)}])]))[0]
    assert item["raw_prompt"][0]["content"][0]["image"] == str(picture)


@pytest.mark.parametrize("max_pixels", [1568, 3136, 6272])
def test_the_bounds_hold_in_what_the_model_sees(folder: Path, load: Any, max_pixels: int) -> None:
    from qwen_vl_utils import process_vision_info

    paint(folder / "images/0.png", (300, 200))
    dataset = load(write(folder, [row(0)]), divek={"min_pixels": 784, "max_pixels": max_pixels})
    images, _ = process_vision_info(dataset[0]["raw_prompt"], image_patch_size=14)
    assert images is not None
    width, height = images[0].size
    assert 784 <= width * height <= max_pixels


# ------------------------------------------------------------------------------------------ pictures as prepared


def sideways(path: Path) -> None:
    """A 224x112 picture, red on its left, that a camera held sideways took: upright it is red on top."""
    picture = Image.new("RGB", (224, 112), (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, 112, 112))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)


async def seen(messages: list[dict]) -> Any:
    """The picture that verl's agent loop hands to the model, by both of the ways that it knows."""
    (one,), _ = await DiveKDataset.process_vision_info(messages, 14, OmegaConf.create({}))
    (two,), _, _ = await DiveKDataset.process_multi_modal_info(messages, 14, OmegaConf.create({}))
    assert one.tobytes() == two.tobytes()
    return one


@pytest.mark.parametrize("embedded", [False, True])
def test_a_picture_is_seen_upright_and_counted_so(folder: Path, load: Any, processor: Any, embedded: bool) -> None:
    """verl and qwen_vl_utils ignore the orientation that a camera wrote; preparation checked the upright picture."""
    sideways(folder / "images/0.png")
    images = [{"bytes": (folder / "images/0.png").read_bytes()}] if embedded else [{"image": "images/0.png"}]
    files = write(folder, [row(0, images=images)])
    messages = load(files)[0]["raw_prompt"]
    picture = asyncio.run(seen(messages))
    assert picture.size == (112, 224)
    assert picture.getpixel((56, 30)) == (255, 0, 0) and picture.getpixel((56, 200)) == (0, 0, 255)
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    tokens = len(processor(text=[text], images=[picture])["input_ids"][0])
    assert len(load(files, max_prompt_length=tokens)) == 1
    with pytest.raises(SetupError, match="can be used"):
        load(files, max_prompt_length=tokens - 1)


def test_an_embedded_picture_is_the_one_by_path(folder: Path, load: Any) -> None:
    paint(folder / "images/0.png", (300, 200))
    bounds = {"min_pixels": 784, "max_pixels": 6272}
    by_path = load(write(folder, [row(0)]), divek=bounds)[0]["raw_prompt"]
    embedded = row(0, images=[{"bytes": (folder / "images/0.png").read_bytes()}])
    item = load(write(folder, [embedded], "embedded"), divek=bounds)[0]
    part = item["raw_prompt"][0]["content"][0]
    assert part["image"].startswith("data:image/png;base64,")
    assert (part["min_pixels"], part["max_pixels"]) == (784, 6272)
    one, two = asyncio.run(seen(by_path)), asyncio.run(seen(item["raw_prompt"]))
    assert one.tobytes() == two.tobytes()
    assert one.width * one.height <= 6272
    rewritten = to_multiple_choice(item, Question(("Romania", "Chad"), 1, False), "Chad", {})
    assert rewritten["raw_prompt"][0]["content"][0] == part


def test_embedded_pictures_are_left_out_for_the_same_reasons(folder: Path, load: Any) -> None:
    paint(folder / "images/0.png", (1120, 840))
    contents = [(folder / "images/1.png").read_bytes(), (folder / "images/0.png").read_bytes(), b"no picture"]
    files = write(folder, [row(index, images=[{"bytes": content}]) for index, content in enumerate(contents)])
    assert load(files).left_out == {"overlong_prompt": ["flag-1"], "unreadable_image": ["flag-2"]}


def test_pictures_are_found_where_the_set_says(
    folder: Path, load: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("pictures")
    paint(elsewhere / "a/0.png")
    recorded = {"absolute": str(elsewhere), "relative": "../nowhere"}
    (folder / "set.json").write_text(json.dumps({"image_roots": {"flags": recorded}}))
    item = load(write(folder, [row(0, images=[{"image": "a/0.png"}])]))[0]
    assert item["raw_prompt"][0]["content"][0]["image"] == str(elsewhere / "a/0.png")
    assert item["image_root"] == str(folder)


def test_a_folder_of_pictures_that_is_gone_stops_at_start(folder: Path, load: Any) -> None:
    """It is one error of the set-up, not many unreadable pictures."""
    (folder / "set.json").write_text(json.dumps({"image_roots": {"flags": {"absolute": "/nowhere"}}}))
    with pytest.raises(SetupError, match="no longer in /nowhere"):
        load(write(folder, [row(0)]))


def test_a_mixed_set_has_a_class_list_for_each_of_its_data_sets(folder: Path, load: Any) -> None:
    flags = json.loads((folder / "classes.json").read_text())
    countries = {"base": ["Chad", "Peru"], "new": ["Cuba", "Iran"], "all": ["Chad", "Peru", "Cuba", "Iran"]}
    (folder / "classes.json").write_text(json.dumps({"sets": {"flags": flags, "maps": countries}}))
    rows = [row(0), row(1, truth="Peru", data_source="divek/maps/base")]
    assert len(load(write(folder, rows))) == 2
    with pytest.raises(SetupError, match="truth 'Peru' of image flag-1 is not among the classes 'base'"):
        load(write(folder, [row(1, truth="Peru")]))


# ------------------------------------------------------------------------------------------ rows that are left out


def test_unreadable_rows_are_counted_and_named(folder: Path, load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "images/1.png").write_text("no picture")
    (folder / "images/2.png").unlink()
    dataset = load(write(folder, [row(0), row(1), row(2), row(3)]))
    assert image_ids(dataset) == ["flag-0", "flag-3"]
    assert dataset.left_out == {"unreadable_image": ["flag-1", "flag-2"]}
    assert "divek_verl: left out 2 of 4 rows: unreadable_image (flag-1, flag-2)" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_validation_row_that_cannot_be_asked_stays_and_is_named(
    folder: Path, load: Any, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rollout scores it 0 under its reason; left out here, it would leave the denominator."""
    (folder / "images/1.png").write_text("no picture")
    rows = [row(0), row(1)]
    for each in rows:
        each["extra_info"]["split"] = split
    dataset = load(write(folder, rows))
    assert image_ids(dataset) == ["flag-0", "flag-1"]
    assert (dataset.left_out, dataset.counted_wrong) == ({}, {"unreadable_image": ["flag-1"]})
    assert "will count as wrong 1 of 2 rows: unreadable_image (flag-1)" in capsys.readouterr().out


def test_training_starts_over_pictures_that_hang_or_break_their_reader(folder: Path, load: Any) -> None:
    for index in (1, 2, 3):
        (folder / f"images/{index}.png").unlink()
    os.mkfifo(folder / "images/1.png")
    (folder / "images/2.png").write_bytes(damaged_avif())
    Image.new("1", (9_500, 9_500)).save(folder / "images/3.png")
    dataset = load(write(folder, [row(index) for index in range(4)]))
    assert dataset.left_out == {"unreadable_image": ["flag-1", "flag-3"]}
    # A sound header: the damage is found when its question is asked.
    asked = DiveKDataset.process_vision_info(dataset[1]["raw_prompt"], 14, OmegaConf.create())
    with pytest.raises(UnreadableImage, match="cannot be decoded"):
        asyncio.run(asked)


def test_many_left_out_rows_are_counted_and_some_named(
    folder: Path, load: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    load(write(folder, [row(0), *(row(index) for index in range(10, 17))]))
    assert "left out 7 of 8 rows: unreadable_image (flag-10, flag-11, flag-12, flag-13, flag-14, ...)" in (
        capsys.readouterr().out
    )


def test_overlong_rows_are_counted_and_named(folder: Path, load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    long = row(1, prompt=prompts.user_prompt(QUESTION + " really?" * 300))
    dataset = load(write(folder, [row(0), long]))
    assert image_ids(dataset) == ["flag-0"]
    assert dataset.left_out == {"overlong_prompt": ["flag-1"]}
    assert "left out 1 of 2 rows: overlong_prompt (flag-1)" in capsys.readouterr().out


def test_a_large_picture_makes_a_row_overlong_and_max_pixels_makes_it_fit(folder: Path, load: Any) -> None:
    paint(folder / "images/1.png", (1120, 840))  # 1,200 tokens, but for the bound
    files = write(folder, [row(0), row(1)])
    assert load(files).left_out == {"overlong_prompt": ["flag-1"]}
    assert load(files, divek={"max_pixels": 112 * 84}).left_out == {}


def test_length_is_verls_matter_where_it_was_not_asked_for(folder: Path, load: Any) -> None:
    """As verl does: without filter_overlong_prompts, what is too long fails in the rollout."""
    files = write(folder, [row(0), row(1, prompt=prompts.user_prompt(QUESTION + " really?" * 300))])
    assert len(load(files, filter_overlong_prompts=False)) == 2


@pytest.mark.parametrize("size", [(112, 84), (56, 56), (300, 200), (30, 90)])
def test_a_prompt_is_as_long_as_the_rollout_will_find_it(
    folder: Path, load: Any, processor: Any, size: tuple[int, int]
) -> None:
    """The filter counts tokens without decoding a pixel; off by one would drop or keep the wrong rows."""
    from qwen_vl_utils import process_vision_info

    paint(folder / "images/0.png", size)
    files = write(folder, [row(0)])
    messages = load(files)[0]["raw_prompt"]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    images, _ = process_vision_info(messages, image_patch_size=14)
    tokens = len(processor(text=[text], images=images)["input_ids"][0])
    assert len(load(files, max_prompt_length=tokens)) == 1
    with pytest.raises(SetupError, match="can be used"):
        load(files, max_prompt_length=tokens - 1)


def test_a_set_without_a_usable_row_is_refused(folder: Path, load: Any) -> None:
    with pytest.raises(SetupError, match=r"No row of .*train.parquet.* can be used: see the reasons above"):
        load(write(folder, [row(77)]))


def test_a_prompt_length_that_is_too_short_for_every_row_is_said_with_the_needed_one(folder: Path, load: Any) -> None:
    with pytest.raises(SetupError, match=r"the longest prompt needs data.max_prompt_length=(\d+)") as error:
        load(write(folder, [row(0)]), max_prompt_length=8)
    needed = int(str(error.value).rpartition("=")[2].rstrip("."))
    assert len(load(write(folder, [row(0)]), max_prompt_length=needed)) == 1
    with pytest.raises(SetupError, match=f"={needed}"):
        load(write(folder, [row(0)]), max_prompt_length=needed - 1)


def test_an_agent_loop_that_asks_no_questions_is_warned_of(folder: Path, load: Any) -> None:
    files = write(folder, [row(0)])
    with pytest.warns(UserWarning, match="agent loop is None"):
        load(files, divek_manager=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load(files, divek_manager=f"divek_verl.trainer.rollout.{MANAGER[1]}")
        load(files)


def test_resuming_counts_once(folder: Path, load: Any) -> None:
    dataset = load(write(folder, [row(0), row(77)]))
    dataset.resume_dataset_state()
    assert dataset.left_out == {"unreadable_image": ["flag-77"]}
    assert image_ids(dataset) == ["flag-0"]


def test_the_number_of_rows_can_be_limited(folder: Path, load: Any) -> None:
    files = write(folder, [row(index % 4) for index in range(20)])
    assert len(load(files, max_samples=7)) == 7
    assert image_ids(load(files, max_samples=3)) == ["flag-0", "flag-1", "flag-2"]
    some = image_ids(load(files, max_samples=7, shuffle=True, seed=5))
    assert some == image_ids(load(files, max_samples=7, shuffle=True, seed=5))
    assert len(load(files, max_samples=99)) == 20


# ------------------------------------------------------------------------------------------ the class list


def test_validation_images_can_be_limited_for_each_data_source(
    folder: Path, load: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seeded, in their order, and training rows stay."""
    info = [{"split": "val" if index < 9 else "train", "image_id": f"{index}"} for index in range(12)]
    same = [{"image": "images/0.png"}]
    rows = [row(i, images=same, extra_info={**row(i)["extra_info"], **info[i]}) for i in range(12)]
    found = image_ids(load(write(folder, rows), divek={"val_max_images": 4}))
    assert len(found) == 7 and found[-3:] == ["9", "10", "11"] and found == sorted(found, key=int)
    assert found == image_ids(load(write(folder, rows), divek={"val_max_images": 4}))
    assert found != image_ids(load(write(folder, rows), divek={"val_max_images": 4, "seed": 1}))
    assert "validates on 4 of 9 images of divek/flags/base" in capsys.readouterr().out


def test_a_truth_outside_the_class_list_stops_at_start(folder: Path, load: Any) -> None:
    files = write(folder, [row(0), row(1, truth="Monaco")])  # of the held-out side
    with pytest.raises(SetupError, match=r"truth 'Monaco' of image flag-1 is not among the classes 'base'") as error:
        load(files)
    assert "\n" not in str(error.value)


def test_each_row_has_the_class_list_of_its_side_in_any_spelling(folder: Path, load: Any) -> None:
    rows = [
        row(0, truth="Monaco", data_source="divek/flags/new"),
        row(1, truth="Monaco", data_source="divek/flags/all"),
        row(2, truth="republic of chad"),
        row(3, truth="ROMANIA"),
    ]
    assert len(load(write(folder, rows))) == 4


def test_a_side_that_does_not_exist_is_refused(folder: Path, load: Any) -> None:
    with pytest.raises(SetupError, match="'divek/flags/novel' is not"):
        load(write(folder, [row(0, data_source="divek/flags/novel")]))


# ------------------------------------------------------------------------------------------ mixed with other tasks


@pytest.mark.parametrize(
    ("data_source", "ours"), [("divek/flags/base", True), ("openai/gsm8k", False), ("dive", False)]
)
def test_a_row_is_ours_by_its_data_source(data_source: str, ours: bool) -> None:
    assert is_divek(data_source) == ours


def gsm8k(index: int) -> Row:
    """A row of another task, as verl prepares it: no pictures, other extra_info."""
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"content": "What is 2 + 2?", "role": "user"}],
        "ability": "math",
        "reward_model": {"ground_truth": "4", "style": "rule"},
        "extra_info": {"answer": "4", "index": index, "question": "What is 2 + 2?", "split": "train"},
    }


def geo3k(index: int) -> Row:
    """A row of another task whose pictures lie in the file."""
    content = io.BytesIO()
    Image.new("RGB", (60, 60)).save(content, "PNG")
    return {
        **gsm8k(index),
        "data_source": "hiyouga/geometry3k",
        "prompt": [{"content": "<image>How long is AB?", "role": "user"}],
        "images": [{"bytes": content.getvalue(), "path": None}],
    }


def test_rows_of_another_task_and_schema_can_be_mixed_in(
    folder: Path, load: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    files = [write(folder, [row(0), row(77)]), write(other, [gsm8k(0)], "text"), write(other, [geo3k(0)], "pictures")]
    dataset = load(files)
    ours, text, picture = (dataset[index] for index in range(3))
    assert dataset.left_out == {"unreadable_image": ["flag-77"]}
    assert ours["raw_prompt"][0]["content"][0]["image"] == str(folder / "images/0.png")
    assert "bytes" not in ours["raw_prompt"][0]["content"][0]
    assert text["data_source"] == "openai/gsm8k"
    assert text["raw_prompt"] == [{"content": "What is 2 + 2?", "role": "user"}]
    assert text["reward_model"]["ground_truth"] == "4"
    first, question = picture["raw_prompt"][0]["content"]
    assert first["type"] == "image" and first["image"].size == (60, 60)
    # DiVE-k's bounds are for its own pictures.
    assert "max_pixels" not in first
    assert question["text"] == "How long is AB?"


def test_a_picture_by_path_of_another_task_survives_pictures_by_content(
    folder: Path, load: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Mixing fills the fields that a file lacks with null, which verl would take for the picture's content."""
    other = tmp_path_factory.mktemp("other")
    paint(other / "a.png")
    by_path = {**geo3k(1), "images": [{"image": str(other / "a.png")}]}
    dataset = load([write(folder, [row(0)]), write(other, [geo3k(0)], "a"), write(other, [by_path], "b")])
    assert len(dataset) == 3
    assert dataset[2]["raw_prompt"][0]["content"][0]["image"] == str(other / "a.png")


def test_overlong_rows_of_another_task_are_verls_matter(folder: Path, load: Any) -> None:
    long = {**gsm8k(0), "prompt": [{"role": "user", "content": "What? " * 400}]}
    dataset = load([write(folder, [row(0)]), write(folder, [gsm8k(0), long], "other")])
    assert [dataset[index]["data_source"] for index in range(len(dataset))] == ["divek/flags/base", "openai/gsm8k"]
    assert dataset.left_out == {}


def test_files_that_cannot_be_one_table_are_refused(folder: Path, load: Any) -> None:
    text_index = {**gsm8k(0), "extra_info": {"index": "zero"}}
    with pytest.raises(SetupError, match="cannot be mixed, give their columns the same types.*index"):
        load([write(folder, [row(0)]), write(folder, [text_index], "other")])


# ---------------------------------------------------------------------------------------- from open question to choice


@pytest.fixture
def prompt(folder: Path, load: Any) -> Row:
    return dict(load(write(folder, [row(0)]))[0])


def test_the_open_prompt_itself_is_not_touched(prompt: Row) -> None:
    """Its group shares one rewritten prompt; the record still wants the truth of the row."""
    before = json.dumps(prompt, default=str)
    to_multiple_choice(prompt, Question(("Romania", "Chad"), 1, False), "Chad", {})
    assert json.dumps(prompt, default=str) == before


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("chosen", ["Chad", "Romania"])
def test_the_reward_agrees_with_the_question(prompt: Row, training: bool, chosen: str) -> None:
    """In validation no letter is right beforehand: the option is compared with the true class."""
    votes = Votes({"Romania": 3, "Chad": 2})
    question = build_question(votes, ClassNames(BASE), truth="Chad" if training else None, seed=1)
    assert isinstance(question, Question)
    rewritten = to_multiple_choice(prompt, question, "Chad", {"one_step": 0.4, "recall": 1.0})
    letter = "AB"[question.options.index(chosen)]
    scores = compute_score(
        rewritten["data_source"],
        f"<think>x</think><answer>{letter}</answer>",
        rewritten["reward_model"]["ground_truth"],
        rewritten["extra_info"],
    )
    assert scores["acc"] == float(chosen == "Chad")
    assert (scores["one_step"], scores["recall"]) == (0.4, 1.0)
    assert rewritten["reward_model"]["ground_truth"] == (question.letter if training else "")


def test_the_question_has_the_wording_of_the_prepared_set(folder: Path, load: Any) -> None:
    lists = json.loads((folder / "classes.json").read_text())
    wording = {"thing": "banner", "kind": "nation"}
    (folder / "classes.json").write_text(json.dumps({**lists, "wording": wording}))
    prompt = dict(load(write(folder, [row(0)]))[0])
    rewritten = to_multiple_choice(prompt, Question(("Romania", "Chad"), 1, False), "Chad", {})
    text = rewritten["raw_prompt"][0]["content"][1]["text"]
    assert text == prompts.multiple_choice(prompts.Wording("banner", "nation"), "A. Romania\nB. Chad")


# ------------------------------------------------------------------- the open question graded as it stands (virft)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Chad", 1.0), ("republic of chad", 1.0), ("Romania", 0.0), ("Chad and Romania", 0.0), ("Cha", 0.0)],
)
def test_an_answer_to_the_open_question_is_graded_by_the_rows_own_class_list(
    load: Any, folder: Path, answer: str, right: float
) -> None:
    loaded = load(write(folder, [row(0)]))[0]
    completion = f"<think>Stripes.</think><answer>{answer}</answer>"
    graded = compute_score(loaded["data_source"], completion, "Chad", loaded["extra_info"], open_questions=True)
    assert (graded["acc"], graded["score"]) == (right, 1.0 + right)


def test_a_class_list_that_is_gone_is_named_when_an_answer_has_to_be_graded(folder: Path) -> None:
    extra_info = {"class_folder": str(folder / "elsewhere")}
    assert compute_score("divek/flags/base", "no answer", "Chad", extra_info)["acc"] == 0.0
    with pytest.raises(SetupError, match=r"elsewhere/classes.json is missing"):
        compute_score("divek/flags/base", "<answer>Chad</answer>", "Chad", extra_info)


def test_a_text_only_model_is_refused(folder: Path, load: Any) -> None:
    with pytest.raises(SetupError, match="leave every picture out .* set actor_rollout_ref.model.path"):
        load(write(folder, [row(0)]), vision=False)


def test_the_papers_virft_asks_without_a_class_list(folder: Path, load: Any) -> None:
    found = load(write(folder, [row(0)]), divek={"list_classes": False})[0]
    text = found["raw_prompt"][0]["content"][1]["text"]
    assert text == prompts.open_question(prompts.Wording(), ())
    assert "List" not in text and "Chad" not in text and text.endswith("write nothing after it.")
