"""verl's own trackers on a DiVE-k run: the same names everywhere, readable questions, a report at the end."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from wandb_file import history, tables

from divek_verl.files import append_line
from divek_verl.records import QuestionRecord
from divek_verl.trainer.recorder import summarize
from divek_verl.trainer.tracking import NO_QUESTION, extend, verbatim, write_summary

# What dashboards are built on: a name that is gone or changed breaks them.
_NAMES = """
images_mined samples unanswered_share unknown_share truncated_share failed_samples options/mean truth_injected_share
one_step consistency recall vote_age/mean mining_seconds/mean rollout_seconds/mean cached_share skips/total skips/easy
vote_entropy distinct_answers easy_share override_share groups/mixed groups/all_right groups/all_wrong
reward/format reward/answer chosen_letter/A accuracy_by_position/A accuracy_by_options/2 accuracy_by_truth/injected
accuracy_by_fillers/without_fillers second_step/keeps_the_majority
"""
STABLE = {f"divek/{name}" for name in _NAMES.split()}
SOURCE = "divek/flags/base"
VERLS = {
    "critic/score/mean": 1.25,
    "training/rollout_actor_probs_pearson_corr": 0.9995,
    f"val-core/{SOURCE}/acc/mean@1": 0.75,
    f"val-aux/{SOURCE}/one_step/mean@1": 0.5,
    f"val-aux/{SOURCE}/consistency/mean@1": 0.625,
    f"val-aux/{SOURCE}/recall/mean@1": 0.875,
    f"val-aux/{SOURCE}/pass_at_k/mean@1": 1.0,
}
QUESTION = "system\nYou help.\nuser\nLook at the flag.\nOptions:\nA. Chad\nB. *Romania* <b>\nassistant\n"
SAID = "<think>Blue *band*</think>\n<answer>B</answer>"


def record(**changes: Any) -> QuestionRecord:
    place = {"step": 1, "split": "train", "data_source": SOURCE, "image_id": "chad-1", "image": "", "truth": "Chad"}
    return QuestionRecord(**{**place, "votes": {"Chad": 3, "Romania": 1}, **changes})


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Two steps and two validations' generations, logged by verl to TensorBoard and W&B, which is offline."""
    from verl.utils.tracking import Tracking, ValidationGenerationsLogger

    folder = tmp_path_factory.mktemp("tracked")
    asked = record(options=["Chad", "Romania"], answer="A", injected=True, prompt_tokens=10, cached_tokens=5)
    asked.choices, asked.rewards, asked.formats = ["A", "A"], [2.0, 1.0], [1.0, 0.0]
    metrics = summarize([asked, record(skip="easy")], [asked]) | VERLS
    append_line(folder / "questions.jsonl", record(split="val").to_json())
    backends = ["tensorboard", "wandb"]
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"MODE": "offline", "DIR": str(folder), "SILENT": "true"}.items():
            patched.setenv(f"WANDB_{name}", value)
        patched.setenv("TENSORBOARD_DIR", str(folder / "tensorboard"))
        config = {"divek": {"run_dir": str(folder), "num_samples": 8, "seed": 3}, "trainer": {"project_name": "p"}}
        config["actor_rollout_ref"] = {"model": {"path": "models/tiny"}}
        tracking = Tracking("p", "e", default_backend=backends, config=config)
        generations = ValidationGenerationsLogger("p", "e")
        for step in (1, 2):
            generations.log(backends, [(QUESTION, SAID, 2.0), ("", "", 0.0)], step)
            tracking.log(metrics, step)
        tracking.finish()
    yield SimpleNamespace(folder=folder, metrics=metrics)


@pytest.fixture(scope="module")
def events(logged: SimpleNamespace) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(logged.folder / "tensorboard"))
    read.Reload()
    return read


def test_the_names_are_those_that_dashboards_know(logged: SimpleNamespace) -> None:
    assert set(logged.metrics) >= STABLE | set(VERLS)


def test_the_summary_says_what_runs_and_a_resumed_run_keeps_its_date(tmp_path: Path, logged: SimpleNamespace) -> None:
    found = json.loads((logged.folder / "summary.json").read_text())
    assert (found["model"], found["K"], found["seed"]) == ("models/tiny", 8, 3)
    assert found["verl"].startswith("0.9") and found["started"].endswith(" UTC")
    (tmp_path / "summary.json").write_text('{"started": "yesterday"}')
    write_summary(tmp_path, {"data": {"divek": {"run_dir": str(tmp_path)}}})
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["started"] == "yesterday" and "model" not in found


def test_tensorboard_has_every_name_and_value(logged: SimpleNamespace, events: Any) -> None:
    assert set(events.Tags()["scalars"]) == set(logged.metrics)
    for name, value in logged.metrics.items():
        assert [(event.step, event.value) for event in events.Scalars(name)] == [
            (step, pytest.approx(value)) for step in (1, 2)
        ]


def test_wandb_has_every_name_and_value(logged: SimpleNamespace) -> None:
    steps = history(logged.folder)
    assert set(steps) == {1, 2}
    for values in steps.values():
        assert {name: values[name] for name in logged.metrics} == pytest.approx(logged.metrics)
        assert {name for name in values if not name.startswith("_")} == {*logged.metrics, "val/generations"}


def test_the_metrics_file_has_every_name_and_value(logged: SimpleNamespace) -> None:
    lines = [json.loads(line) for line in (logged.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["data"] == pytest.approx(logged.metrics) for line in lines)


def test_wandbs_table_of_generations_holds_question_and_options(logged: SimpleNamespace) -> None:
    _, table = tables(logged.folder)
    assert table["columns"] == ["step", "input_1", "output_1", "score_1", "input_2", "output_2", "score_2"]
    row = [QUESTION, SAID, 2.0, NO_QUESTION, "", 0.0]
    assert table["data"] == [[1, *row], [2, *row]]


def test_tensorboard_shows_an_option_a_line_and_tags_as_they_are(events: Any) -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    last = events.Tensors("val/generations/text_summary")[-1]
    shown = markdown_to_safe_html(last.tensor_proto.string_val[0])
    assert "Options:\nA. Chad\nB. *Romania* &lt;b&gt;\nassistant" in shown
    assert "&lt;think&gt;Blue *band*&lt;/think&gt;\n&lt;answer&gt;B&lt;/answer&gt;" in shown
    assert shown.count("<pre>") == 3 and NO_QUESTION in shown


def test_the_logged_input_is_the_question_that_was_asked(processor: Any, tmp_path: Path) -> None:
    """verl decodes the prompt of the rollout, which is the rewritten one; the picture's tokens are special."""
    from PIL import Image

    from divek_verl.labels import ClassNames
    from divek_verl.question import Question, build_question
    from divek_verl.trainer.questions import to_multiple_choice
    from divek_verl.votes import count_votes

    classes = ClassNames(["Chad", "Romania", "Andorra"])
    votes = count_votes(["<answer>Chad</answer>", "<answer>Romania</answer>"], classes)
    question = build_question(votes, classes, num_options=2, seed="0")
    assert isinstance(question, Question)
    (tmp_path / "classes.json").write_text(json.dumps({"base": classes.names}))
    row = {
        "data_source": SOURCE,
        "image_root": str(tmp_path),
        "reward_model": {"ground_truth": "Chad"},
        "raw_prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "the open question"}]}],
    }
    rewritten = to_multiple_choice(row, question, "Chad", {})
    text = processor.apply_chat_template(rewritten["raw_prompt"], add_generation_prompt=True, tokenize=False)
    ids = processor(text=[text], images=[Image.new("RGB", (56, 56))])["input_ids"][0]
    decoded = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert question.text in decoded and "open question" not in decoded
    assert "image_pad" not in decoded and "vision" not in decoded


def test_the_report_is_written_when_the_trackers_are_finished(logged: SimpleNamespace) -> None:
    assert SOURCE in (logged.folder / "report.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ with trackers of our own


class Tracking:
    """What ``extend`` relies on of verl's class."""

    def __init__(self, project: str, experiment: str, backend: object = None, config: Any = None) -> None:
        self._finished = False
        self.finished: list[int] = []
        self.logged: list[tuple[dict, int]] = []

    def log(self, data: dict, step: int, backend: object = None) -> None:
        self.logged.append((data, step))

    def finish(self, exit_code: int = 0) -> None:
        self._finished = True
        self.finished.append(exit_code)


class Generations:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def log(self, loggers: object, samples: Any, step: int) -> None:
        self.seen = [list(samples)]
        self.log_generations_to_tensorboard(samples, step)

    def log_generations_to_tensorboard(self, samples: Any, step: int) -> None:
        self.seen.append(list(samples))


@pytest.fixture
def module() -> SimpleNamespace:
    """Extended copies, so that the tests do not see each other's runs."""
    made = SimpleNamespace(
        Tracking=type("Tracking", (Tracking,), dict(vars(Tracking))),
        ValidationGenerationsLogger=type("Generations", (Generations,), dict(vars(Generations))),
    )
    extend(made)
    return made


def test_a_failed_training_has_a_report_too_and_only_one(
    module: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Configuration, data and step may be given by place or by name.
    tracking = module.Tracking("p", "e", [], {"divek": {"run_dir": str(tmp_path)}})
    tracking.log(data={"critic/score/mean": 1.0}, step=1)
    assert (tmp_path / "metrics.jsonl").is_file()
    for _ in range(2):
        tracking.finish(exit_code=1)
    assert tracking.finished == [1, 1]
    assert capsys.readouterr().out.splitlines() == [f"divek_verl: report: {tmp_path / 'report.html'}"]


def test_a_report_that_cannot_be_written_costs_a_line(
    module: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module.Tracking("p", "e", config={"divek": {"run_dir": str(tmp_path)}}).finish()
    assert "no report (SetupError: " in capsys.readouterr().out


def test_the_baseline_is_recorded_as_well(
    module: SimpleNamespace, tmp_path: Path, compose: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the configuration that verl hands to its trackers."""
    composed = compose("reward=virft", f"trainer.default_local_dir={tmp_path}")
    tracking = module.Tracking("p", "e", config=OmegaConf.to_container(composed, resolve=True))
    tracking.log({f"val-core/{SOURCE}/acc/mean@1": 0.5}, 1)
    tracking.finish()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == {"step": 1, "data": {f"val-core/{SOURCE}/acc/mean@1": 0.5}}
    assert "divek_verl: report: " in capsys.readouterr().out


def test_the_recorders_word_on_a_validation_is_logged_with_it(
    module: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"divek/base_classes_named/divek/flags/new": 0.25}
    monkeypatch.setattr("divek_verl.trainer.tracking._ask_recorder", {"drain_validation": named}.get)
    tracking = module.Tracking("p", "e", config={"divek": {"run_dir": str(tmp_path)}})
    validation = {f"val-core/{SOURCE}/acc/mean@1": 0.5}
    tracking.log(validation, 1)
    tracking.log({"critic/score/mean": 1.0}, 2)
    assert tracking.logged == [(validation | named, 1), ({"critic/score/mean": 1.0}, 2)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["data"] for line in lines] == [validation | named, {"critic/score/mean": 1.0}]


@pytest.mark.parametrize("config", [None, {}, {"trainer": {"default_local_dir": "x"}}, {"divek": None}])
def test_a_run_without_divek_is_left_alone(
    config: Any,
    module: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tracking = module.Tracking("p", "e", config=config)
    tracking.log({"a": 1.0}, step=1)
    tracking.finish()
    generations = module.ValidationGenerationsLogger()
    generations.log([], [("", "a\nb", 0.0)], 1)
    assert generations.seen == [[("", "a\nb", 0.0)]] * 2
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_verbatim_is_a_block_of_its_own() -> None:
    assert verbatim("a\n\nb") == "\n\n    a\n    \n    b"
