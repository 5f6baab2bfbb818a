"""The final table."""

from pathlib import Path

import pytest

from divek_verl.measures import MEASURES
from divek_verl.report.reading import read_run
from divek_verl.report.validation import final_table

from .fabricated import SIDES, read_logged, write_logged
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


def test_one_validation_has_no_after(run_dir: Path) -> None:
    write_logged(run_dir, read_logged(run_dir)[:5])
    row = final_table(read_run(run_dir))[0]
    assert row.last is None and all(score.after is None and score.change is None for score in row.scores)
    assert "step 0 only" in page_of(run_dir).text


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
