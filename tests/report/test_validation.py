"""The final table."""

import json
from pathlib import Path

import pytest

from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.evaluation.statistics import summarize
from divek_verl.measures import MEASURES
from divek_verl.records import METRICS_FILE, QUESTIONS_FILE
from divek_verl.report.reading import read_run
from divek_verl.report.validation import final_table, validation_curves

from .fabricated import SIDES, make_record, read_logged, read_records, write_logged, write_records
from .parsing import page_of


@pytest.mark.parametrize("side", SIDES)
def test_the_table_holds_the_first_and_the_last_validation(run_dir: Path, side: str) -> None:
    logged = dict(read_logged(run_dir))
    rows = {row.source: row for row in final_table(read_run(run_dir))}
    row = rows[f"divek/flags/{side}"]
    assert (row.first, row.last, row.images) == (0, 30, 20)
    text = page_of(run_dir).text
    for score, key in zip(row.scores, MEASURES, strict=True):
        name = f"val-aux/divek/flags/{side}/{key}/mean@1"
        if key == "two_step":
            name = f"val-core/divek/flags/{side}/acc/mean@1"
        assert (score.before, score.after) == (logged[0][name], logged[30][name])
        assert f"{100 * logged[0][name]:.1f}% → {100 * logged[30][name]:.1f}%" in text


def test_base_comes_before_new_and_every_measure_is_explained(run_dir: Path) -> None:
    rows = final_table(read_run(run_dir))
    assert [row.source for row in rows] == ["divek/flags/base", "divek/flags/new"]
    page = page_of(run_dir)
    for measure in MEASURES.values():
        assert measure.meaning in page.text and page.having("th", title=measure.meaning)


def test_a_missing_measure_is_a_dash_and_not_a_zero(run_dir: Path) -> None:
    logged = [
        (step, {name: value for name, value in data.items() if "/recall/" not in name})
        for step, data in read_logged(run_dir)
    ]
    logged[0][1]["val-aux/divek/flags/base/one_step/mean@1"] = float("nan")
    write_logged(run_dir, logged)
    scores = dict(zip(MEASURES, final_table(read_run(run_dir))[0].scores, strict=True))
    assert (scores["recall"].before, scores["recall"].after) == (None, None)
    assert scores["one_step"].before is None and scores["one_step"].after is not None
    text = page_of(run_dir).text
    one_step = f"{100 * (scores['one_step'].after or 0):.1f}%"
    assert f"– → {one_step}" in text and "not recorded" in text
    assert "Not recorded in this run: Validation: recall" in text


def test_records_without_a_greedy_completion_have_a_dash_and_not_a_zero(run_dir: Path) -> None:
    (run_dir / METRICS_FILE).unlink()
    path = run_dir / QUESTIONS_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["step"] < 30:  # an older release began the run
            del line["one_step_greedy"]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    row = final_table(read_run(run_dir))[0]
    scores = dict(zip(MEASURES, row.scores, strict=True))
    greedy = scores["one_step_greedy"]
    assert (greedy.before, greedy.interval, greedy.direction) == (None, None, "same")
    assert greedy.after is not None and f"– → {100 * greedy.after:.1f}%" in page_of(run_dir).text
    assert scores["one_step"].before is not None and scores["one_step"].interval is not None
    assert list(validation_curves(read_run(run_dir))[row.source]["one_step_greedy"]) == [30]


def test_one_validation_has_no_after(run_dir: Path) -> None:
    write_logged(run_dir, read_logged(run_dir)[:5])
    row = final_table(read_run(run_dir))[0]
    assert row.last is None and all(score.after is None and score.change is None for score in row.scores)
    page = page_of(run_dir)
    assert "step 0 · 20 images · only one validation, so there is no change to show" in page.text
    assert not page.having("span", **{"class": "arrow"})
    low, high = row.scores[0].interval or (-1.0, -1.0)
    assert 0.0 <= low < (row.scores[0].before or 0.0) < high <= 1.0
    assert f"{100 * low:.1f}% – {100 * high:.1f}%" in page.text


def test_a_first_validation_after_training_began_is_not_called_before(run_dir: Path) -> None:
    write_logged(run_dir, [(step, data) for step, data in read_logged(run_dir) if step])
    write_records(run_dir, [r for r in read_records(run_dir) if r.step])
    assert page_of(run_dir).text.count("step 10 → 30 · 20 images · no validation before training") == 2


def test_the_report_and_divek_eval_give_the_same_interval(run_dir: Path) -> None:
    records = [r for r in read_records(run_dir) if (r.split, r.step, r.data_source) == ("val", 0, "divek/flags/new")]
    write_records(run_dir, records)
    (run_dir / METRICS_FILE).unlink()
    (row,) = final_table(read_run(run_dir))
    evaluated = [{**each.to_json(), "two_step": each.accuracy, "num_samples": each.samples} for each in records]
    asked = [EvaluationRecord.from_json(line) for line in evaluated]
    (group,) = summarize(asked, list(MEASURES), seed=0, resamples=2000).groups
    for score, average in zip(row.scores, group.averages.values(), strict=True):
        assert score.interval == pytest.approx((average.micro.low, average.micro.high))


def test_only_a_change_beyond_noise_is_coloured(tmp_path: Path) -> None:
    def run(learned: int) -> str:
        answers = [("B", "B"), ("A", "A")] * 4 + [("B", "A")] * learned
        write_records(
            tmp_path,
            [
                make_record(str(n), f"class {n}", step=step, options=["x", "y"], answer="A", choices=[choice])
                for n, choices in enumerate(answers)
                for step, choice in zip((0, 9), choices, strict=True)
            ],
        )
        return final_table(read_run(tmp_path))[0].scores[0].direction

    assert [run(1), run(12)] == ["same", "up"]


def test_questions_alone_give_the_same_table(run_dir: Path) -> None:
    logged = final_table(read_run(run_dir))
    (run_dir / "metrics.jsonl").unlink()
    counted = final_table(read_run(run_dir))
    assert [row.source for row in counted] == [row.source for row in logged]
    for one, other in zip(counted, logged, strict=True):
        for ours, verls in zip(one.scores, other.scores, strict=True):
            assert (ours.before, ours.after) == pytest.approx((verls.before, verls.after))
    page = page_of(run_dir)
    assert "metrics.jsonl is missing: no training curves" in page.text
    assert len(page.having("img")) == 3
