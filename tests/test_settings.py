import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from divek_verl.errors import SetupError
from divek_verl.question import QuestionRules
from divek_verl.settings import Settings, allowed, read_settings

INF, NAN = float("inf"), float("nan")


def test_the_yaml_file_has_the_defaults_of_the_model(compose: Any) -> None:
    config = compose("reward=divek", "trainer.default_local_dir=checkpoints")
    assert read_settings(config.divek) == Settings()
    assert set(config.divek) == set(Settings.model_fields)


def test_the_defaults_are_those_that_users_were_promised() -> None:
    settings = Settings()
    assert (settings.num_samples, settings.num_options) == (20, 5)
    assert (settings.temperature, settings.top_p, settings.repetition_penalty) == (1.0, 0.95, 1.1)
    assert (settings.max_vote_age, settings.skip_easy) == (0, True)
    assert (settings.format_weight, settings.answer_weight) == (1.0, 1.0)
    assert settings.max_pixels == 401408


def test_every_option_is_documented() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not (field.description or "").endswith(".")]


def test_a_slow_image_is_given_up_before_the_run_is() -> None:
    settings = Settings()
    assert settings.stall_timeout > settings.mining_timeout + settings.rollout_timeout


BAD: dict[str, list[Any]] = {
    "num_samples": [0, -1, 2.0, "20", None, True],
    "num_options": [1, 0, 27, 5.0, None, True],
    "min_options": [1, 27, None],
    "auto_share": [0, 1.1, None, NAN],
    "auto_max_options": [1, 27, None],
    "option_source": ["votes", "mine.sources.Nearest", ":Nearest", None, 3],
    "mixed_with": ["policy", "mixed", None],
    "text_encoder": ["", 3],
    "temperature": [0, 0.0, -1.0, None, "hot", INF, NAN],
    "top_p": [0, 1.01, -0.5, None, NAN],
    "top_k": [0, -2, 1.5, None],
    "repetition_penalty": [0, -1, INF],
    "max_new_tokens": [0, -5, 1.5, "8"],
    "group_requests": [1, None],
    "reshuffle": [1, None],
    "list_classes": [1, None],
    "max_vote_age": [-1, 1.5, "never"],
    "votes_file": ["", 3],
    "allow_votes_mismatch": [1, None],
    "allow_custom": [1, None],
    "skip_easy": [1, 0, "yes", None],
    "easy_share": [0, 1.1, None, NAN, True],
    "few_class_fillers": [-1, 0.5, None],
    "revisit_easy": [0, None, 1.5],
    "val_num_samples": [0, 1.5],
    "val_max_images": [0, "all"],
    "ask_ahead": [1, None],
    "format_weight": [-0.1, None, INF, NAN],
    "answer_weight": [-1, None, INF],
    "min_think_characters": [0, 1.5, None],
    "max_images_in_flight": [0, None, 1.5],
    "max_refills_per_step": [0, -1, 2.5],
    "mining_timeout": [0, None, INF],
    "rollout_timeout": [0, -1, None],
    "stall_timeout": [0, None],
    "poll_interval": [0, None],
    "max_pixels": [0, 783, None, 1e6],
    "min_pixels": [0, None],
    "seed": [None, 1.5, "a"],
    "run_dir": ["", "  ", None, 3],
}


def test_every_option_has_values_that_are_refused() -> None:
    assert set(BAD) == set(Settings.model_fields)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_an_impossible_value_is_refused_in_one_sentence_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(SetupError) as error:
        read_settings({name: value})
    message = str(error.value)
    assert message.startswith(f"divek.{name}={value!r} does not work: it must be ")
    assert message.endswith(".") and "\n" not in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("num_options", "auto or a whole number from 2 to 26"),
        ("option_source", "policy, random, text_embedding, mixed or package.module:Class"),
        ("top_p", "a number above 0 and at most 1"),
        ("temperature", "a number above 0"),
        ("top_k", "-1 or a whole number of at least 1"),
        ("votes_file", "null or a path"),
        ("skip_easy", "true or false"),
        ("answer_weight", "a number of at least 0"),
        ("seed", "a whole number"),
    ],
)
def test_what_an_option_takes_is_said_in_words(name: str, words: str) -> None:
    assert allowed(name) == words


def test_the_rules_of_questions_are_the_settings_of_that_name() -> None:
    rules = {"num_options": "auto", "min_options": 3, "auto_share": 0.5, "auto_max_options": 7}
    assert read_settings({**rules, "skip_easy": False, "easy_share": 0.75}).rules == QuestionRules(
        **rules,  # type: ignore[arg-type]
        skip_easy=False,
        easy_share=0.75,
    )
    assert Settings().rules == QuestionRules()


def test_votes_are_sampled_for_the_options_or_to_skip_easy_images() -> None:
    assert read_settings({"option_source": "mixed", "skip_easy": False}).samples_votes
    assert read_settings({"option_source": "random", "skip_easy": True}).samples_votes
    assert not read_settings({"option_source": "random", "skip_easy": False}).samples_votes


GOOD: dict[str, list[Any]] = {
    "num_samples": [1],
    "num_options": [2, 26, "auto"],
    "temperature": [0.1, 2],
    "max_vote_age": [None, 0, 7],
    "top_p": [1, 1.0, 0.01],
    "option_source": ["mixed", "mine.sources:Nearest"],
    "top_k": [-1, 1, 50],
    "max_new_tokens": [None, 1],
    "max_refills_per_step": [None, 1],
    "skip_easy": [False],
    "format_weight": [0, 0.5],
    "seed": [-3, 0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_a_possible_value_is_taken_as_it_is(name: str, value: Any) -> None:
    assert getattr(read_settings({name: value}), name) == value


@given(
    st.dictionaries(st.sampled_from(sorted(BAD)), st.none() | st.integers() | st.floats() | st.text() | st.booleans())
)
def test_any_values_make_settings_or_a_setup_error(values: dict[str, Any]) -> None:
    try:
        settings = read_settings(values)
    except SetupError:
        return
    assert 2 <= settings.num_options <= 26 and settings.num_samples >= 1
    assert settings.min_pixels <= settings.max_pixels


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"min_options": 4, "num_options": 3}, "divek.min_options=4 is above divek.num_options=3"),
        ({"min_options": 11, "num_options": "auto"}, "divek.min_options=11 is above divek.auto_max_options=10"),
        ({"min_pixels": 5000, "max_pixels": 4000}, "divek.min_pixels=5000 is above divek.max_pixels=4000"),
        (
            {"num_options": "auto", "option_source": "random", "skip_easy": False},
            "divek.num_options=auto counts votes, which divek.option_source=random",
        ),
        ({"votes_file": "votes.jsonl"}, "divek.votes_file would never be used with divek.max_vote_age=0"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SetupError, match=re.escape(sentence)) as error:
        read_settings(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("values", "most"), [({"num_options": 7}, 7), ({"num_options": "auto"}, 10)])
def test_the_most_options_that_a_question_can_have(values: dict[str, Any], most: int) -> None:
    assert read_settings(values).rules.most_options == most


def test_an_unknown_option_is_named_beside_the_known_ones() -> None:
    with pytest.raises(SetupError, match=r"num_option is no option of divek_verl: did you mean divek\.num_options\?$"):
        read_settings({"num_option": 5})


def test_interpolations_are_resolved() -> None:
    config = OmegaConf.create({"trainer": {"dir": "runs/x"}, "divek": {"run_dir": "${trainer.dir}"}})
    assert read_settings(config.divek).run_dir == "runs/x"
