"""The demo model loads as any Qwen2.5-VL, and its warm start is reproducible."""

import json
import math
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from divek_verl.demo import model

import torch  # isort: skip
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from divek_verl.answers import has_format, parse_answer, parse_option
from divek_verl.demo import lessons
from divek_verl.demo.lessons import Pictures, Teacher, choice_response, open_response
from divek_verl.demo.probe import MAX_NEW_TOKENS, captioned, told
from divek_verl.demo.probe import main as probe_main
from divek_verl.demo.warm_start import (
    SETTINGS_FILE,
    Course,
    Guesses,
    Settings,
    caption_shares,
    learning_rate,
    until_learned,
    warm_start,
)
from divek_verl.errors import SetupError
from divek_verl.prepare import Classes, Example, Split, new_folder, write_set
from divek_verl.prepare.sets.flags import WORDING
from divek_verl.prompts import open_question, user_prompt

Network, Processor = model.Qwen2_5_VLForConditionalGeneration, model.Qwen2_5_VLProcessor
BASE = ("Chad", "Romania", "Ivory Coast", "Mali")
NEW = ("New Zealand", "Côte Neuve", "Niger", "Nigeria")
NAMES = (*BASE, *NEW)
COLOURS = dict(zip(NAMES, ("navy", "red", "orange", "green", "blue", "white", "black", "yellow"), strict=True))
QUICK = Settings(text_batch=4, caption_batch=4, question_batch=4).with_question_steps(3)


@pytest.fixture(scope="module")
def processor() -> Processor:
    return model.build_processor(model.build_tokenizer(lessons.tokenizer_texts(WORDING), NAMES))


@pytest.fixture(scope="module")
def network(processor: Processor) -> Network:
    return model.build_model(processor.tokenizer, seed=0).eval()


@pytest.fixture(scope="module")
def teacher(processor: Processor) -> Teacher:
    return Teacher(processor.tokenizer, 12, (BASE, NEW), WORDING)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of plain coloured pictures, two of each class."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    plan = (("pretrain", "all", NAMES), ("train", "base", BASE), ("val_base", "base", BASE), ("val_new", "new", NEW))
    with new_folder(out) as folder:
        splits = [
            Split(split, side, [_draw(folder, split, name, i) for name in names for i in range(2)])
            for split, side, names in plan
        ]
        write_set(folder, "flags", Classes(NAMES), splits, wording=WORDING)
    return out


def _draw(folder: Path, split: str, name: str, index: int) -> Example:
    image_id = f"{split}/{NAMES.index(name)}-{index}"
    path = folder / "images" / f"{image_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A different dot in each, since no two pictures of a set may be equal.
    picture = Image.new("RGB", (112, 84), COLOURS[name])
    picture.putpixel((("pretrain", "train", "val_base", "val_new").index(split), index), (1, 2, 3))
    picture.save(path)
    return Example(f"images/{image_id}.png", name, image_id)


class TestTokenizer:
    def test_every_class_name_after_a_space_is_one_token(self, processor: Processor) -> None:
        for name in NAMES:
            assert len(processor.tokenizer(f" {name}")["input_ids"]) == 1

    def test_a_name_that_begins_another_does_not_split_it(self, processor: Processor) -> None:
        assert processor.tokenizer.tokenize(" Nigeria, Niger") == [" Nigeria", ",", " Niger"]

    def test_a_letter_after_a_name_is_one_token(self, processor: Processor) -> None:
        assert len(processor.tokenizer(" Chad E")["input_ids"]) == 2

    def test_text_survives_a_round_trip(self, processor: Processor) -> None:
        text = choice_response("Côte Neuve", "B") + " naïve 42\n" + open_response("New Zealand")
        assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text

    def test_answer_tags_survive_where_special_tokens_are_skipped(self, processor: Processor) -> None:
        tokens = processor.tokenizer(open_response("Chad") + "<|im_end|>")["input_ids"]
        assert processor.tokenizer.decode(tokens, skip_special_tokens=True) == open_response("Chad")

    def test_end_of_turn_is_the_end_token(self, processor: Processor) -> None:
        assert processor.tokenizer.eos_token == "<|im_end|>"
        assert processor.tokenizer.pad_token == "<|endoftext|>"


class TestChatTemplate:
    def test_has_qwens_form(self, processor: Processor) -> None:
        parts = [{"type": "image"}, {"type": "text", "text": "Which?"}]
        text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        assert text == (
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Which?<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_plain_text_and_text_parts_read_the_same(self, processor: Processor) -> None:
        parts = [{"type": "text", "text": "Which?"}]
        rendered = {
            processor.apply_chat_template([{"role": "user", "content": content}]) for content in ("Which?", parts)
        }
        assert len(rendered) == 1

    def test_lessons_have_the_tokens_of_verls_prompt(self, processor: Processor, teacher: Teacher) -> None:
        text = open_question(WORDING, BASE)
        content = user_prompt(text)[0]["content"]
        parts = [{"type": "image"}, {"type": "text", "text": content.removeprefix("<image>")}]
        rendered = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        inputs = processor(text=[rendered], images=[Image.new("RGB", (112, 84))])
        assert list(inputs["input_ids"][0]) == teacher.prompt(teacher.shown(text))


class TestModel:
    def test_is_small(self, network: Network) -> None:
        assert 2e6 <= network.num_parameters() <= 15e6

    def test_the_same_seed_gives_the_same_weights(self, processor: Processor) -> None:
        one, same, other = (model.build_model(processor.tokenizer, seed).lm_head.weight for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_loads_as_a_qwen(self, tmp_path: Path, network: Network, processor: Processor) -> None:
        model.save(network, processor, tmp_path)
        loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), network.parameters(), strict=True))
        assert loaded.generation_config.eos_token_id[0] == processor.tokenizer.eos_token_id
        again = AutoProcessor.from_pretrained(tmp_path)
        assert isinstance(again, Processor)
        assert again.chat_template == model.CHAT_TEMPLATE
        text = choice_response("Ivory Coast", "B")
        assert again.tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]

    def test_a_folder_without_a_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match="warm_start"):
            model.load(tmp_path)

    def test_a_head_of_the_first_layer_looks_one_token_back_from_the_start(self, processor: Processor) -> None:
        network = model.build_model(processor.tokenizer, seed=0).eval()
        network.set_attn_implementation("eager")
        tokens = torch.tensor([processor.tokenizer("A. Chad\nB. Mali\nC. Romania")["input_ids"]])
        attention = network(input_ids=tokens, output_attentions=True).attentions[0][0, 0]
        assert attention.argmax(dim=-1)[1:].tolist() == list(range(tokens.shape[1] - 1))


class TestLessons:
    def test_responses_keep_the_asked_form(self) -> None:
        assert has_format(open_response("Chad")) and has_format(choice_response("Chad", "B"))
        assert parse_answer(open_response("Ivory Coast")) == "Ivory Coast"
        assert parse_option(choice_response("Chad", "B"), 5) == 1

    def test_responses_are_short(self, processor: Processor) -> None:
        for response in (open_response("New Zealand"), choice_response("New Zealand", "E")):
            assert len(processor.tokenizer(response + "<|im_end|>")["input_ids"]) <= MAX_NEW_TOKENS

    def test_a_question_lesson_ends_with_its_response_and_learns_nothing_else(
        self, processor: Processor, teacher: Teacher
    ) -> None:
        lesson = teacher.choice("Mali", ["Chad", "Mali"], 7)
        learned = [token for token, weight in zip(lesson.tokens, lesson.weights, strict=True) if weight]
        assert processor.tokenizer.decode(learned) == choice_response("Mali", "B") + "<|im_end|>"
        assert lesson.picture == 7

    def test_a_look_up_lesson_learns_the_letters_alone(self, processor: Processor, teacher: Teacher) -> None:
        lesson = teacher.look_up(random.Random(0), options=3)
        lines, queries = processor.tokenizer.decode(lesson.tokens).rsplit("\n", 1)
        letters = {line[3:]: line[0] for line in lines.split("\n")}
        learned = [token for token, weight in zip(lesson.tokens, lesson.weights, strict=True) if weight]
        asked = [" ".join(part.split()) for part in queries.replace(" ", "|").split("|") if len(part) > 1]
        assert asked
        written = processor.tokenizer.decode(learned).split()
        # Each once: the letter of a repeated name could be copied without the list.
        assert sorted(written) == sorted(letters.values())

    def test_a_caption_learns_the_name_alone(self, processor: Processor, teacher: Teacher) -> None:
        lesson = teacher.caption("Chad", 0)
        assert lesson.weights[-1] == 1.0 and sum(lesson.weights) == 1.0
        assert processor.tokenizer.decode(lesson.tokens[-1:]) == " Chad"


class TestCourse:
    GUESSES = Guesses(NAMES, [[0.7, 0.3, *[0.0] * 6]] * 8)

    def course(self, teacher: Teacher) -> Course:
        return Course(teacher, BASE * 2, QUICK)

    def test_lessons_of_a_batch_have_one_length(self, teacher: Teacher) -> None:
        course, rng = self.course(teacher), random.Random(0)
        batches = [
            course.look_ups(rng),
            course.captions(rng),
            *(course.questions(rng, self.GUESSES) for _ in range(40)),
        ]
        for batch in batches:
            assert len({(len(lesson.tokens), lesson.picture is None) for lesson in batch}) == 1

    def test_the_same_seed_gives_the_same_lessons(self, teacher: Teacher) -> None:
        course = self.course(teacher)
        one, same = (
            [course.questions(rng, self.GUESSES) for _ in range(9)] for rng in (random.Random(3), random.Random(3))
        )
        assert one == same

    def test_captions_tell_the_truth(self, processor: Processor, teacher: Teacher) -> None:
        for lesson in self.course(teacher).captions(random.Random(0)):
            assert processor.tokenizer.decode(lesson.tokens[-1:]).strip() == (BASE * 2)[lesson.picture or 0]

    def test_guesses_are_drawn_by_their_probability(self) -> None:
        rng = random.Random(0)
        drawn = [self.GUESSES.one_of(BASE, 0, rng) for _ in range(500)]
        assert 0.6 < drawn.count("Chad") / 500 < 0.8
        assert drawn.count("Mali") < 10

    def test_where_no_name_was_ever_likely_any_is_drawn(self) -> None:
        rng = random.Random(0)
        assert {self.GUESSES.one_of(NEW, 0, rng) for _ in range(100)} == set(NEW)

    def test_several_guesses_are_different_names(self) -> None:
        assert sorted(self.GUESSES.several(BASE, 0, 4, random.Random(0))) == sorted(BASE)

    def test_learning_rate_rises_and_falls_to_a_tenth(self) -> None:
        settings = Settings()
        assert learning_rate(settings, 0) < learning_rate(settings, 10) < learning_rate(settings, 100)
        last = learning_rate(settings, 500, settings.question_steps)
        assert last == pytest.approx(settings.learning_rate / 10)


class TestPictures:
    def test_variation_is_seeded_and_keeps_shape_and_kind(self, data: Path) -> None:
        images = Pictures.load(data / "train.parquet")
        one, same = (images.varied([0, 3], random.Random(5)) for _ in range(2))
        assert torch.equal(one, same)
        assert one.shape == (2, 3, 84, 112) and one.dtype == torch.uint8

    def test_photographs_become_small_squares_and_are_mirrored_too(self, tmp_path: Path) -> None:
        with new_folder(tmp_path / "set") as folder:
            (folder / "images").mkdir()
            picture = Image.new("RGB", (400, 200), "black")
            # The middle is what remains: red on the left, blue on the right.
            picture.paste("red", (100, 0, 200, 200))
            picture.paste("blue", (200, 0, 300, 200))
            picture.save(folder / "images" / "a.png")
            example = Example("images/a.png", "Chad", "a")
            write_set(folder, "flags", Classes(NAMES), [Split("pretrain", "all", [example])], wording=WORDING)
        pictures = Pictures.load(tmp_path / "set" / "pretrain.parquet")
        assert pictures.pixels.shape == (1, 3, lessons.SQUARE, lessons.SQUARE)
        assert pictures.pixels[0, 0, 56, 20] == pictures.pixels[0, 2, 56, 90] == 255
        shown = pictures.varied([0] * 40, random.Random(0))
        mirrored = shown[:, 2, :, :40].float().mean(dim=(1, 2)) > shown[:, 0, :, :40].float().mean(dim=(1, 2))
        assert 10 < int(mirrored.sum()) < 30

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match="prepare the data"):
            Pictures.load(tmp_path / "train.parquet")


class TestProbe:
    def test_measures_what_the_model_knows_of_texts_and_of_both_sides(
        self, data: Path, network: Network, processor: Processor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model.save(network, processor, tmp_path / "model")
        probe_main(data, tmp_path / "model", tmp_path / "knowledge.json")
        known = json.loads((tmp_path / "knowledge.json").read_text())
        assert known == json.loads(capsys.readouterr().out)
        assert 0 <= known["told"] <= 1 and set(known["captions"]) == {"base", "new"}

    def test_a_model_that_repeats_told_names_and_one_that_says_the_first_letter(
        self, network: Network, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The answers are given, so that the share is known."""

        def answers(letter: Callable[[str], str]) -> float:
            def generate(input_ids: torch.Tensor, **kwargs: object) -> torch.Tensor:
                texts = teacher.tokenizer.batch_decode(input_ids)
                said = [teacher.tokenizer(f"<answer> {letter(text)}</answer>")["input_ids"] for text in texts]
                return torch.cat([input_ids, torch.tensor(said)], dim=1)

            monkeypatch.setattr(network, "generate", generate)
            return told(network, teacher, seed=0)

        def right(text: str) -> str:
            name = re.search(r"flag of (.+)\.", text)[1]  # type: ignore[index]
            return re.search(rf"([A-E])\. {name}(?!\w)", text)[1]  # type: ignore[index]

        assert answers(right) == 1
        assert 0.1 < answers(lambda text: "A") < 0.3

    def test_the_likeliest_caption_among_the_names_of_a_side_counts(
        self, data: Path, network: Network, processor: Processor, teacher: Teacher
    ) -> None:
        images = Pictures.load(data / "val_base.parquet")
        shares = caption_shares(network, processor, teacher, images.pixels, BASE)
        assert shares.shape == (len(images.names), len(BASE))
        assert torch.allclose(shares.sum(dim=-1), torch.ones(len(images.names)))
        best = [BASE[column] for column in shares.argmax(dim=-1).tolist()]
        assert 0 < len(set(best)) <= len(BASE)
        renamed = Pictures(images.pixels, tuple(best))
        assert captioned(network, processor, teacher, renamed) == 1


class TestWarmStart:
    @pytest.mark.parametrize(("asked", "used"), [(None, 1), ("2", 2)])
    def test_uses_one_thread_unless_the_user_asks_for_more(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]], asked: str | None, used: int
    ) -> None:
        script = (
            "import torch; from divek_verl.demo import model; model.use_one_thread(); print(torch.get_num_threads())"
        )
        result = run_python("-c", script, OMP_NUM_THREADS=asked)
        assert result.stdout.split() == [str(used)], result.stderr

    def test_is_done_once_and_reproducibly(self, data: Path, tmp_path: Path) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        assert warm_start(data, one, QUICK)
        assert not warm_start(data, one, QUICK), "the second run finds the first one's model"
        assert warm_start(data, two, QUICK)
        first, second = ((folder / "model.safetensors").read_bytes() for folder in (one, two))
        assert first == second

    def test_other_settings_make_another_model(self, data: Path, tmp_path: Path) -> None:
        short = QUICK.with_question_steps(1)
        assert warm_start(data, tmp_path / "model", short)
        recorded = json.loads((tmp_path / "model" / SETTINGS_FILE).read_text())
        assert recorded["settings"]["question_steps"] == 1
        assert warm_start(data, tmp_path / "model", Settings(**{**recorded["settings"], "seed": 1}))

    def test_a_trained_tower_becomes_the_models_and_stays_as_it_is(
        self, data: Path, tmp_path: Path, network: Network
    ) -> None:
        out, tower = tmp_path / "model", tmp_path / "tower"
        tower.mkdir()
        taught = {name: weights + 1 for name, weights in network.model.visual.state_dict().items()}
        save_file(taught, tower / model.TOWER_WEIGHTS)
        (tower / model.TOWER_CONFIG).write_text("{}")
        assert warm_start(data, out, QUICK, tower)
        found = model.load(out)[0]
        assert all(torch.equal(found.model.visual.state_dict()[name], weights) for name, weights in taught.items())
        assert all(parameter.requires_grad for parameter in found.parameters()), "GRPO trains it"
        assert not warm_start(data, out, QUICK, tower)
        save_file({name: weights + 1 for name, weights in taught.items()}, tower / model.TOWER_WEIGHTS)
        assert warm_start(data, out, QUICK, tower), "another tower makes another model"

    def test_a_folder_with_other_things_is_not_overwritten(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(SetupError, match="empty or new folder"):
            warm_start(data, tmp_path, QUICK)


def test_a_stage_of_texts_ends_when_it_is_learned() -> None:
    half, sure = math.log(2), 0.0
    # Twenty batches in a row have to be right by three quarters on average: ten sure ones are enough.
    assert until_learned([half] * 30 + [sure] * 100, learned=0.75) == 40
    assert until_learned([half] * 50, learned=0.75) == 50
    assert until_learned([sure] * 50, learned=0.75) == 20
