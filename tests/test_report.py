"""The report of a run, made from a fabricated run directory."""

import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from divek_verl import report
from divek_verl.errors import SetupError

FLAGS = {
    "Chad": ("#002664", "#fecb00", "#c60c30"),
    "Romania": ("#002b7f", "#fcd116", "#ce1126"),
    "Ireland": ("#169b62", "#ffffff", "#ff883e"),
    "Ivory Coast": ("#f77f00", "#ffffff", "#009e60"),
    "Italy": ("#009246", "#ffffff", "#ce2b37"),
    "Mali": ("#14b53a", "#fcd116", "#ce1126"),
    "Guinea": ("#ce1126", "#fcd116", "#009460"),
    "France": ("#0055a4", "#ffffff", "#ef4135"),
}
LOOK_ALIKE = {
    "Chad": "Romania",
    "Romania": "Chad",
    "Ireland": "Ivory Coast",
    "Ivory Coast": "Ireland",
    "Italy": "Ireland",
    "Mali": "Guinea",
    "Guinea": "Mali",
    "France": "Italy",
}
SIDES = {"base": ("Chad", "Romania", "Ireland", "Ivory Coast"), "new": ("Italy", "Mali", "Guinea", "France")}
STEPS = 30
VALIDATED = (0, 10, 20, 30)
SAMPLES = 8


def draw_flag(path: Path, colours: tuple[str, ...]) -> None:
    picture = Image.new("RGB", (240, 160))
    for band, colour in enumerate(colours):
        ImageDraw.Draw(picture).rectangle((band * 80, 0, band * 80 + 79, 159), fill=colour)
    picture.save(path)


def make_visit(
    rng: random.Random,
    step: int,
    side: str,
    truth: str,
    number: int,
    folder: Path,
) -> dict[str, Any]:
    """A validation visit as ``records.Visit.to_json`` writes it; the policy is better at later steps."""
    skill = 0.3 + 0.4 * step / STEPS
    other = LOOK_ALIKE[truth]
    wrong_answers = [other, other, "Andorra", ""]
    answers = [truth if rng.random() < skill else rng.choice(wrong_answers) for _ in range(SAMPLES)]
    named = sorted({truth, other} & set(answers), key=lambda name: (-answers.count(name), name))
    votes = {name: answers.count(name) for name in named}
    fillers = [name for name in SIDES[side] if name not in (truth, other)]
    options = rng.sample((named + fillers)[:2], 2)
    answer = "AB"[options.index(truth)] if truth in options else None
    choice = answer if answer and rng.random() < skill + 0.1 else "A" if answer != "A" else "B"
    picture = options["AB".index(choice)]
    thought = "<think>Three upright bands; the shades look more like {}.</think>"
    return {
        "step": step,
        "policy_version": step,
        "split": "val",
        "data_source": f"divek/flags/{side}",
        "image_id": f"val_{truth.lower()}_{number}",
        "image": str(folder / f"{truth}.png"),
        "truth": truth,
        "votes": votes,
        "unknown": {"Andorra": answers.count("Andorra")} if "Andorra" in answers else {},
        "unanswered": answers.count(""),
        "truncated": 0,
        "failed_samples": 0,
        "vote_age": 0,
        "options": options,
        "answer": answer,
        "injected": False,
        "skip": None,
        "failure": None,
        "detail": None,
        "choices": [choice],
        "completions": [f"{thought.format(picture)}\n<answer>{choice}</answer>"],
        "rewards": [1.0 + (choice == answer)],
        "rollout_failures": {},
        "one_step": answers.count(truth) / SAMPLES,
        "consistency": float(max(votes, key=lambda name: votes[name], default="") == truth),
        "recall": float(answer is not None),
        "pass_at_k": float(truth in votes),
        "mining_seconds": 1.5,
        "rollout_seconds": 0.4,
        "cached_share": 0.9,
    }


def training_metrics(rng: random.Random, step: int) -> dict[str, float]:
    gain = step / STEPS
    metrics = {
        "critic/score/mean": 1.1 + 0.5 * gain + rng.gauss(0, 0.06),
        "divek/images_mined": 16.0,
        "divek/truth_injected_share": max(0.0, 0.4 - 0.3 * gain + rng.gauss(0, 0.04)),
        "divek/unanswered_share": 0.1 * (1 - gain),
        "divek/unknown_share": 0.05 * (1 - gain),
        "training/rollout_actor_probs_pearson_corr": 0.9996 - rng.random() * 3e-4,
        "timing_s/step": 11 + rng.random() * 2,
        "divek/mining_seconds/mean": 1.5 + rng.random(),
        "divek/skips/easy": float(round(4 * gain + rng.random())),
        "divek/skips/total": float(round(4 * gain + rng.random())),
    }
    if step == 12:
        metrics["divek/skips/mining_timeout"] = 1.0
    return metrics


def averages(visits: list[dict[str, Any]]) -> dict[str, float]:
    """What verl logs of a validation."""
    logged: dict[str, float] = {}
    for source in sorted({visit["data_source"] for visit in visits}):
        own = [visit for visit in visits if visit["data_source"] == source]
        keys = ("one_step", "consistency", "recall", "pass_at_k")
        mean = {key: sum(visit[key] for visit in own) / len(own) for key in keys}
        logged |= {f"val-aux/{source}/{key}/mean@1": value for key, value in mean.items()}
        right = sum(visit["choices"] == [visit["answer"]] for visit in own)
        logged[f"val-core/{source}/acc/mean@1"] = right / len(own)
    return logged


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fabricate_run(folder: Path) -> Path:
    """A run of 30 steps on 4 + 4 look-alike flags, validated every 10 steps; the same at every call."""
    rng = random.Random("fabricated run")
    folder.mkdir(parents=True)
    for name, colours in FLAGS.items():
        draw_flag(folder / f"{name}.png", colours)
    questions: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    for step in range(STEPS + 1):
        data: dict[str, float] = {}
        if step:
            data |= training_metrics(rng, step)
            truth = rng.choice(SIDES["base"])
            trained = make_visit(rng, step, "base", truth, step, folder) | {"split": "train"}
            if step % 6 == 0:
                trained |= {"skip": "easy", "options": [], "answer": None, "choices": [], "completions": []}
            questions.append(trained)
        if step in VALIDATED:
            visits = [
                make_visit(rng, step, side, truth, number, folder)
                for side, truths in SIDES.items()
                for truth in truths
                for number in range(5)
            ]
            questions += visits
            data |= averages(visits)
        metrics.append({"step": step, "data": data})
    write_lines(folder / report.QUESTIONS_FILE, questions)
    write_lines(folder / report.METRICS_FILE, metrics)
    return folder


class Page(HTMLParser):
    """The elements of a page and its text; complains about tags that do not nest."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def having(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [own for name, own in self.elements if name == tag and attributes.items() <= own.items()]


def page_of(run_dir: Path) -> Page:
    return Page(report.write_report(run_dir).read_text(encoding="utf-8"))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return fabricate_run(tmp_path / "flags-run")


# The page as a whole


def test_the_page_is_well_formed_and_lies_in_the_run_directory(run_dir: Path) -> None:
    assert report.write_report(run_dir) == run_dir / "report.html"
    page = page_of(run_dir)
    assert page.having("html") and "flags-run" in page.text


def test_it_can_be_written_elsewhere(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    assert report.write_report(run_dir, out) == out
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_the_same_records_give_the_same_bytes(run_dir: Path, tmp_path: Path) -> None:
    first = report.write_report(run_dir, tmp_path / "1.html").read_bytes()
    assert report.write_report(run_dir, tmp_path / "2.html").read_bytes() == first


def test_nothing_is_loaded_from_a_network(run_dir: Path) -> None:
    page = page_of(run_dir)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    (policy,) = page.having("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in str(policy["content"]) and "http" not in str(policy["content"])


def test_only_the_two_scripts_of_the_page_may_run(run_dir: Path) -> None:
    page = page_of(run_dir)
    (policy,) = page.having("meta", **{"http-equiv": "Content-Security-Policy"})
    data, *programs = page.scripts
    assert [report._csp_hash(script) in str(policy["content"]) for script in programs] == [True, True]
    assert "'unsafe-inline'" not in re.findall(r"script-src [^;]*", str(policy["content"]))[0]
    json.loads(data)


def test_it_stays_below_15_megabytes(run_dir: Path) -> None:
    assert report.write_report(run_dir).stat().st_size < 15e6


# Numbers


@pytest.mark.parametrize("side", SIDES)
def test_the_table_holds_the_first_and_the_last_validation(run_dir: Path, side: str) -> None:
    logged = {line["step"]: line["data"] for line in read_lines(run_dir / "metrics.jsonl")}
    rows = {row.source: row for row in report.final_table(report.read_run(run_dir))}
    row = rows[f"divek/flags/{side}"]
    assert (row.first, row.last, row.images) == (0, 30, 20)
    text = page_of(run_dir).text
    for score, key in zip(row.scores, report.MEASURES, strict=True):
        section = "core" if key == "acc" else "aux"
        name = f"val-{section}/divek/flags/{side}/{key}/mean@1"
        assert (score.before, score.after) == (logged[0][name], logged[30][name])
        assert f"{100 * logged[0][name]:.1f}% → {100 * logged[30][name]:.1f}%" in text


def test_base_comes_before_new(run_dir: Path) -> None:
    rows = report.final_table(report.read_run(run_dir))
    assert [row.source for row in rows] == ["divek/flags/base", "divek/flags/new"]


def test_a_missing_measure_is_a_dash_and_not_a_zero(run_dir: Path) -> None:
    lines = read_lines(run_dir / "metrics.jsonl")
    for line in lines:
        line["data"] = {name: value for name, value in line["data"].items() if "/recall/" not in name}
    lines[0]["data"]["val-aux/divek/flags/base/one_step/mean@1"] = float("nan")
    write_lines(run_dir / "metrics.jsonl", lines)
    row = report.final_table(report.read_run(run_dir))[0]
    scores = {score.title: score for score in row.scores}
    assert (scores["Recall"].before, scores["Recall"].after) == (None, None)
    assert scores["One-step"].before is None and scores["One-step"].after is not None
    text = page_of(run_dir).text
    one_step = f"{100 * (scores['One-step'].after or 0):.1f}%"
    assert f"– → {one_step}" in text and "not recorded" in text
    assert "Not recorded in this run: Recall" in text


def test_one_validation_has_no_after(run_dir: Path) -> None:
    write_lines(run_dir / "metrics.jsonl", read_lines(run_dir / "metrics.jsonl")[:5])
    row = report.final_table(report.read_run(run_dir))[0]
    assert row.last is None and all(score.after is None and score.change is None for score in row.scores)
    assert "step 0 only" in page_of(run_dir).text


def test_the_last_of_two_lines_of_a_step_counts(run_dir: Path) -> None:
    lines = read_lines(run_dir / "metrics.jsonl")
    lines.append({"step": 30, "data": {"critic/score/mean": 1.75}})
    write_lines(run_dir / "metrics.jsonl", lines)
    run = report.read_run(run_dir)
    assert run.metrics[30]["critic/score/mean"] == 1.75
    assert "divek/skips/easy" not in run.metrics[30]
    assert "val-core/divek/flags/base/acc/mean@1" in run.metrics[30]


def test_a_resume_leaves_the_abandoned_steps_behind(run_dir: Path) -> None:
    lines = read_lines(run_dir / "metrics.jsonl")
    lines.append({"step": 21, "data": {"critic/score/mean": 1.5}})
    write_lines(run_dir / "metrics.jsonl", lines)
    run = report.read_run(run_dir)
    assert max(run.metrics) == 21 and run.metrics[21]["critic/score/mean"] == 1.5
    assert run.replaced_steps == 10
    assert "10 steps logged again after a resume" in page_of(run_dir).text


def test_the_last_validation_visit_of_an_image_counts(run_dir: Path) -> None:
    lines = read_lines(run_dir / "questions.jsonl")
    again = {**lines[0], "completions": ["said after the resume"]}
    write_lines(run_dir / "questions.jsonl", [*lines, again])
    visits = report.read_run(run_dir).validation[again["data_source"]][again["step"]]
    assert len(visits) == 20
    assert visits[again["image_id"]].completions == ["said after the resume"]


def test_a_validation_image_without_a_question_is_wrong() -> None:
    line: dict[str, Any] = {
        "step": 0,
        "split": "val",
        "data_source": "divek/flags/base",
        "image_id": "1",
        "truth": "Chad",
    }
    assert report.RecordedVisit(**line, failure="unreadable_image").acc == 0.0
    assert report.RecordedVisit(**line, answer=None, choices=[None]).acc == 0.0
    failed = {"rollout_timeout": 1}
    assert report.RecordedVisit(**line, answer="A", choices=["A"], rollout_failures=failed).acc == 0.5


def test_the_charts_hold_the_logged_values(run_dir: Path) -> None:
    figures = json.loads(page_of(run_dir).scripts[0])
    logged = {line["step"]: line["data"] for line in read_lines(run_dir / "metrics.jsonl") if line["step"]}
    (reward,) = figures[0]["data"]
    assert reward["x"] == list(logged)
    assert reward["y"] == [data["critic/score/mean"] for data in logged.values()]
    assert [trace["name"] for trace in figures[1]["data"]] == ["divek/flags/base", "divek/flags/new"]


def test_a_reason_without_a_skip_in_a_step_has_no_bar_there(run_dir: Path) -> None:
    (skips,) = [chart for chart in report.charts(report.read_run(run_dir)) if chart.title == "Skipped images"]
    assert skips.series["mining_timeout"] == {12: 1.0}
    assert set(skips.series) == {"easy", "mining_timeout"}


def test_a_run_without_skips_shows_zeros_and_one_that_did_not_count_them_nothing(tmp_path: Path) -> None:
    for logged, shown in ({"divek/skips/total": 0.0}, True), ({"divek/samples": 8.0}, False):
        write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "data": logged}])
        (skips,) = [c for c in report.charts(report.read_run(tmp_path)) if c.title == "Skipped images"]
        assert skips.recorded == shown


def test_a_data_source_has_one_colour_and_all_charts_one_x_axis(run_dir: Path) -> None:
    figures = json.loads(page_of(run_dir).scripts[0])
    traces = [trace for figure in figures for trace in figure["data"]]
    for slot, side in enumerate(SIDES):
        assert {trace["meta"] for trace in traces if trace["name"] == f"divek/flags/{side}"} == {slot}
        assert [t["name"] for t in traces if t["meta"] == slot and not t["name"].startswith("divek/")] == []
    assert {tuple(figure["layout"]["xaxis"]["range"]) for figure in figures} == {(-0.6, 30.6)}


def test_skips_and_failures_are_counted_by_reason(run_dir: Path) -> None:
    lines = read_lines(run_dir / "questions.jsonl")
    lines[0]["failure"] = "unreadable_image"
    lines[1]["rollout_failures"] = {"rollout_timeout": 1}
    write_lines(run_dir / "questions.jsonl", lines)
    problems = report.problems(report.read_run(run_dir))
    found = {(problem.kind, problem.reason): (problem.training, problem.validation) for problem in problems}
    assert found == {
        ("skipped", "easy"): (5, 0),
        ("failed", "unreadable_image"): (0, 1),
        ("rollout", "rollout_timeout"): (0, 1),
    }
    assert "the picture cannot be read" in page_of(run_dir).text


def test_confusions_are_shares_of_all_samples_on_pictures_of_the_class(run_dir: Path) -> None:
    run = report.read_run(run_dir)
    shown = {(c.truth, c.answer): c for c in report.confusions(report.image_pairs(run))}
    lines = read_lines(run_dir / "questions.jsonl")
    chad = [line for line in lines if (line["split"], line["step"], line["truth"]) == ("val", 30, "Chad")]
    taken_for_romania = sum(line["votes"].get("Romania", 0) for line in chad)
    assert shown["Chad", "Romania"].after == taken_for_romania / (len(chad) * SAMPLES)
    assert all(truth != answer for truth, answer in shown)


# Examples


def make_pair(
    name: str,
    before: bool,
    after: bool,
    votes: dict[str, int],
    truth: str = "Chad",
) -> report.Pair:
    def visit(step: int, right: bool) -> report.RecordedVisit:
        return report.RecordedVisit(
            step=step,
            split="val",
            data_source="divek/flags/base",
            image_id=name,
            truth=truth,
            votes=votes,
            options=[truth, "Romania"],
            answer="A",
            choices=["A" if right else "B"],
        )

    return report.Pair(visit(0, before), visit(9, after))


EVEN, ONE_SIDED = {"Chad": 4, "Romania": 4}, {"Chad": 7, "Romania": 1}


def test_the_examples_are_one_learnt_one_confusable_and_one_still_wrong() -> None:
    pairs = [
        make_pair("a", True, True, ONE_SIDED),
        make_pair("b", True, True, EVEN),
        make_pair("c", False, False, ONE_SIDED),
        make_pair("d", False, True, ONE_SIDED),
        make_pair("e", False, True, EVEN),
        make_pair("f", False, False, EVEN),
    ]
    chosen = report.choose_examples(pairs)
    assert [pair.name[1] for pair in chosen] == ["e", "b", "f"]
    outcomes = [pair.outcome for pair in chosen]
    assert outcomes == ["Wrong before, right after", "Right both times", "Still wrong"]
    assert report.choose_examples(pairs[::-1]) == chosen


def test_a_kind_that_no_image_shows_gives_its_place_away() -> None:
    pairs = [make_pair(name, True, True, EVEN) for name in "abcd"]
    assert [pair.name[1] for pair in report.choose_examples(pairs)] == ["b", "a", "c"]
    assert len(report.choose_examples(pairs[:2])) == 2


def test_an_image_that_was_wrong_all_along_comes_before_one_that_became_wrong() -> None:
    became, stayed = make_pair("a", True, False, EVEN), make_pair("b", False, False, ONE_SIDED)
    learnt, right = make_pair("c", False, True, EVEN), make_pair("d", True, True, EVEN)
    assert report.choose_examples([became, stayed, learnt, right])[-1] == stayed
    assert report.choose_examples([became, learnt, right])[-1] == became


def test_a_class_is_shown_twice_only_where_there_is_no_other() -> None:
    pairs = [
        make_pair("a", False, True, EVEN),
        make_pair("b", True, True, EVEN),
        make_pair("c", True, True, {"Mali": 7, "Guinea": 1}, truth="Mali"),
    ]
    assert [pair.before.truth for pair in report.choose_examples(pairs)][:2] == ["Chad", "Mali"]


def test_an_example_shows_picture_votes_options_and_text_before_and_after(run_dir: Path) -> None:
    page = page_of(run_dir)
    (first, *_) = report.choose_examples(report.image_pairs(report.read_run(run_dir)))
    pictures = [str(image["src"]) for image in page.having("img")]
    assert [src.startswith("data:image/jpeg;base64,") for src in pictures] == [True] * 3
    assert first.after is not None and first.outcome == "Wrong before, right after"
    for visit in (first.before, first.after):
        assert " ".join(visit.completions[0].split()) in page.text
    assert "Before · step 0 ✗ wrong" in page.text and "After · step 30 ✓ right" in page.text


def test_the_bars_add_up_to_all_samples() -> None:
    votes = {f"class {number}": 20 - number for number in range(12)}
    line: dict[str, Any] = {"step": 0, "split": "val", "data_source": "divek/x/base", "image_id": "1"}
    visit = report.RecordedVisit(**line, truth="class 0", votes=votes, unknown={"Atlantis": 3}, unanswered=2)
    bars = report._bars(visit)
    assert sum(bar.count for bar in bars) == visit.samples
    assert [bar.kind for bar in bars] == ["truth", *["other"] * 6, "rest", "none"]
    assert bars[-2].label == "6 other answers"


def test_a_picture_that_is_not_there_is_shown_as_such(run_dir: Path) -> None:
    for picture in run_dir.glob("*.png"):
        picture.write_bytes(b"torn")
    assert page_of(run_dir).text.count("The picture is not on this disk or cannot be read.") == 3
    assert report.thumbnail("") is None
    assert report.thumbnail(str(run_dir)) is None


def test_transparency_becomes_white_and_a_thumbnail_is_small(tmp_path: Path) -> None:
    Image.new("RGBA", (2000, 1000), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert len(report.thumbnail(str(tmp_path / "clear.png")) or "") < 20_000


# Broken, partial and hostile records


def test_torn_lines_are_counted_and_named(run_dir: Path) -> None:
    for name, torn in (
        ("questions.jsonl", '{"step": 30, "split": "val", "tru'),
        ("metrics.jsonl", '{"step": 31'),
    ):
        with (run_dir / name).open("ab") as file:
            file.write(b'[1]\n{"step": "one"}\n' + torn.encode() + b"\xc3")
    assert report.read_run(run_dir).unreadable == {"questions.jsonl": 3, "metrics.jsonl": 3}
    text = page_of(run_dir).text
    assert "3 unreadable lines in questions.jsonl" in text and "3 unreadable lines in metrics.jsonl" in text


def test_a_whole_run_has_no_unreadable_line(run_dir: Path) -> None:
    assert "unreadable" not in page_of(run_dir).text


def test_metrics_alone_are_enough(run_dir: Path) -> None:
    (run_dir / "questions.jsonl").unlink()
    page = page_of(run_dir)
    assert "questions.jsonl is missing: no examples" in page.text
    assert page.having("div", **{"class": "chart"}) and not page.having("img")
    problems = {problem.reason: problem for problem in report.problems(report.read_run(run_dir))}
    assert problems["mining_timeout"].training == 1 and problems["mining_timeout"].validation is None


def test_questions_alone_give_the_same_table(run_dir: Path) -> None:
    logged = report.final_table(report.read_run(run_dir))
    (run_dir / "metrics.jsonl").unlink()
    counted = report.final_table(report.read_run(run_dir))
    assert [row.source for row in counted] == [row.source for row in logged]
    for one, other in zip(counted, logged, strict=True):
        for ours, verls in zip(one.scores, other.scores, strict=True):
            assert (ours.before, ours.after) == pytest.approx((verls.before, verls.after))
    page = page_of(run_dir)
    assert "metrics.jsonl is missing: no training curves" in page.text
    assert len(page.having("img")) == 3


def test_a_run_that_recorded_nothing_yet_says_so(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").touch()
    (tmp_path / "metrics.jsonl").touch()
    text = page_of(tmp_path).text
    assert "No validation was recorded." in text and "No validation question was recorded." in text


def test_a_directory_without_records_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds neither questions.jsonl nor metrics.jsonl"):
        report.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


MARKUP = "<script>alert(1)</script></template><img src=x onerror=alert(1)>"
HOSTILE = f"{MARKUP}\u202egpj.exe\u2066\x00\"'{{{{ 7*7 }}}}"


@pytest.fixture
def hostile_dir(run_dir: Path) -> Path:
    """Every text of the records, the names of metrics among them, is hostile."""
    lines = read_lines(run_dir / "questions.jsonl")
    for line in lines:
        line |= {"truth": HOSTILE, "votes": {HOSTILE: 3, f"{HOSTILE}2": 3}, "unknown": {f"{HOSTILE}3": 2}}
        line |= {
            "options": [HOSTILE, f"{HOSTILE}2"],
            "answer": "A",
            "completions": [HOSTILE],
            "image": HOSTILE,
        }
        line |= {"image_id": f"{HOSTILE}{line['image_id']}", "data_source": f"divek/{HOSTILE}/base"}
        line |= {"rollout_failures": {HOSTILE: 1}}
    lines[1] |= {"skip": HOSTILE, "failure": HOSTILE}
    write_lines(run_dir / "questions.jsonl", lines)
    metrics = read_lines(run_dir / "metrics.jsonl")
    metrics[-1]["data"] |= {f"divek/skips/{HOSTILE}": 1.0, f"val-core/{HOSTILE}/acc/mean@1": 1.0}
    write_lines(run_dir / "metrics.jsonl", metrics)
    (run_dir / "summary.json").write_text(json.dumps({HOSTILE: HOSTILE}), encoding="utf-8")
    return run_dir


def test_hostile_text_is_inert(hostile_dir: Path) -> None:
    page = page_of(hostile_dir)
    assert len(page.having("script")) == 3 and not page.having("img") and not page.having("template")
    assert not [own for _, own in page.elements if any(name.startswith("on") for name in own)]
    assert MARKUP in page.text
    assert "{{ 7*7 }}" in page.text
    data = page.scripts[0]
    assert "<" not in data and ">" not in data
    names = [trace["name"] for figure in json.loads(data) for trace in figure["data"]]
    assert any("&lt;script&gt;" in name for name in names) and not any("<" in name for name in names)


def test_marks_that_turn_or_hide_text_are_shown(hostile_dir: Path) -> None:
    page = page_of(hostile_dir)
    assert r"\u202egpj.exe\u2066\x00" in page.text
    without_plotly = page.source.replace(page.scripts[1], "")
    assert not [mark for mark in "\u202e\u2066\x00" if mark in without_plotly]


def test_visible_keeps_plain_text_and_other_scripts() -> None:
    for text in ("São Tomé\n\tand Príncipe", "日本", "مصر", "Ελλάδα", ""):
        assert report.visible(text) == text
    assert report.visible("a\u200bb\u2028\ud800") == r"a\u200bb\u2028\ud800"


# Contracts with the rest of the package


def test_it_reads_what_the_recorder_writes(tmp_path: Path) -> None:
    records = pytest.importorskip("divek_verl.records")
    assert (report.QUESTIONS_FILE, report.METRICS_FILE) == (records.QUESTIONS_FILE, records.METRICS_FILE)
    visit = records.Visit(0, "val", "divek/flags/base", "val_1", "", "Chad", votes={"Chad": 2}, unanswered=1)
    write_lines(tmp_path / "questions.jsonl", [visit.to_json()])
    records.MetricsFile(str(tmp_path)).log({"critic/score/mean": 1.0}, step=1)
    run = report.read_run(tmp_path)
    assert run.unreadable == {"questions.jsonl": 0, "metrics.jsonl": 0}
    assert run.validation["divek/flags/base"][0]["val_1"].samples == visit.samples == 3
    assert run.metrics == {1: {"critic/score/mean": 1.0}}


def test_the_summary_of_the_run_is_shown_if_it_can_be_read(run_dir: Path) -> None:
    summary = run_dir / "summary.json"
    summary.write_text('{"model": "tiny-vl", "nested": {"left": "out"}}', encoding="utf-8")
    assert "model tiny-vl" in page_of(run_dir).text
    for broken in ("{", "[]", "null"):
        summary.write_text(broken, encoding="utf-8")
        assert "Summary of the run" not in page_of(run_dir).text


def test_the_command_prints_the_path(run_dir: Path, tmp_path: Path) -> None:
    command = report.typer.Typer()
    command.command()(report.main)
    done = CliRunner().invoke(command, [str(run_dir), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0 and done.stdout.strip() == str(tmp_path / "page.html")
    refused = CliRunner().invoke(command, [str(tmp_path / "nothing")])
    assert refused.exit_code == 1 and "give the directory that a run wrote to" in refused.output
