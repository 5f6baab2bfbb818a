"""A whole evaluation with a scripted policy: what is written, kept and refused; and a kill -9, for real."""

import asyncio
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines.server import completion, serving
from rich.console import Console
from scripted_engine import Answer, ScriptedEngine, says, seeded_policy

from divek_verl import cli
from divek_verl.class_lists import load_classes
from divek_verl.engines.base import Engine, Reply, Request, Sampling
from divek_verl.engines.two_step import GREEDY, TwoStepSettings
from divek_verl.errors import SetupError
from divek_verl.evaluation.display import show
from divek_verl.evaluation.evaluating import CallCounts, Evaluation, evaluate, start_over
from divek_verl.evaluation.judge import JudgeSettings
from divek_verl.evaluation.results import Results, read_results
from divek_verl.files import only_writer
from divek_verl.question import QuestionRules
from divek_verl.report.reading import read_run

from .fabricated_set import BASE, NEW, row, write_rows, write_set

FILES = ("questions.jsonl", "results.json", "results.html")
POLICY = seeded_policy(("Chad", "Romania", "Moldova", "Monaco"))


class Run:
    """One evaluation in one folder, with engines that are counted."""

    def __init__(self, data: list[Path], out: Path, policy: Answer = POLICY, **changes: Any) -> None:
        self.evaluation = Evaluation(
            model="scripted",
            **{
                "data": tuple(data),
                "two_step": TwoStepSettings(6, QuestionRules(num_options=3), open_sampling=Sampling(seed=0)),
                "resamples": 100,
                **changes,
            },
        )
        self.out = out
        self.engines: list[ScriptedEngine] = []
        self._policy = policy

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        self.engines.append(ScriptedEngine(self._policy))
        yield self.engines[-1]

    def __call__(self, **options: Any) -> tuple[Results, CallCounts]:
        return asyncio.run(evaluate(self.evaluation, self.open, self.out, **options))

    @property
    def asked(self) -> int:
        return sum(len(engine.requests) for engine in self.engines)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    return write_set(tmp_path / "data", {"base": 9, "new": 7})


def test_it_writes_results_records_and_a_page(data: list[Path], tmp_path: Path) -> None:
    results, counts = Run(data, tmp_path / "out")()
    assert (counts.asked, counts.kept) == (16, 0)
    assert read_results(tmp_path / "out") == results
    assert [group.images for group in results.groups] == [9, 7]
    assert len(results.harmonic_means) == 1
    gains = [(each.data_source, each.baseline, each.measure) for each in results.second_step]
    over = [(name, "two_step") for name in ("one_step_greedy", "consistency")]
    rows = ("divek/flags/base", "divek/flags/new", "flags, harmonic mean")
    assert gains == [(row, *pair) for row in rows for pair in over]
    lines = [json.loads(line) for line in (tmp_path / "out" / "questions.jsonl").read_text().splitlines()]
    keys = [(line["data_source"], line["image_id"]) for line in lines]
    assert keys == sorted(keys) and len(keys) == 16
    for group in results.groups:
        own = [line for line in lines if line["data_source"] == group.data_source]
        for measure, average in group.averages.items():
            assert average.micro.value == pytest.approx(sum(line[measure] for line in own) / len(own))
    assert "divek/flags/base" in (tmp_path / "out" / "results.html").read_text()
    # What is needed to run it again.
    assert results.settings["num_samples"] == 6
    assert results.settings["open_sampling"]["temperature"] == 1.0
    assert results.settings["choice_sampling"]["temperature"] == 0.0
    assert results.settings["seed"] == 0
    assert {"python", "divek_verl", "numpy"} <= set(results.versions)
    assert [file.path for file in results.data] == [str(path) for path in data]
    # Its records can be reported like those of a run.
    run = read_run(tmp_path / "out")
    assert run.unreadable == {"questions.jsonl": 0}
    counted = {source: len(steps[0]) for source, steps in run.validation.items()}
    assert counted == {"divek/flags/base": 9, "divek/flags/new": 7}


def test_a_shuffled_file_gives_the_same_records(data: list[Path], tmp_path: Path) -> None:
    folder = data[0].parent
    shuffled = folder / "shuffled.parquet"
    order = random.Random(0).sample(range(9), 9)
    write_rows(shuffled, [row(folder, "flags", "base", index) for index in order])
    first, _ = Run(data[:1], tmp_path / "one")()
    second, _ = Run([shuffled], tmp_path / "two")()
    assert first.groups == second.groups
    assert (tmp_path / "one" / "questions.jsonl").read_bytes() == (tmp_path / "two" / "questions.jsonl").read_bytes()


def test_images_flow_independently_within_the_bound_and_their_order_changes_no_byte(
    data: list[Path], tmp_path: Path
) -> None:
    for in_flight, most in ((1, 1), (5, 5), (64, 16)):
        run = Run(data, tmp_path / str(in_flight), in_flight=in_flight)
        run()
        (engine,) = run.engines
        assert engine.most_at_work == most
        assert contents(run.out) == contents(tmp_path / "1")
        if in_flight == 5:
            steps = [request.key.rpartition("/")[2] for request in engine.requests]
            assert steps.index("choice") < len(steps) - 1 - steps[::-1].index("open")


# --------------------------------------------------------------------- going on


def test_a_finished_evaluation_opens_no_engine(data: list[Path], tmp_path: Path) -> None:
    Run(data, tmp_path / "out")()
    before = contents(tmp_path / "out")
    again = Run(data, tmp_path / "out")
    _, counts = again()
    assert again.engines == []
    assert (counts.asked, counts.kept) == (0, 16)
    assert contents(tmp_path / "out") == before
    # The mode and the number of resamples may change afterwards.
    again = Run(data, tmp_path / "out", mode="two-step", resamples=20)
    results, _ = again()
    assert again.engines == []
    assert (results.second_step, results.settings["bootstrap_resamples"]) == ([], 20)


def test_an_error_of_the_engine_costs_only_what_was_at_work(data: list[Path], tmp_path: Path) -> None:
    Run(data, tmp_path / "whole")()

    def dies(request: Request, sampling: Sampling) -> Reply:
        if "base-005" in request.key:
            raise SetupError("the engine died")
        return POLICY(request, sampling)

    with pytest.raises(SetupError, match="the engine died"):
        Run(data, tmp_path / "out", dies, in_flight=2)()
    assert not (tmp_path / "out" / "results.json").exists()
    resumed = Run(data, tmp_path / "out")
    _, counts = resumed()
    assert 0 < counts.asked < 16
    assert resumed.asked == 3 * counts.asked
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_torn_record_is_asked_again(data: list[Path], tmp_path: Path) -> None:
    Run(data, tmp_path / "out")()
    whole = contents(tmp_path / "out")
    path = tmp_path / "out" / "questions.jsonl"
    path.write_bytes(path.read_bytes()[:-300])
    _, counts = Run(data, tmp_path / "out")()
    assert (counts.torn, counts.asked) == (1, 1)
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"two_step": TwoStepSettings(7, QuestionRules(num_options=3))}, "settings"),
        ({"max_pixels": 3136}, "settings"),
        ({"base_url": "http://localhost:1/v1"}, "address"),
    ],
)
def test_another_evaluation_in_the_folder_is_refused(
    data: list[Path], tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    Run(data, tmp_path / "out")()
    with pytest.raises(SetupError, match=f"an evaluation with another .*{named}.* --fresh"):
        Run(data, tmp_path / "out", **changes)()
    start_over(tmp_path / "out")
    Run(data, tmp_path / "out", **changes)()


def test_other_data_and_a_changed_class_list_are_refused(data: list[Path], tmp_path: Path) -> None:
    Run(data, tmp_path / "out")()
    with pytest.raises(SetupError, match="another data"):
        Run(data[:1], tmp_path / "out")()
    path = data[0].parent / "classes.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "aliases": {"Romania": ["something else"]}}))
    load_classes.cache_clear()
    with pytest.raises(SetupError, match="another class list"):
        Run(data, tmp_path / "out")()


def test_a_fresh_start_keeps_what_is_there_until_the_input_fits(data: list[Path], tmp_path: Path) -> None:
    Run(data, tmp_path / "out")()
    with pytest.raises(SetupError, match="does not exist"):
        Run([tmp_path / "typo.parquet"], tmp_path / "out")(fresh=True)
    again = Run(data, tmp_path / "out", resamples=20)
    again(fresh=True, compare=[tmp_path / "out"])
    assert again.asked == 48


def test_a_folder_that_another_process_writes_and_that_of_a_run_are_left_alone(
    data: list[Path], tmp_path: Path
) -> None:
    with only_writer(tmp_path / "out"), pytest.raises(SetupError, match="is being written by another process"):
        Run(data, tmp_path / "out")()
    Run(data, tmp_path / "out")()
    start = Run(data, tmp_path / "run")
    start.out.mkdir()
    (start.out / "questions.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(SetupError, match="records of something else"):
        start()
    assert (start.out / "questions.jsonl").read_text() == '{"step": 1}\n'


# --------------------------------------------------------------------- failures


def test_failures_are_wrong_listed_by_reason_and_stay_in_the_denominator(data: list[Path], tmp_path: Path) -> None:
    def fails(request: Request, sampling: Sampling) -> Reply:
        if "base-003" in request.key:
            return Reply(request.key, failure="unreadable_image", detail="cut short")
        if "base-004" in request.key and request.key.endswith("/choice"):
            return Reply(request.key, failure="timeout")
        if "base-005" in request.key and request.key.endswith("/single"):
            return Reply(request.key)
        return POLICY(request, sampling)

    results, _ = Run(data[:1], tmp_path / "out", fails)()
    (group,) = results.groups
    assert group.images == 9
    assert group.failures == {
        "greedy answer: no_completion": 1,
        "multiple choice: timeout": 1,
        "open question: unreadable_image": 1,
    }
    assert group.failed == pytest.approx(1 / 9)
    assert [(each.image_id, each.reason, each.detail) for each in results.failures] == [
        ("base-003", "unreadable_image", "cut short"),
        ("base-004", "timeout", None),
    ]


def test_samples_that_did_not_come_are_counted_by_reason_where_others_did(data: list[Path], tmp_path: Path) -> None:
    def loses(request: Request, sampling: Sampling) -> Reply:
        reply = POLICY(request, sampling)
        lost = {"base-003": "rate_limited", "base-004": None}
        name = next((name for name in lost if name in request.key and request.key.endswith("/open")), None)
        return reply if name is None else replace(reply, texts=reply.texts[:4], failure=lost[name])

    results, _ = Run(data[:1], tmp_path / "out", loses)()
    (group,) = results.groups
    assert (group.failures, results.failures) == ({}, [])
    assert group.sample_failures == {"fewer_than_asked": 2, "rate_limited": 2}
    assert group.failed == pytest.approx(4 / 54)
    shown = "divek/flags/base: 2 samples failed, rate_limited; their images have other samples"
    assert shown in (tmp_path / "out" / "results.html").read_text()
    console = Console(file=io.StringIO(), width=200)
    show(results, console)
    assert shown in console.file.getvalue()  # type: ignore[attr-defined]


def test_surplus_samples_are_a_counted_oddity(data: list[Path], tmp_path: Path) -> None:
    def adds(request: Request, sampling: Sampling) -> Reply:
        return replace(POLICY(request, sampling), surplus=14 if request.key.endswith("base-003/open") else 0)

    results, _ = Run(data[:1], tmp_path / "out", adds)()
    (group,) = results.groups
    assert (group.sample_failures, group.failed) == ({"more_than_asked": 14}, 0.0)
    shown = "divek/flags/base: 14 samples dropped, more_than_asked"
    assert shown in (tmp_path / "out" / "results.html").read_text()


def test_a_password_in_the_address_is_in_no_file(data: list[Path], tmp_path: Path) -> None:
    results, _ = Run(data[:1], tmp_path / "out", base_url="http://me:hunter22@host/v1?key=hunter22")()
    assert results.base_url == "http://host/v1"
    assert all(b"hunter22" not in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_failed_images_are_asked_again_where_that_is_wanted(data: list[Path], tmp_path: Path) -> None:
    Run(data, tmp_path / "whole")()
    down = Run(data, tmp_path / "out", lambda request, sampling: Reply(request.key, failure="server_error"))
    down()
    kept = Run(data, tmp_path / "out")
    kept()
    assert kept.asked == 0
    Run(data, tmp_path / "out")(retry_failures=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_one_more_completion_is_greedy_and_counts_by_itself(data: list[Path], tmp_path: Path) -> None:
    seen: dict[str, list[Any]] = {}

    def answers(request: Request, sampling: Sampling) -> Reply:
        step = request.key.rpartition("/")[2]
        seen.setdefault(step, []).append((request.count, sampling))
        return Reply(request.key, says({"open": "Romania", "single": "tchad", "choice": "A"}[step]) * request.count)

    results, _ = Run(data[:1], tmp_path / "out", answers)()
    assert seen["single"] == [(1, GREEDY)] * 9
    averages = results.groups[0].averages
    # 3 of 9 images show each of three classes.
    assert [averages[name].micro.value for name in ("one_step_greedy", "one_step")] == [pytest.approx(1 / 3)] * 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "questions.jsonl").read_text().splitlines()]
    for line in lines:
        assert (line["greedy"], line["one_step_greedy"]) == ("Chad", float(line["truth"] == "Chad"))
    assert results.settings["single_sampling"]["temperature"] == 0.0  # type: ignore[index]


def test_one_step_asks_one_question_and_has_no_two_step_accuracy(data: list[Path], tmp_path: Path) -> None:
    run = Run(data, tmp_path / "out", mode="one-step", two_step=TwoStepSettings(num_samples=6, ask_choice=False))
    results, _ = run()
    assert run.asked == 32
    assert list(results.groups[0].averages) == ["one_step_greedy", "one_step", "consistency", "recall", "pass_at_k"]


# --------------------------------------------------------------------- comparison


def test_a_comparison_pairs_the_images_of_both(data: list[Path], tmp_path: Path) -> None:
    def always_right(request: Request, sampling: Sampling) -> Reply:
        names = {f"base-{index:03d}": BASE[index % 3] for index in range(9)}
        name = next(name for key, name in names.items() if key in request.key)
        if not request.key.endswith("/choice"):
            return Reply(request.key, says(*[name] * 6))
        text = request.messages[0]["content"][-1]["text"]
        return Reply(request.key, says("A" if f"A. {name}" in text else "B"))

    before, _ = Run(data, tmp_path / "before")()
    after, _ = Run(data[:1], tmp_path / "after", always_right)(compare=[tmp_path / "before"])
    assert after.comparison is not None
    assert (after.comparison.only_here, after.comparison.only_there) == (0, 7)
    by_measure = {each.measure: each for each in after.comparison.differences}
    two_step = by_measure["two_step"]
    assert (two_step.before, two_step.after) == (pytest.approx(before.groups[0].averages["two_step"].micro.value), 1.0)
    assert two_step.mcnemar is not None and two_step.mcnemar.lost == 0
    assert by_measure["one_step"].mcnemar is None
    assert after.comparison.other_settings == []
    # It says what else is different.
    other = TwoStepSettings(6, QuestionRules(num_options=2), open_sampling=Sampling(top_p=0.9, seed=0))
    after, _ = Run(data, tmp_path / "other", two_step=other)(compare=[tmp_path / "before" / "results.json"])
    assert after.comparison is not None
    assert after.comparison.other_settings == ["num_options: 3 -> 2", "open_sampling.top_p: 0.95 -> 0.9"]


def test_several_seeds_of_both_sides_are_one_comparison(data: list[Path], tmp_path: Path) -> None:
    def seeded(name: str, seed: int, **options: Any) -> Results:
        two_step = TwoStepSettings(6, QuestionRules(num_options=3), open_sampling=Sampling(seed=seed))
        return Run(data, tmp_path / name, two_step=two_step)(**options)[0]

    sides = [[seeded(f"{side}{seed}", seed) for seed in seeds] for side, seeds in (("a", (0, 1)), ("b", (2, 3)))]
    found = seeded("c", 4, compare=[tmp_path / "a0", tmp_path / "a1"], other_seeds=[tmp_path / "b2", tmp_path / "b3"])
    assert found.comparison is not None
    assert len(found.comparison.runs) == len(found.comparison.other_seeds) == 2
    one_step = next(each for each in found.comparison.differences if each.measure == "one_step")
    values = [
        [each.groups[0].averages["one_step"].micro.value for each in side] for side in (sides[0], [*sides[1], found])
    ]
    assert (one_step.before, one_step.after) == tuple(pytest.approx(sum(side) / len(side)) for side in values)
    assert one_step.before_spread > 0 and one_step.after_spread > 0 and one_step.mcnemar is None


def test_a_comparison_that_cannot_be_is_refused_before_anything_is_asked(data: list[Path], tmp_path: Path) -> None:
    Run(data[:1], tmp_path / "before")()
    for other, sentence in (("before", "evaluated none of these images"), ("none", "none cannot be read")):
        run = Run(data[1:], tmp_path / "after")
        with pytest.raises(SetupError, match=sentence):
            run(compare=[tmp_path / other])
        assert run.asked == 0


# --------------------------------------------------------------------- the judge


def answers_outside_the_list(*others: str) -> Answer:
    """Half of six samples name no class of the list; the other three are ``others``."""
    texts = says(*["the flag"] * 3, *others)
    return lambda request, sampling: Reply(request.key, says("A") if request.key.endswith("/choice") else texts)


def judge_says(verdict: str) -> Any:
    return serving(lambda body: (200, completion([verdict]), 0))


@pytest.mark.parametrize(("verdict", "same"), [('{"same": true}', True), ('{"same": false}', False)])
def test_the_judge_decides_on_answers_outside_the_list(
    data: list[Path], tmp_path: Path, verdict: str, same: bool
) -> None:
    unknown = answers_outside_the_list("", "Chad", "Chad")
    plain, _ = Run(data[:1], tmp_path / "plain", unknown)()
    with judge_says(verdict) as address:
        results, counts = Run(
            data[:1], tmp_path / "judged", unknown, judge=JudgeSettings("judge", address, cache=tmp_path / "cache")
        )()
    without, judged = (each.groups[0].averages["one_step"].micro.value for each in (plain, results))
    assert judged == pytest.approx(without + (3 / 6 if same else 0))
    assert results.judge is not None
    assert (results.judge.pairs, results.judge.same, results.judge.different) == (3, 3 * same, 3 * (not same))
    assert counts.judging is not None and counts.judging.asked == 3


def test_unjudged_answers_are_shown_apart(data: list[Path], tmp_path: Path) -> None:
    unknown = answers_outside_the_list("", "", "")
    with serving(lambda body: (500, {}, 0)) as address:
        judge = JudgeSettings("judge", address, max_retries=0)
        results, _ = Run(data[:1], tmp_path / "out", unknown, judge=judge)()
    found = results.groups[0].averages["one_step"].micro
    assert (found.value, found.unjudged) == (0.0, pytest.approx(0.5))
    assert results.judge is not None and results.judge.unjudged == {"server_error": 3}
    # The answers are kept: only the judge is asked again.
    with judge_says('{"same": true}') as address:
        again = Run(data[:1], tmp_path / "out", unknown, judge=JudgeSettings("judge", address))
        results, _ = again()
    assert again.asked == 0
    assert results.groups[0].averages["one_step"].micro.value == pytest.approx(0.5)


def test_by_the_papers_protocol_raw_answers_are_the_options_and_the_judge_decides_on_all(
    data: list[Path], tmp_path: Path
) -> None:
    texts = says("chad", "Species: Chad", "Species: Chad", "Libya", "chad ", "Romania", "Mali", "Niger") + ("cut",)

    def answers(request: Request, sampling: Sampling) -> Reply:
        if not request.key.endswith("/choice"):
            return Reply(request.key, texts if request.key.endswith("/open") else says("Species: Chad"))
        lines = request.messages[0]["content"][-1]["text"].splitlines()
        letter = next((line[0] for line in lines if line.endswith(". Species: Chad")), "A")
        return Reply(request.key, says(letter))

    def verdict(body: dict[str, Any]) -> tuple[int, Any, float]:
        text = body["messages"][0]["content"]
        same = '"Chad"' in text and '"Species: Chad"' in text
        return 200, completion([json.dumps({"same": same})]), 0

    settings = TwoStepSettings(9, QuestionRules(num_options=5), open_sampling=Sampling(seed=0))
    with serving(verdict) as address:
        judge = JudgeSettings("judge", address)
        asked = {"two_step": settings, "judge": judge}
        results, _ = Run(data[:1], tmp_path / "out", answers, protocol="paper", **asked)()
        strict, _ = Run(data[:1], tmp_path / "strict", answers, **asked)()
    line = json.loads((tmp_path / "out" / "questions.jsonl").read_text().splitlines()[0])
    assert sorted(line["options"]) == ["Libya", "Mali", "Romania", "Species: Chad", "chad"]
    assert (line["votes"]["chad"], line["votes"]["Species: Chad"], line["unanswered"]) == (2, 2, 1)
    assert line["judged"] == {
        name: "same" if name == "Species: Chad" else "different"
        for name in ("Libya", "Mali", "Niger", "Romania", "Species: Chad")
    }
    assert (line["truth"], line["greedy"], line["two_step"], line["one_step_greedy"]) == ("Chad", "Species: Chad", 1, 1)
    assert (line["one_step"], line["consistency"], line["recall"]) == (pytest.approx(4 / 9), 1.0, 1.0)
    assert (results.settings["protocol"], strict.settings["protocol"]) == ("paper", "strict")
    assert "Species: Chad" not in (tmp_path / "strict" / "questions.jsonl").read_text().partition('"options"')[2][:200]
    with pytest.raises(SetupError, match="lets a model judge every answer"):
        Run(data, tmp_path / "none", protocol="paper")


def test_no_answer_leaves_no_question_by_the_papers_protocol(data: list[Path], tmp_path: Path) -> None:
    nothing = Run(
        data[:1],
        tmp_path / "out",
        lambda request, _: Reply(request.key, ("cut",) * 6),
        protocol="paper",
        judge=JudgeSettings("judge", "http://localhost:1/v1"),
    )
    results, _ = nothing()
    assert {request.key.rpartition("/")[2] for request in nothing.engines[0].requests} == {"open", "single"}
    assert results.groups[0].averages["two_step"].micro.value == 0.0


# --------------------------------------------------------------------- kill -9


def policy_of_a_server(body: dict[str, Any]) -> tuple[int, Any, float]:
    """Answers by the request's own seed, after a while: equal requests get equal answers, in any order."""
    rng = random.Random(body["seed"])
    if body.get("n", 1) > 1:
        texts = [rng.choice([*says(*BASE, *NEW), "cut"]) for _ in range(body["n"])]
    else:
        texts = [rng.choice(says("A", "B", "C"))]
    return 200, completion(texts), 0.02 + 0.05 * rng.random()


def arguments(data: list[Path], address: str, out: Path) -> list[str]:
    files = [argument for path in data for argument in ("--data", str(path))]
    options = ["--samples", "4", "--options", "3", "--max-images-in-flight", "3", "--resamples", "50"]
    return ["eval", "--model", "m", "--base-url", address, "--out", str(out), *files, *options]


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_in_the_middle(command: list[str], questions: Path) -> None:
    """Start ``divek`` and end it with kill -9 once it has kept ten answers."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "divek_verl.cli", *command], env=environment, **silent)
    deadline = time.monotonic() + 300
    while lines_in(questions) < 10:
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_and_resumed_evaluation_is_equal_to_an_uninterrupted_one_to_the_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_set(tmp_path / "data", {"base": 24, "new": 24})
    with serving(policy_of_a_server) as address:
        assert cli.run(arguments(data, address, tmp_path / "whole")) == 0
        command = arguments(data, address, tmp_path / "out")
        kill_in_the_middle(command, tmp_path / "out" / "questions.jsonl")
        assert 10 <= lines_in(tmp_path / "out" / "questions.jsonl") < 48
        assert cli.run(command) == 0
    assert "kept from before" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
