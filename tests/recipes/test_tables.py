import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from recipe import RECIPES, choices
from rich.console import Console
from tables import (
    PAPER,
    TABLES,
    Job,
    cells_of,
    gains,
    jobs,
    mean_of,
    overall,
    plan,
    print_results,
    read_results,
    run,
    show,
)

from divek_verl.errors import SetupError
from divek_verl.estimate import ASSUMED, Assumptions
from divek_verl.evaluation.records import EvaluationRecord
from divek_verl.files import write_lines
from divek_verl.measures import MEASURES


def planned(
    table: str,
    tmp_path: Path,
    *settings: str,
    assumed: Assumptions = ASSUMED,
    tasks: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
) -> list[Job]:
    where = (f"recipe.data_dir={tmp_path}", f"recipe.ckpt_dir={tmp_path}/ckpt", f"recipe.model_path={tmp_path}/m")
    cells = cells_of(table, [*where, *settings], tasks, methods)
    return [job for cell in cells for job in jobs(cell, tmp_path / "results", assumed)]


def test_the_tables_name_tasks_and_methods_that_exist() -> None:
    for tasks, methods in TABLES.values():
        assert set(tasks) <= set(choices("task"))
        assert set(methods) - {"base"} <= set(choices("method"))
    assert set(PAPER) <= set(TABLES)


def test_a_table_evaluates_the_model_as_it_comes_and_trains_each_method(tmp_path: Path) -> None:
    names = [job.name for job in planned("table2", tmp_path)]
    assert names == [
        "eval qwen25vl_7b_mixed_base",
        "train qwen25vl_7b_mixed_virft",
        "eval qwen25vl_7b_mixed_virft",
        "train qwen25vl_7b_mixed_virft_list",
        "eval qwen25vl_7b_mixed_virft_list",
        "mine mixed",
        "train qwen25vl_7b_mixed_paper",
        "eval qwen25vl_7b_mixed_paper",
        "train qwen25vl_7b_mixed_online",
        "eval qwen25vl_7b_mixed_online",
    ]


def test_an_evaluation_shows_as_many_options_as_the_training_did(tmp_path: Path) -> None:
    ablations = planned("ablations", tmp_path, tasks=("cub",))
    shown = {job.name.rpartition("_")[2]: job.command for job in ablations if "eval" in job.name}
    assert {name: command[command.index("--options") + 1] for name, command in shown.items()} == {
        **{"online": "5", "random": "5", "text": "5", "two": "2", "auto": "auto"},
    }


def test_the_cost_is_the_arithmetic_of_what_is_assumed(tmp_path: Path) -> None:
    """400 steps on 8 GPUs of nothing but 10 s of overhead."""
    free = Assumptions(answer_tokens=1e-9, prompt_tokens=1e-9, sequence_rate=1e9, overhead=10.0)
    trained = planned("table2", tmp_path, assumed=free, methods=("online",))[0]
    assert trained.gpu_hours == pytest.approx(400 * 10 * 8 / 3600, rel=1e-3)
    # Evaluation: 9010 images x 21 answers of 250 tokens, at 2500 tokens a second for 7B.
    assert planned("table2", tmp_path, methods=("base",))[0].gpu_hours == pytest.approx(
        9010 * 21 * 250 / (2500 * 7 / 8.3) / 3600
    )


def test_live_questions_cost_more_than_votes_mined_once(tmp_path: Path) -> None:
    hours = {job.name.rpartition("_")[2]: job.gpu_hours for job in planned("table2", tmp_path) if "train" in job.name}
    assert hours["online"] > hours["paper"] + 10
    # The paper's validation at the end asks each image 21 times, ViRFT's once.
    assert 0 < hours["paper"] - hours["virft"] < 7


def test_what_is_done_is_skipped_and_a_failure_stops_with_its_name(tmp_path: Path) -> None:
    done, marker = tmp_path / "done", tmp_path / "ran"
    done.write_text("600\n")
    finished = Job("finished", ("false",), 1.0, done, "600")
    halfway = Job("halfway", ("false",), 1.0, done, "601")
    assert finished.is_done and not halfway.is_done
    run([finished, Job("touches", ("touch", str(marker)), 1.0, marker)], Console(quiet=True))
    assert marker.exists()
    with pytest.raises(SetupError, match="halfway ended with status 1"):
        run([halfway], Console(quiet=True))


def test_the_plan_prints_its_assumptions_and_commands_that_can_be_pasted(tmp_path: Path) -> None:
    console = Console(record=True, width=80)
    command = ("bash", "x.sh", "--data", "a folder/" + 90 * "x")
    show([Job("train x", command, 12.0, tmp_path / "none")], Assumptions(overhead=7.0), console)
    text = console.export_text()
    assert shlex.join(command) in text.splitlines()
    assert "12 GPU-hours to go of 12" in text and "not measured" in text and "overhead=7" in text


def test_divek_and_the_scripts_run_with_the_plans_own_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    run([Job("shows its version", ("divek", "--version"), 1.0, tmp_path / "none")], Console(quiet=True))
    script = tmp_path / "run.sh"
    script.write_text(f'[[ "$PYTHON" == {shlex.quote(sys.executable)} ]]')
    run([Job("is told", ("bash", str(script)), 1.0, tmp_path / "none")], Console(quiet=True))


def test_the_environment_of_the_scripts_is_the_plans_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(tmp_path / "a model"))
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CKPT_DIR", str(tmp_path / "ckpt"))
    monkeypatch.setenv("N_GPUS_PER_NODE", "4")
    plan("table2", method=["base", "paper"])
    shown = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in shown if line.startswith("divek eval")]
    assert [command[command.index("--model") + 1] for command in commands] == [
        str(tmp_path / "a model"),
        str(tmp_path / "ckpt" / "qwen25vl_7b_mixed_paper"),
    ]
    assert {command[command.index("--data-parallel") + 1] for command in commands} == {"4"}
    assert all(str(tmp_path / "data") in part for command in commands for part in command if ".parquet" in part)


def test_a_table_says_first_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer import Exit

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tables.run", lambda *_: pytest.fail("started"))
    with pytest.raises(Exit):
        plan("table3", start=True, method=["base", "paper"])
    told = capsys.readouterr().err
    assert told.count("hf download") == 1 and told.count("divek prepare") == 5
    # The plan itself mines the votes.
    assert "divek mine" not in told


def test_a_plan_for_nothing_is_refused_with_one_sentence() -> None:
    command = [sys.executable, str(RECIPES / "tables.py"), "plan", "table9"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: 'table9' is no table: use one of table1, table2, table3, ablations.\n"
    with pytest.raises(SetupError, match="table2 has no cub: use some of mixed"):
        plan("table2", task=["cub"])
    with pytest.raises(SetupError, match="table2 has no two: use some of base, virft, virft_list, paper, online"):
        plan("table2", method=["two"])


def test_a_model_and_a_variant_are_overrides_with_results_of_their_own(tmp_path: Path) -> None:
    chosen = {"tasks": ("cub_4shot",), "methods": ("base", "online")}
    base, train, evaluate = planned("table3", tmp_path, "vlm=qwen25vl_3b", "variant=lora", **chosen)
    script, *overrides = train.command[1:]
    assert Path(script).name == "run_qwen25vl_7b_cub.sh" and Path(script).is_file()
    assert {"task=cub_4shot", "method=online", "vlm=qwen25vl_3b", "variant=lora"} <= set(overrides)
    assert base.done == tmp_path / "results" / "qwen25vl_3b_cub_4shot_base" / "results.json"
    assert evaluate.done == tmp_path / "results" / "qwen25vl_3b_cub_4shot_lora_online" / "results.json"


# ------------------------------------------------------------------------------------------------ results


def write_results(folder: Path, name: str, groups: list[tuple[str, float, float]]) -> None:
    averages = []
    for side, one, two in groups:
        values = {**dict.fromkeys(MEASURES, one), "one_step": one - 0.05, "two_step": two}
        dataset = name.split("_")[2]
        averages.append(
            {"dataset": dataset, "side": side, "averages": {m: {"micro": {"value": v}} for m, v in values.items()}}
        )
    (folder / name).mkdir(parents=True)
    (folder / name / "results.json").write_text(json.dumps({"groups": averages}))


def test_every_method_is_shown_with_every_measure(tmp_path: Path) -> None:
    folder = tmp_path / "table1"
    write_results(folder, "qwen25vl_7b_cub_base", [("base", 0.5, 0.6), ("new", 0.5, 0.6)])
    write_results(folder, "qwen25vl_7b_cub_paper", [("base", 0.4, 0.8), ("new", 0.4, 0.6)])
    write_results(folder, "qwen25vl_7b_pets_paper", [("base", 0.4, 0.6), ("new", 0.4, 0.4)])
    # Another model and a variant have rows of their own, without the paper's numbers.
    write_results(folder, "qwen25vl_3b_cub_4shot_paper", [("base", 0.1, 0.4), ("new", 0.1, 0.2)])
    write_results(folder, "qwen25vl_7b_cub_lora_virft_list", [("base", 0.1, 0.3), ("new", 0.1, 0.2)])
    write_results(folder, "qwen25vl_7b_cub_lora_paper", [("base", 0.1, 0.3), ("new", 0.1, 0.2)])
    scores = read_results([folder])
    paper = scores["qwen25vl_7b", "paper", "two_step"]
    assert mean_of(paper, "base") == pytest.approx(70.0)
    assert overall(paper) == pytest.approx(2 * 70 * 50 / 120)
    assert mean_of(scores["qwen25vl_3b", "paper", "two_step"], "base") == pytest.approx(40)
    for method in ("paper", "virft_list"):
        assert mean_of(scores["qwen25vl_7b_lora", method, "two_step"], "base") == pytest.approx(30)
    console = Console(record=True, width=180)
    print_results([folder], console)
    text = console.export_text()
    # The paper's numbers stand beside the measure that they are of.
    (two_step,) = (line for line in text.splitlines() if "80.8 / 78.8 / 79.8" in line)
    (greedy,) = (line for line in text.splitlines() if "68.9 / 70.5 / 69.7" in line)
    assert "two-step" in two_step and "greedy" in greedy
    assert len([line for line in text.splitlines() if "qwen25vl_7b " in line]) == 2 * len(MEASURES)


def record_images(folder: Path, name: str, right: dict[tuple[str, str], float]) -> None:
    """120 images of 7 classes for every (data set, side), of which a share is right in both steps."""
    records = [
        EvaluationRecord(
            0, "val", f"divek/{dataset}/{side}", f"{n:03d}", "", f"class {n % 7}", two_step=float(n < share * 120)
        )
        for (dataset, side), share in right.items()
        for n in range(120)
    ]
    write_lines(folder / name / "questions.jsonl", [each.to_json() for each in records])


def test_the_gains_over_several_sets_have_paired_intervals_and_one_correction(tmp_path: Path) -> None:
    folder = tmp_path / "table1"
    shares = {"base": 0.5, "virft": 0.55, "paper": 0.8}
    for method, share in shares.items():
        for dataset in ("cub", "pets"):
            name = f"qwen25vl_7b_{dataset}_{method}"
            write_results(folder, name, [(side, share, share) for side in ("base", "new")])
            record_images(folder, name, {(dataset, side): share for side in ("base", "new")})
    write_results(folder, "qwen25vl_7b_cars_paper", [("base", 1.0, 1.0)])  # results alone, without a baseline
    found = gains([folder], "base")
    assert set(found) == {("qwen25vl_7b", "virft"), ("qwen25vl_7b", "paper")}
    rows = {each.data_source: each for each in found["qwen25vl_7b", "paper"] if each.measure == "two_step"}
    assert list(rows) == ["2 data sets, base", "2 data sets, new", "2 data sets, harmonic mean"]
    mean = rows["2 data sets, harmonic mean"]
    assert mean.difference == pytest.approx(0.3) and mean.low > 0 and mean.images == 480
    p_values = [(each.p_value, each.p_holm) for arm in found.values() for each in arm]
    assert min(holm for _, holm in p_values) == pytest.approx(min(1, len(p_values) * min(p for p, _ in p_values)))
    assert set(gains([folder], "virft")) == {("qwen25vl_7b", "base"), ("qwen25vl_7b", "paper")}
    console = Console(record=True, width=220)
    print_results([folder], console, "virft")
    text = console.export_text()
    assert "qwen25vl_7b: paper over virft" in text and "+25.0" in text


def test_seeds_are_one_comparison_whose_interval_holds_the_variance_of_training(tmp_path: Path) -> None:
    seeds = [tmp_path / f"seed{number}" / "table1" for number in range(2)]
    shares = {"base": (0.5, 0.5), "paper": (0.6, 0.8)}
    for method, of_seeds in shares.items():
        for folder, share in zip(seeds, of_seeds, strict=True):
            name = f"qwen25vl_7b_cub_{method}"
            write_results(folder, name, [(side, share, share) for side in ("base", "new")])
            record_images(folder, name, {("cub", side): share for side in ("base", "new")})
    (both,), (one,) = (
        [each for each in gains(folders, "base")["qwen25vl_7b", "paper"] if each.measure == "two_step"]
        for folders in (seeds, seeds[:1])
    )
    assert both.difference == pytest.approx(0.2) and both.after_spread == pytest.approx(0.2 / 2**0.5)
    # Student's t with one degree of freedom: 12.7 standard errors of 0.1.
    assert both.high - both.low > 5 * (one.high - one.low)
    console = Console(record=True, width=220)
    print_results(seeds, console)
    text = console.export_text()
    assert "2 seed(s)" in text and re.search(r"paper +│ two-step accuracy +│ 1 +│ 70.0", text)


def test_four_shot_sets_have_one_row_over_all_classes(tmp_path: Path) -> None:
    for method, share in (("base", 0.5), ("online", 0.7)):
        for dataset in ("cub", "pets"):
            name = f"qwen25vl_7b_{dataset}_4shot_{method}"
            write_results(tmp_path, name, [("all", share, share)])
            record_images(tmp_path, name, {(dataset, "all"): share})
    rows = [each for each in gains([tmp_path], "base")["qwen25vl_7b", "online"] if each.measure == "two_step"]
    assert [(each.data_source, round(each.difference, 3)) for each in rows] == [("2 data sets, all", 0.2)]


def test_the_papers_harmonic_means_are_those_of_its_averages() -> None:
    for base, new, mean in PAPER["table1"].values():
        assert base and new and 2 * base * new / (base + new) == pytest.approx(mean, abs=0.05)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds no results.json"):
        read_results([tmp_path])
    write_results(tmp_path, "qwen25vl_7b_cub_paper", [])
    (tmp_path / "qwen25vl_7b_cub_paper" / "results.json").write_text("{}")
    with pytest.raises(SetupError, match="is no results file of this `divek eval`, both steps"):
        read_results([tmp_path])
