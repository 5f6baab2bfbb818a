"""One picture, one question: training, validation, ``divek eval`` and ``divek predict`` build it by the same rules."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted_engine import ScriptedEngine, prompt_text, says

from divek_verl.commands.options import TwoStepOptions
from divek_verl.engines.base import Reply, Request, Sampling
from divek_verl.engines.rows import PreparedRow
from divek_verl.engines.two_step import ask_two_steps
from divek_verl.labels import ClassNames
from divek_verl.predict import TwoStepClassifier
from divek_verl.prompts import Wording, multiple_choice
from divek_verl.question import Question, question_seed
from divek_verl.records import QuestionRecord
from divek_verl.settings import Settings
from divek_verl.trainer.questions import Prompt, QuestionMaker
from divek_verl.votes import MinedVotes, count_votes

NAMES = ("Chad", "Romania", "Andorra", "Moldova", "Monaco", "Indonesia", "Poland", "Mali")
CLASSES, WORDING = ClassNames(NAMES), Wording("flag", "country")
SOURCE, IMAGE_ID, TRUTH = "divek/flags/all", "chad-1", "Chad"
# Three answers hold 70 % of the votes for listed classes, the truth among them; the default rules would show five.
FEW = says(*["Chad"] * 4, *["Romania"] * 2, "Andorra", "Moldova", "Monaco", "Indonesia", "Atlantis", "")
# Two answers: the third option is a filler from the class list.
FILLED = says(*["Romania"] * 5, "Chad", "", "")
AUTO = {"num_options": "auto", "min_options": 3, "auto_share": 0.7, "auto_max_options": 6}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    wording = {"thing": WORDING.thing, "kind": WORDING.kind}
    (tmp_path / "classes.json").write_text(json.dumps({"all": list(NAMES), "wording": wording}))
    return tmp_path


def trained(split: str, completions: tuple[str, ...], settings: Settings, folder: Path) -> tuple[QuestionRecord, str]:
    """The record and the text of the question that verl's worker gets."""

    async def mine(messages: Any, classes: ClassNames, uid: str, record: QuestionRecord) -> MinedVotes:
        return MinedVotes(*record.key, count_votes(completions, classes))

    maker = QuestionMaker(settings, mine, count_tokens=lambda messages: 0, max_prompt_tokens=1000)
    prompt: Prompt = {
        "uid": "u",
        "index": 0,
        "data_source": SOURCE,
        "raw_prompt": messages(),
        "reward_model": {"ground_truth": TRUTH},
        "extra_info": {"image_id": IMAGE_ID},
        "image_root": str(folder),
    }
    record = QuestionRecord(4, split, SOURCE, IMAGE_ID, "", TRUTH)
    rewritten = asyncio.run(maker.rewrite(prompt, record))
    assert rewritten is not None and not record.injected
    return record, prompt_text(rewritten["raw_prompt"])


def messages() -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "which?"}]}]


@pytest.mark.parametrize(
    ("completions", "rules", "shown"),
    [
        (FEW, AUTO, {"Chad", "Romania", "Andorra"}),
        (FEW, {"num_options": 4}, {"Chad", "Romania", "Andorra", "Moldova"}),
        (FILLED, AUTO, None),
        (FILLED, {"num_options": 6, "min_options": 4}, None),
    ],
)
@pytest.mark.parametrize("seed", [0, 3])
def test_one_question_four_ways(
    completions: tuple[str, ...], rules: dict[str, Any], shown: set[str] | None, seed: int, folder: Path
) -> None:
    settings = Settings(seed=seed, **rules)
    options = {"options" if name == "num_options" else name: value for name, value in rules.items()}
    options["options"] = str(options["options"])
    two_step = TwoStepOptions(samples=len(completions), seed=seed, **options).settings()

    def answer(request: Request, sampling: Sampling) -> Reply:
        return Reply(request.key, completions if request.key.endswith("/open") else says("A"))

    engine = ScriptedEngine(answer)
    row = PreparedRow(SOURCE, IMAGE_ID, "", TRUTH, CLASSES, WORDING, messages())
    evaluated = asyncio.run(ask_two_steps(engine, row, two_step)).question
    assert evaluated is not None and evaluated.answer is None
    text = multiple_choice(WORDING, evaluated.text)
    assert prompt_text(engine.requests[-1].messages) == text
    if shown is not None:
        assert set(evaluated.options) == shown

    validated, asked = trained("val", completions, settings, folder)
    assert (tuple(validated.options), asked) == (evaluated.options, text)

    def built(votes_seed: str) -> tuple[str, ...]:
        question = settings.rules.build(count_votes(completions, CLASSES), CLASSES, seed=votes_seed)
        assert isinstance(question, Question)
        return question.options

    # Training shuffles anew at each step, and a person's picture has its own key: all else is equal.
    training, _ = trained("train", completions, settings, folder)
    assert tuple(training.options) == built(question_seed(seed, SOURCE, IMAGE_ID, 4))
    assert tuple(validated.options) == built(question_seed(seed, SOURCE, IMAGE_ID))
    with TwoStepClassifier(engine, CLASSES, wording=WORDING, settings=two_step) as classifier:
        predicted = classifier.classify(Image.new("RGB", (32, 24)))
    choice = engine.requests[-1]
    picture_id = choice.key.removeprefix("-").removesuffix("/choice")
    assert predicted.options == built(question_seed(seed, "", picture_id))
    assert prompt_text(choice.messages) == multiple_choice(WORDING, Question(predicted.options, None, False).text)
    if shown is not None:
        assert set(training.options) == set(predicted.options) == shown
    assert len(training.options) == len(predicted.options) == len(evaluated.options)
