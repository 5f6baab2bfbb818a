"""Which classes are taken for which."""

from pathlib import Path

from divek_verl.report.confusions import confusions
from divek_verl.report.pairs import image_pairs
from divek_verl.report.reading import read_run

from .fabricated import SAMPLES, read_lines


def test_confusions_are_shares_of_all_samples_on_pictures_of_the_class(run_dir: Path) -> None:
    run = read_run(run_dir)
    shown = {(c.truth, c.answer): c for c in confusions(image_pairs(run))}
    lines = read_lines(run_dir / "questions.jsonl")
    chad = [line for line in lines if (line["split"], line["step"], line["truth"]) == ("val", 30, "Chad")]
    taken_for_romania = sum(line["votes"].get("Romania", 0) for line in chad)
    assert shown["Chad", "Romania"].after == taken_for_romania / (len(chad) * SAMPLES)
    assert all(truth != answer for truth, answer in shown)
