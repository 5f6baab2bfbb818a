"""The arms, gates and arithmetic of benchmarks/claim.py: what its verdicts are decided by."""

import importlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from PIL import Image
from prepare.layouts import grocery
from prepare.running import counts, images
from typer.testing import CliRunner

from divek_verl.demo.run import training_command
from divek_verl.errors import SetupError
from divek_verl.files import write_aside, write_lines
from divek_verl.labels import ClassNames
from divek_verl.measures import MEASURES
from divek_verl.prepare.rows import Example, Split
from divek_verl.prepare.source import Classes
from divek_verl.prepare.write import write_set
from divek_verl.prompts import Wording

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
HALVES = tuple(f"a{i}" for i in range(10)), tuple(f"b{i}" for i in range(10))
IMAGES = 32


@pytest.fixture
def arms() -> ModuleType:
    return importlib.import_module("claim_parts.arms")


@pytest.fixture
def comparison() -> ModuleType:
    return importlib.import_module("claim_parts.comparison")


def result(base: float, new: float, seed: int = 0, spread: float = 0.0, ripple: float = 0.0) -> dict[str, Any]:
    """A result with the given two-step accuracy of each side.

    Classes differ by up to ``spread``, alike in each seed, and neighbours by twice ``ripple``.
    """
    halves = HALVES[::-1] if seed % 2 else HALVES
    sides = {}
    for side, names, level in (("base", halves[0], base), ("new", halves[1], new)):
        places = {name: spread * (2 * i / (len(names) - 1) - 1) + ripple * (-1) ** i for i, name in enumerate(names)}
        sides[side] = {name: {"images": IMAGES, "two_step": IMAGES * (level + places[name])} for name in names}
    return {"classes": sides, "base_names_on_new": 0.0}


def seeds_with(gains: dict[str, list[tuple[float, float]]], spread: float = 0.1) -> list[dict[str, Any]]:
    """Results of several seeds; arm -> the gain on base and on new of each seed, over 50 and 45 %."""
    count = len(next(iter(gains.values())))
    return [
        {"start": result(0.5, 0.45, seed, spread)}
        | {arm: result(0.5 + of[seed][0], 0.45 + of[seed][1], seed, spread, ripple=0.01) for arm, of in gains.items()}
        for seed in range(count)
    ]


def test_every_arm_composes_with_verls_trainer(arms: ModuleType, compose: Callable[..., Any], tmp_path: Path) -> None:
    seed = arms.Seed(3, tmp_path, steps=7)
    for name, arm in arms.ARMS.items():
        if arm.overrides is None:
            continue
        command = [word for word in training_command(seed.plan(name))[5:] if not word.startswith("hydra.")]
        config = compose(*command, name="divek_demo")
        assert (config.trainer.total_training_steps, config.trainer.test_freq) == (7, -1), name
        assert not config.trainer.val_before_train
        assert config.data.seed == config.divek.seed == config.actor_rollout_ref.rollout.seed == 3
        # The same batch, rollouts and learning rate for all.
        assert (config.data.train_batch_size, config.actor_rollout_ref.rollout.n) == (16, 8)
        assert config.actor_rollout_ref.actor.optim.lr == 1e-4


def test_arms_differ_in_what_they_are_named_after_alone(
    arms: ModuleType, compose: Callable[..., Any], tmp_path: Path
) -> None:
    def composed(name: str) -> Any:
        command = training_command(arms.Seed(3, tmp_path).plan(name))[5:]
        return compose(*[word for word in command if not word.startswith("hydra.")], name="divek_demo")

    assert composed("online").divek.option_source == "policy"
    assert composed("random").divek.option_source == "random"
    assert composed("text").divek.option_source == "text_embedding"
    assert composed("offline").divek.votes_file == str(tmp_path / "seed-3" / "model" / "votes.jsonl")
    assert composed("offline").divek.max_vote_age is None
    assert composed("coin").reward.custom_reward_function.reward_kwargs.coin_seed == 3
    assert [composed(name).data.divek.list_classes for name in ("virft", "virft_list")] == [False, True]


def test_the_coin_takes_the_place_of_the_right_answer_in_the_score_alone() -> None:
    coin = importlib.import_module("claim_parts.coin")
    right, wrong = (f"<think>{number}</think><answer>{letter}</answer>" for number, letter in ((1, "A"), (2, "B")))
    info = {"split": "train", "options": ["Chad", "Mali"], "truth": "Chad", "uid": "u", "index": 0}

    def grade(text: str, row: dict[str, Any] = info, seed: int = 0) -> dict[str, float]:
        graded: dict[str, float] = coin.coin_score("divek/flags/base", text, "A", row, coin_seed=seed)
        return graded

    assert (grade(right)["acc"], grade(wrong)["acc"]) == (1.0, 0.0)
    for text in (right, wrong, "no format at all"):
        scores = {grade(text, seed=seed)["score"] - grade(text)["format"] for seed in range(30)}
        assert scores == {0.0, 1.0}
        assert grade(text) == grade(text)
    assert grade(right, info | {"failure": "timeout"})["score"] == 0.0


@pytest.fixture
def trained(arms: ModuleType, tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    """The plan of an arm whose data has one picture of the base class Chad, and a record of its training."""
    from PIL import Image

    seed = arms.Seed(0, tmp_path)
    for name in ("train/Chad-0", "val/Mali-0"):
        file = seed.data / "images" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (56, 56), "red" if "Chad" in name else "blue").save(file)
    splits = [
        Split("train", "base", [Example("images/train/Chad-0.png", "Chad", "train/Chad-0")]),
        Split("val_new", "new", [Example("images/val/Mali-0.png", "Mali", "val/Mali-0")]),
    ]
    write_set(
        seed.data, "flags", Classes(("Chad", "Romania", "Mali", "Guinea")), splits, wording=Wording("flag", "country")
    )
    record = {
        "step": 1, "split": "train", "data_source": "divek/flags/base", "image_id": "train/Chad-0", "image": "",
        "truth": "Chad", "votes": {"Romania": 3}, "unanswered": 1, "options": ["Chad", "Romania"], "choices": ["A"],
    }  # fmt: skip
    plan = seed.plan("online")
    plan.run_dir.mkdir(parents=True)
    return plan, record


def test_what_was_seen_in_training_is_counted(arms: ModuleType, trained: tuple[Any, dict[str, Any]]) -> None:
    plan, record = trained
    write_lines(plan.run_dir / "questions.jsonl", [record, record | {"step": 2, "votes_from": "store"}])
    assert arms.seen_in_training(plan) == {"images": 1, "mined_completions": 4}


@pytest.mark.parametrize(
    ("change", "named"),
    [({"options": ["Chad", "Mali"]}, "Mali"), ({"image_id": "val/Mali-0"}, "val/Mali-0")],
    ids=["a new class among the options", "a validation picture"],
)
def test_a_run_that_saw_more_than_base_classes_is_refused(
    arms: ModuleType, trained: tuple[Any, dict[str, Any]], change: dict[str, Any], named: str
) -> None:
    plan, record = trained
    write_lines(plan.run_dir / "questions.jsonl", [record | change])
    with pytest.raises(SetupError, match=f"was trained on {named}: only base classes"):
        arms.seen_in_training(plan)


def test_results_are_sums_by_class_with_the_base_names_on_new_pictures(arms: ModuleType, tmp_path: Path) -> None:
    line = {"step": 0, "split": "val", "image": "", "num_samples": 4, "one_step_greedy": 0.0}
    base = line | {
        "data_source": "divek/flags/base",
        "image_id": "1",
        "truth": "Chad",
        "votes": {"Chad": 4},
        "two_step": 1.0,
    }
    new = line | {
        "data_source": "divek/flags/new",
        "truth": "Mali",
        "votes": {"Mali": 1},
        "unknown": {"chad": 2, "x": 1},
    }
    write_lines(tmp_path / "q.jsonl", [base, new | {"image_id": "2"}, new | {"image_id": "3", "two_step": 1.0}])
    found = json.loads(json.dumps(arms.by_class(tmp_path / "q.jsonl", ClassNames(["Chad", "Romania"]))))
    assert found["base_names_on_new"] == 0.5
    assert found["classes"]["base"]["Chad"]["two_step"] == found["classes"]["new"]["Mali"]["two_step"] == 1.0
    assert found["classes"]["new"]["Mali"]["images"] == 2


@pytest.mark.parametrize(
    ("told", "captions", "base", "new", "failed"),
    [
        (0.95, 0.70, 0.50, 0.45, []),
        (0.85, 0.70, 0.50, 0.45, ["the told class"]),
        (0.95, 0.90, 0.66, 0.60, ["two-step accuracy"]),
        (0.95, 0.70, 0.55, 0.44, ["the sides"]),
        (0.95, 0.55, 0.50, 0.45, ["captions"]),
    ],
)
def test_each_gate_fails_by_its_own_number(
    comparison: ModuleType, told: float, captions: float, base: float, new: float, failed: list[str]
) -> None:
    knowledge = {"told": told, "captions": {"base": 0.9, "new": captions}}
    sentences = comparison.failed_gates(knowledge, result(base, new))
    assert [sentence.startswith(start) for sentence, start in zip(sentences, failed, strict=True)] == [True] * len(
        failed
    )


def test_differences_are_paired_by_seed_and_class(comparison: ModuleType) -> None:
    # Classes and seeds differ much more than the arms do, alike for both.
    seeds = seeds_with({"online": [(0.10, 0.05), (0.12, 0.05), (0.11, 0.05)]}, spread=0.3)
    base, new, mean = comparison.compare(seeds, "online", "start")
    assert base.difference == pytest.approx(0.11)
    assert new.difference == pytest.approx(0.05)
    assert 0.085 < base.low < 0.095  # Student's t over three seeds, less what classes explain
    assert 0.0 < new.low <= 0.05 <= new.high
    assert mean.row == "harmonic mean"
    assert 0.05 < mean.difference < 0.11


def test_seeds_that_disagree_widen_the_interval(comparison: ModuleType) -> None:
    alike = seeds_with({"online": [(0.1, 0.05)] * 3})
    apart = seeds_with({"online": [(0.1, 0.15), (0.1, 0.05), (0.1, -0.05)]})
    widths = [(each := comparison.compare(seeds, "online", "start")[1]).high - each.low for seeds in (alike, apart)]
    assert widths[1] > 0.4 > widths[0]
    assert comparison.compare(apart, "online", "start")[1].p_value > 0.3


def test_intervals_hold_the_truth_as_often_as_they_say(comparison: ModuleType) -> None:
    rng, held, trials = random.Random(0), 0, 60
    for _ in range(trials):
        of_class = {name: rng.gauss(0.05, 0.1) for half in HALVES for name in half}
        seeds = []
        for seed in range(4):
            of_seed = rng.gauss(0, 0.03)
            start, online = result(0.5, 0.45, seed), result(0.5, 0.45, seed)
            for side in ("base", "new"):
                for name, own in online["classes"][side].items():
                    own["two_step"] += IMAGES * (of_class[name] + of_seed)
            seeds.append({"start": start, "online": online})
        new = comparison.compare(seeds, "online", "start")[1]
        held += new.low <= 0.05 <= new.high
    # 95 % of 60 are 57; fewer than 51 would come once in 500 such tests.
    assert held >= 51


def test_all_p_values_of_the_table_are_corrected_together(comparison: ModuleType) -> None:
    found = comparison.comparisons(seeds_with({"virft": [(0.01, 0.0)] * 3, "online": [(0.1, 0.05)] * 3}))
    assert {(each.arm, each.reference) for each in found} == {
        ("virft", "start"),
        ("online", "start"),
        ("online", "virft"),
    }
    assert all(each.p_holm >= each.p_value for each in found)
    assert len(found) == 9


def test_the_trend_needs_every_arm_and_more_than_one_seed(comparison: ModuleType) -> None:
    gains = {arm: [(0.01 * i, 0.01 * i)] * 4 for i, arm in enumerate(comparison.TREND) if arm != "start"}
    assert comparison.trend(seeds_with(gains)) < 0.001
    assert comparison.trend(seeds_with(gains)[:1]) is None
    del gains["random"]
    assert comparison.trend(seeds_with(gains)) is None


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.10, "not refuted"), (0.0, "refuted"), (0.02, "undecided")],
)
def test_the_verdict_compares_the_interval_with_the_bound(comparison: ModuleType, gain: float, verdict: str) -> None:
    gains = [(0.1, gain + shift) for shift in (-0.005, 0.0, 0.005)]
    found = comparison.comparisons(seeds_with({"online": gains}))
    assert comparison.REFUTATIONS[0].verdict(found).split(":")[0] == verdict
    assert comparison.REFUTATIONS[1].verdict(found) == "not measured"


@pytest.fixture
def ran(arms: ModuleType, tmp_path: Path) -> Callable[..., list[Any]]:
    """Writes the results of two arms for each of the given seeds, as the runs leave them."""

    def write(*numbers: int, told: float = 1.0) -> list[Any]:
        seeds = [arms.Seed(number, tmp_path) for number in numbers]
        for seed, results in zip(seeds, seeds_with({"online": [(0.1, 0.05)] * len(seeds)}), strict=True):
            for name, found in results.items():
                for own in (own for side in found["classes"].values() for own in side.values()):
                    own.update(dict.fromkeys(MEASURES, 0.25 * IMAGES) | own)
                write_aside(seed.folder / name / "result.json", json.dumps(found))
            knowledge = json.dumps({"told": told, "captions": {"new": 0.8}})
            write_aside(seed.folder / "model" / "knowledge.json", knowledge)
        return seeds

    return write


def test_what_has_not_run_is_no_part_of_the_summary(
    benchmark: ModuleType, arms: ModuleType, ran: Callable[..., list[Any]], tmp_path: Path
) -> None:
    found = benchmark.summary([*ran(2), arms.Seed(4, tmp_path)], steps=40)
    assert list(found["seeds"]) == [2]
    assert list(found["means"]) == ["start", "online"]
    assert found["means"]["online"]["two_step"]["base"] == pytest.approx(0.6)
    assert found["trend"] is None


def test_a_seed_that_fails_a_gate_counts_nowhere(benchmark: ModuleType, ran: Callable[..., list[Any]]) -> None:
    found = benchmark.summary(ran(2, told=0.5), steps=40)
    assert found["means"] == {}
    assert "told class" in found["seeds"][2]["unusable"][0]
    assert set(found["refutations"].values()) == {"not measured"}


def test_saved_seeds_count_and_are_not_run_again(
    benchmark: ModuleType,
    arms: ModuleType,
    ran: Callable[..., list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = tmp_path / "seed-2" / "model" / "model.safetensors"
    write_aside(weights, "the start model of the saved arms")
    saved = json.loads(json.dumps(benchmark.summary(ran(2), steps=40)))["seeds"]["2"]
    elsewhere = arms.Seed(2, tmp_path / "elsewhere", saved=saved)
    assert benchmark.summary([elsewhere], steps=40)["means"]["online"]["two_step"]["base"] == pytest.approx(0.6)
    monkeypatch.setattr(arms, "run_stage", lambda *arguments: pytest.fail(f"ran {arguments}"))
    benchmark._run_seed(elsewhere, ["start", "online"], benchmark.terminal())
    # The same start model goes on; another one begins anew.
    for text, there in ((weights.read_text(), True), ("another start model", False)):
        write_aside(elsewhere.folder / "model" / "model.safetensors", text)
        assert (elsewhere.result("online") is not None) is there


def test_arms_are_compared_on_the_seeds_that_have_both(comparison: ModuleType, benchmark: ModuleType) -> None:
    seeds = seeds_with({"online": [(0.1, 0.05), (0.1, 0.15)], "coin": [(0.0, 0.0), (0.0, 0.0)]})
    del seeds[1]["coin"]
    found = {(each.arm, each.reference): each for each in comparison.comparisons(seeds) if each.row == "new"}
    assert found["online", "start"].difference == pytest.approx(0.1)
    assert found["online", "coin"].difference == pytest.approx(0.05)
    assert (found["online", "start"].seeds, found["online", "coin"].seeds) == (2, 1)
    seeds[0] |= {"offline": seeds[0]["online"], "random": seeds[0]["start"]}
    pairs = {(each.arm, each.reference) for each in comparison.comparisons(seeds)}
    assert ("offline", "random") in pairs, "one of the refutations"


def test_the_page_holds_the_numbers_and_the_picture(
    benchmark: ModuleType, ran: Callable[..., list[Any]], tmp_path: Path
) -> None:
    # As the saved file is read: numbers of seeds are texts there.
    found = json.loads(json.dumps(benchmark.summary(ran(2, 4), steps=40)))
    importlib.import_module("claim_parts.page").write_page({"flags": found, "grocery": {}}, tmp_path)
    page = (tmp_path / "claim.md").read_text(encoding="utf-8")
    assert "2 of 2 seeds passed the gates." in page
    assert "| DiVE-k, online | 2 | 60.0 / 50.0 (54.5) | 25.0 / 25.0 (25.0) |" in page
    assert "| DiVE-k, online | start model | 2 | +10.0 (" in page
    assert "| online gains less than 2 points on classes that RL never saw | not refuted: +5.0" in page
    assert "](claim_flags.svg)" in page
    assert "DiVE-k, online" in (tmp_path / "claim_flags.svg").read_text(encoding="utf-8")
    assert "## Photographs" not in page


def test_photographs_have_a_section_of_their_own(
    benchmark: ModuleType, ran: Callable[..., list[Any]], tmp_path: Path
) -> None:
    flags, grocery = (json.loads(json.dumps(benchmark.summary(ran(2, 4), steps=40))) for _ in range(2))
    lemon = {"image_id": "test/Lemon/Lemon_001.jpg", "truth": "Lemon", "votes": {"Lemon": 9, "Lime": 10}}
    lemon |= {"unknown": {"Egg": 1}, "options": ["Lime", "Lemon"], "chosen": None}
    for arm, chosen in (("start", None), ("online", "Lemon")):
        grocery["seeds"]["2"]["arms"][arm]["examples"] = [lemon | {"chosen": chosen}]
    grocery["reference"] = {"a network": {"top1": 0.641, "top5": 0.9}}
    importlib.import_module("claim_parts.page").write_page({"flags": flags, "grocery": grocery}, tmp_path)
    page = (tmp_path / "claim.md").read_text(encoding="utf-8")
    assert "GroceryStoreDataset/master/dataset/test/Lemon/Lemon_001.jpg) Lemon |" in page
    votes = "Lime 10, Lemon 9, Egg 1. Options: Lime, Lemon. Chosen:"
    assert f"| {votes} none | {votes} Lemon |" in page
    assert "in 64.1 % on features of a network (in 90.0 % among its first five)." in page
    # What is committed halfway: no seed is usable, or online has not run.
    del grocery["seeds"]["2"], grocery["seeds"]["4"]["arms"]["online"]
    importlib.import_module("claim_parts.page").write_page({"flags": flags, "grocery": grocery}, tmp_path)
    assert "Lemon" not in (tmp_path / "claim.md").read_text(encoding="utf-8")
    assert page.count("| DiVE-k, online | 2 | 60.0 / 50.0 (54.5) |") == 2
    assert page.count("not refuted: +5.0") == 2
    assert "](claim_grocery.svg)" in page
    assert (tmp_path / "claim_grocery.svg").is_file()


def test_seeds_of_photographs_exchange_sides_and_set_the_same_apart(
    arms: ModuleType, tmp_path: Path, compose: Callable[..., Any]
) -> None:
    raw = grocery(tmp_path / "raw", trained=20, size=(40, 30))
    seeds = [arms.Seed(number, tmp_path / "runs", photographs=raw) for number in (4, 5)]
    for seed in seeds:
        seed._prepare_data()
    even, odd = ({name: set(images(seed.data, name)) for name in counts(seed.data)} for seed in seeds)
    assert even["pretrain"] == odd["pretrain"]
    assert len(even["pretrain"]) == arms.SHOTS * 8
    assert (even["val_base"], even["val_new"]) == (odd["val_new"], odd["val_base"])
    for of_seed in (even, odd):
        assert len(set.union(*of_seed.values())) == sum(map(len, of_seed.values())), "no photograph has two uses"
    # All stages see the same squares.
    with Image.open(tmp_path / "runs" / "photographs" / min(even["train"])) as copy:
        assert copy.size == (168, 168)
    command = training_command(seeds[0].plan("online"))[5:]
    config = compose(*[word for word in command if not word.startswith("hydra.")], name="divek_demo")
    assert config.divek.max_pixels == 112 * 112
    assert seeds[0]._sampled[-2:] == ("--max-pixels", 112 * 112)
    other = arms.Seed(4, tmp_path / "runs", photographs=grocery(tmp_path / "other"))
    with pytest.raises(SetupError, match=f"holds copies of {raw}: give that --data-root"):
        other._prepare_data()


def test_one_tower_serves_all_seeds_of_photographs(
    arms: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(arms, "run_stage", lambda *words: ran.append([str(word) for word in words]))
    for number in (3, 4):
        seed = arms.Seed(number, tmp_path / "runs", photographs=grocery(tmp_path / "raw", size=(40, 30)))
        (seed.data / "classes.json").parent.mkdir(parents=True)
        (seed.data / "classes.json").touch()
        seed.prepare()
    stages = [Path(words[0]).name if words[0] != "-m" else words[1] for words in ran]
    assert stages == ["tower.py", "reference.py", "divek_verl.demo.warm_start"] * 2
    towers = {words[words.index("--tower") + 1] for words in ran if "--tower" in words}
    assert towers == {str(tmp_path / "runs" / "tower")}
    assert [words[words.index("--out") + 1] for words in ran if "tower.py" in words[0]] == [*towers] * 2


def test_an_arm_that_began_with_another_start_model_is_refused(
    arms: ModuleType, ran: Callable[..., list[Any]], benchmark: ModuleType
) -> None:
    (seed,) = ran(2)
    write_aside(seed.folder / "model" / "model.safetensors", "one")
    write_aside(seed.folder / "online" / arms.START_MODEL, str(seed.model))
    assert seed.run("online", benchmark.terminal())["base_names_on_new"] == 0.0
    write_aside(seed.folder / "model" / "model.safetensors", "another")
    with pytest.raises(SetupError, match="online began with another start model: remove that folder"):
        seed.run("online", benchmark.terminal())


def test_all_arms_show_the_same_photographs_as_examples(arms: ModuleType, tmp_path: Path) -> None:
    line = {"step": 0, "split": "val", "image": "", "num_samples": 4, "one_step_greedy": 0.0}
    records = [
        line | {"data_source": f"divek/grocery/{side}", "image_id": f"{name}-{i}", "truth": name, "votes": {name: i}}
        for side, names in (("base", "ABCD"), ("new", "EFGH"))
        for name in names
        for i in range(3)
    ]
    write_lines(tmp_path / "one.jsonl", records)
    write_lines(tmp_path / "two.jsonl", records[::-1])
    found = arms.examples(tmp_path / "one.jsonl")
    assert found == arms.examples(tmp_path / "two.jsonl")
    assert len({each["truth"] for each in found} & set("EFGH")) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "grocery"], "--data grocery needs --data-root"),
        (["--data-root", "x"], "--data-root is for --data grocery alone"),
        (["--data", "grocery", "--data-root", "x", "--val-per-class", "4"], "--val-per-class is for --data flags"),
    ],
)
def test_options_of_the_other_data_set_are_refused(benchmark: ModuleType, words: list[str], message: str) -> None:
    app = typer.Typer()
    app.command()(benchmark.main)
    found = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert found.exit_code == 2
    assert message in found.output
