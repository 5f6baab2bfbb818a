import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divek_verl.errors import SetupError
from divek_verl.labels import ClassNames
from divek_verl.option_sources import (
    OPTION_SOURCES,
    OptionSource,
    build_option_source,
    nearest_names,
    option_source_class,
)
from divek_verl.question import Question, build_question
from divek_verl.votes import Votes

NAMES = ("Black Tern", "Sooty Tern", "Arctic Tern", "Herring Gull", "Heermann Gull", "Puffin", "Wren")
CLASSES = ClassNames(NAMES)
HELD_OUT = ("Elegant Tern", "Ivory Gull", "House Wren")
NO_VOTES = Votes({}, unanswered=20)

SOURCES = {
    "policy": build_option_source("policy"),
    "random": build_option_source("random"),
    "text_embedding": build_option_source("text_embedding"),
    "mixed with random": build_option_source("mixed"),
    "mixed with text_embedding": build_option_source("mixed", mixed_with="text_embedding"),
}
EVERY_SOURCE = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
# A spelling of a class, a held-out class, and both sides of a list that holds what the votes hold.
ANY_NAME = st.sampled_from([*NAMES, *HELD_OUT, "puffin.", "WREN"])
ANY_VOTES = st.builds(
    Votes, st.dictionaries(ANY_NAME, st.integers(1, 9)), st.dictionaries(ANY_NAME, st.integers(1, 9)), st.integers(0, 9)
)


def _rank(source: OptionSource, votes: Votes = NO_VOTES, **arguments: object) -> list[str]:
    return source.rank(votes, CLASSES, **{"truth": None, "num_options": 5, "seed": 0, **arguments})  # type: ignore[arg-type]


@EVERY_SOURCE
@given(ANY_VOTES, st.sampled_from([None, *NAMES, "wren"]), st.integers(2, 26) | st.just("auto"), st.integers())
def test_no_held_out_name_can_appear(
    source: OptionSource, votes: Votes, truth: str | None, num_options: int, seed: int
) -> None:
    limit = 10 if num_options == "auto" else num_options
    ranking = _rank(source, votes, truth=truth, num_options=limit, seed=seed)
    assert set(ranking) <= set(NAMES)
    assert len(set(ranking)) == len(ranking) <= limit
    question = build_question(
        votes, CLASSES, truth=truth, num_options=num_options, skip_easy=False, seed=seed, ranking=ranking
    )
    assert isinstance(question, Question)
    assert set(question.options) <= set(NAMES)


@EVERY_SOURCE
def test_equal_seeds_rank_alike(source: OptionSource) -> None:
    votes = Votes({"Wren": 3, "Puffin": 2})
    assert _rank(source, votes, truth="Wren", seed="x") == _rank(source, votes, truth="Wren", seed="x")


@pytest.mark.parametrize("name", ["random", "text_embedding", "mixed with random", "mixed with text_embedding"])
@pytest.mark.parametrize("votes", [NO_VOTES, Votes({"Wren": 3}), Votes({"Puffin": 3, "Wren": 1})])
@pytest.mark.parametrize("num_options", [2, 5, 7])
def test_a_question_has_all_its_options_with_the_truth_among_them(name: str, votes: Votes, num_options: int) -> None:
    ranking = _rank(SOURCES[name], votes, truth="Puffin", num_options=num_options)
    question = build_question(votes, CLASSES, truth="Puffin", num_options=num_options, seed=0, ranking=ranking)
    assert isinstance(question, Question)
    assert len(question.options) == num_options
    assert "Puffin" in question.options


# ---------------------------------------------------------------- policy


@given(ANY_VOTES, st.sampled_from([None, *NAMES]), st.integers(2, 26) | st.just("auto"), st.integers())
def test_the_policy_asks_what_is_asked_without_a_source(
    votes: Votes, truth: str | None, num_options: int, seed: int
) -> None:
    limit = 10 if num_options == "auto" else num_options
    ranking = _rank(SOURCES["policy"], votes, truth=truth, num_options=limit)
    arguments = {"truth": truth, "num_options": num_options, "seed": seed}
    assert build_question(votes, CLASSES, ranking=ranking, **arguments) == build_question(votes, CLASSES, **arguments)


# ---------------------------------------------------------------- random


def test_random_options_differ_from_seed_to_seed_and_reach_every_other_class() -> None:
    drawn = [_rank(SOURCES["random"], truth="wren", num_options=3, seed=seed) for seed in range(100)]
    assert {name for names in drawn for name in names} == set(NAMES) - {"Wren"}
    assert len({tuple(names) for names in drawn}) > 50


def test_random_options_do_not_look_at_the_votes() -> None:
    assert _rank(SOURCES["random"], Votes({"Wren": 9})) == _rank(SOURCES["random"])


# ---------------------------------------------------------------- text_embedding


def test_the_nearest_names_share_most_letters() -> None:
    nearest = _rank(SOURCES["text_embedding"], truth="sooty tern", num_options=3)
    assert set(nearest[:2]) == {"Black Tern", "Arctic Tern"}
    assert _rank(SOURCES["text_embedding"], truth="Herring Gull", num_options=2)[0] == "Heermann Gull"


def test_equally_near_names_keep_the_order_of_the_list() -> None:
    assert nearest_names(("aa", "zz", "xx", "yy"), "xx") == ("aa", "zz", "yy")


def test_one_letter_and_other_scripts_have_neighbours() -> None:
    assert nearest_names(("C", "C1", "鴎", "白鴎"), "鴎")[0] == "白鴎"
    assert nearest_names(("C", "C1", "鴎", "白鴎"), "C")[0] == "C1"


def test_without_a_truth_the_most_voted_class_leads_its_neighbours() -> None:
    votes = Votes({"Elegant Tern": 9, "Herring Gull": 5, "Wren": 4})
    ranking = _rank(SOURCES["text_embedding"], votes, num_options=3)
    assert ranking[:2] == ["Herring Gull", "Heermann Gull"]


def test_without_truth_and_votes_any_classes_are_drawn() -> None:
    drawn = {name for seed in range(50) for name in _rank(SOURCES["text_embedding"], seed=seed, num_options=2)}
    assert drawn == set(NAMES)


def test_a_truth_outside_the_list_is_refused() -> None:
    with pytest.raises(SetupError, match="Ivory Gull"):
        _rank(SOURCES["text_embedding"], truth="Ivory Gull")


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BERT of a few thousand parameters with a tokenizer that knows words of NAMES."""
    from transformers import BertConfig, BertModel, BertTokenizerFast, set_seed

    folder = tmp_path_factory.mktemp("encoder")
    words = sorted({word.lower() for name in NAMES for word in name.split()})
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]), encoding="utf-8")
    set_seed(0)
    config = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    return str(folder)


def test_an_encoder_ranks_by_its_own_cosines(text_encoder: str) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(text_encoder).eval(), AutoTokenizer.from_pretrained(text_encoder)
    with torch.no_grad():
        means = [model(**tokenizer(name, return_tensors="pt")).last_hidden_state.mean(dim=1)[0] for name in NAMES]
    own = means[NAMES.index("Wren")]
    near = {name: float(torch.cosine_similarity(own, mean, dim=0)) for name, mean in zip(NAMES, means, strict=True)}
    expected = sorted(set(NAMES) - {"Wren"}, key=lambda name: -near[name])
    source = build_option_source("text_embedding", text_encoder=text_encoder)
    assert _rank(source, truth="Wren", num_options=6) == expected
    assert expected != _rank(SOURCES["text_embedding"], truth="Wren", num_options=6)


def test_an_encoder_runs_once_for_a_class_list(tmp_path: Path, text_encoder: str) -> None:
    """With the files gone, what was computed is still there; another list asks for them."""
    folder = tmp_path / "encoder"
    folder.symlink_to(text_encoder)
    source = build_option_source("text_embedding", text_encoder=str(folder))
    before = _rank(source, truth="Wren")
    folder.unlink()
    assert _rank(source, truth="Wren") == before
    assert set(_rank(source, truth="Puffin")) <= set(NAMES)
    with pytest.raises(SetupError, match="cannot be used"):
        source.rank(NO_VOTES, ClassNames(["Wren", "Puffin"]), truth="Wren", num_options=2, seed=0)


def test_an_encoder_can_top_mixed_options_up(text_encoder: str) -> None:
    source = build_option_source("mixed", mixed_with="text_embedding", text_encoder=text_encoder)
    alone = build_option_source("text_embedding", text_encoder=text_encoder)
    ranking = _rank(source, Votes({"Puffin": 3}), truth="Wren", num_options=3)
    nearest = [name for name in _rank(alone, truth="Wren") if name != "Puffin"]
    assert ranking == ["Puffin", *nearest[:2]]


def test_an_encoder_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="nowhere is no folder with a config.json") as refusal:
        build_option_source("text_embedding", text_encoder=str(tmp_path / "nowhere"))
    assert len(str(refusal.value).splitlines()) == 1


def test_a_folder_without_weights_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    source = build_option_source("text_embedding", text_encoder=str(tmp_path))
    with pytest.raises(SetupError, match="cannot be used") as refusal:
        _rank(source, truth="Wren")
    assert len(str(refusal.value).splitlines()) == 1


def test_pickled_weights_are_refused(tmp_path: Path, text_encoder: str) -> None:
    import shutil

    import torch
    from transformers import AutoModel

    folder = tmp_path / "pickled"
    shutil.copytree(text_encoder, folder)
    torch.save(AutoModel.from_pretrained(text_encoder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(SetupError, match="safetensors"):
        _rank(build_option_source("text_embedding", text_encoder=str(folder)), truth="Wren")


# ---------------------------------------------------------------- mixed


@pytest.mark.parametrize("name", ["mixed with random", "mixed with text_embedding"])
def test_mixed_options_are_the_voted_ones_first(name: str) -> None:
    ranking = _rank(SOURCES[name], Votes({"Wren": 5, "Elegant Tern": 4, "Puffin": 3}), truth="Black Tern")
    assert ranking[:2] == ["Wren", "Puffin"]
    assert len(ranking) == 5
    assert "Black Tern" not in ranking


def test_enough_votes_need_no_top_up() -> None:
    votes = Votes({name: 9 - place for place, name in enumerate(NAMES)})
    assert _rank(SOURCES["mixed with random"], votes, num_options=3) == list(NAMES[:3])


def test_a_missing_truth_replaces_a_topped_up_option_not_a_voted_one() -> None:
    votes = Votes({"Wren": 5, "Puffin": 3})
    ranking = _rank(SOURCES["mixed with random"], votes, truth="Black Tern", num_options=3)
    question = build_question(votes, CLASSES, truth="Black Tern", num_options=3, seed=0, ranking=ranking)
    assert isinstance(question, Question)
    assert set(question.options) == {"Wren", "Puffin", "Black Tern"}
    assert question.truth_injected


# ---------------------------------------------------------------- by name


def test_what_needs_votes_says_so() -> None:
    assert {name: source.uses_votes for name, source in SOURCES.items()} == {
        "policy": True,
        "random": False,
        "text_embedding": False,
        "mixed with random": True,
        "mixed with text_embedding": True,
    }
    assert set(OPTION_SOURCES) == {"policy", "random", "text_embedding", "mixed"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "embedding"}, "'embedding' does not exist: use one of policy, random, text_embedding, mixed"),
        ({"name": "mixed", "mixed_with": "policy"}, "topped up by 'policy': use one of random, text_embedding"),
        ({"name": "policy", "text_encoder": "/x"}, "'policy' would not use it"),
        ({"name": "mixed", "text_encoder": "/x"}, "'mixed' would not use it"),
    ],
)
def test_a_source_that_cannot_be_built_is_refused(arguments: dict[str, str], named: str) -> None:
    with pytest.raises(SetupError, match=named):
        build_option_source(**arguments)


def test_ranking_by_letters_loads_nothing_heavy() -> None:
    script = (
        "import sys; from divek_verl.labels import ClassNames; from divek_verl.votes import Votes;"
        "from divek_verl.option_sources import build_option_source as build;"
        "build('text_embedding').rank(Votes({}), ClassNames(['a', 'b']), truth='a', num_options=2, seed=0);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    root = str(Path(__file__).resolve().parents[1])
    assert subprocess.run([sys.executable, "-c", script], cwd=root).returncode == 0


# ---------------------------------------------------------------- a user's own source


class Reversed:
    """The last classes of the list."""

    uses_votes = False

    def rank(
        self, votes: Votes, classes: ClassNames, *, truth: str | None, num_options: int, seed: int | str
    ) -> list[str]:
        return list(reversed(classes.names))[:num_options]


class NoRank:
    uses_votes = True


class NoUsesVotes:
    rank = Reversed.rank


class NeedsArguments(Reversed):
    def __init__(self, folder: str) -> None:
        self.folder = folder


def test_a_users_own_source_is_named_by_module_and_class() -> None:
    name = f"{__name__}:Reversed"
    assert option_source_class(name).uses_votes is False
    ranking = build_option_source(name).rank(Votes({}), CLASSES, truth=None, num_options=2, seed=0)
    assert ranking == [CLASSES.names[-1], CLASSES.names[-2]]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no_such_module_here:Source", "'no_such_module_here:Source' cannot be imported .*: correct it or PYTHONPATH"),
        (f"{__name__}:Missing", f"module {__name__} has no 'Missing': correct the option source"),
        (f"{__name__}:NoRank", "is not a class with a method rank"),
        (f"{__name__}:NoUsesVotes", "does not say uses_votes = True or False"),
        (f"{__name__}:CLASSES", "not a class"),
        (f"{__name__}:NeedsArguments", "is made without arguments .*'folder'.*: give them defaults"),
    ],
)
def test_what_a_users_source_lacks_is_said(name: str, sentence: str) -> None:
    with pytest.raises(SetupError, match=sentence) as error:
        build_option_source(name)
    assert "\n" not in str(error.value)
