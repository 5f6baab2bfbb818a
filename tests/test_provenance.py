"""The source of every value of a composed configuration, and the YAML that shows it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from divek_verl.provenance import as_yaml, changed, flatten, sources

FILES = {
    "own/main.yaml": """
        defaults: [base, _self_, optim@actor.optim: adam, task: birds]
        steps: 10
        twice: {once: "${steps}", whole: "${actor}"}
        """,
    "own/task/birds.yaml": """
        # @package _global_
        steps: 20
        files: [a, b]
        """,
    "theirs/base.yaml": """
        steps: 1
        name: base
        defaults: [sub/other, _self_]
        actor: {layers: 2, tags: {}, extra: {x: 1}}
        """,
    "theirs/sub/other.yaml": "defaults: [../optim/adam@above]",
    "theirs/optim/adam.yaml": "{rate: 1.0e-6, schedule: null}",
    # The first folder wins.
    "theirs/task/birds.yaml": "steps: 30",
}


@pytest.fixture
def folders(tmp_path: Path) -> dict[Path, str]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        (tmp_path / name).write_text("\n".join(line.removeprefix("        ") for line in lines))
    return {tmp_path / "own": "own/", tmp_path / "theirs": "theirs: "}


Composed = tuple[DictConfig, dict[str, str]]


@pytest.fixture
def composed(folders: dict[Path, str]) -> Iterator[Composed]:
    own, theirs = folders
    search = [f"hydra.searchpath=[file://{theirs}]"]
    overrides = {
        "name='a: b # c'": "the environment",
        "+text='two\nlines'": "the environment",
        "+more={a: 1, b: {c: 2}}": "command line",
        "~actor.extra": "command line",
        "task=birds": "command line",
    }
    with initialize_config_dir(str(own), version_base=None):
        yield compose("main", overrides=[*search, *overrides]), sources("main", overrides, folders, search)


def test_the_last_file_or_override_that_sets_a_value_is_its_source(composed: Composed) -> None:
    config, found = composed
    assert {name: found[name] for name, _ in flatten(OmegaConf.to_container(config))} == {
        "steps": "own/task/birds.yaml",
        "name": "the environment",
        "text": "the environment",
        "sub.above.rate": "theirs: optim/adam.yaml",
        "sub.above.schedule": "theirs: optim/adam.yaml",
        "actor.layers": "theirs: base.yaml",
        "actor.tags": "theirs: base.yaml",
        "actor.optim.rate": "theirs: optim/adam.yaml",
        "actor.optim.schedule": "theirs: optim/adam.yaml",
        "files": "own/task/birds.yaml",
        "twice.once": "own/main.yaml",
        "twice.whole": "own/main.yaml",
        "more.a": "command line",
        "more.b.c": "command line",
    }


def test_the_output_is_yaml_of_the_same_configuration(composed: Composed) -> None:
    config, found = composed
    read = OmegaConf.create(yaml.safe_load("\n".join(as_yaml(config, found))))
    assert OmegaConf.to_container(read, resolve=True) == OmegaConf.to_container(config, resolve=True)
    # PyYAML reads 1e-06 as a text.
    assert read.actor.optim.rate == 1e-6 and read.text == "two\nlines"


def test_a_line_has_the_value_its_source_and_what_it_refers_to(composed: Composed) -> None:
    config, found = composed
    lines = [" ".join(line.split()) for line in as_yaml(config, found)]
    assert "steps: 20 # own/task/birds.yaml" in lines
    assert "once: 20 # own/main.yaml, ${steps}" in lines
    # A whole node is not repeated.
    assert "whole: ${actor} # own/main.yaml" in lines and len([line for line in lines if "layers" in line]) == 1
    # Every value has one line, however long it is.
    assert len(lines) == len(dict(flatten(OmegaConf.to_container(config)))) + 7


def test_a_value_of_unknown_source_has_that_of_the_node_above_it(composed: Composed) -> None:
    config, _ = composed
    lines = list(as_yaml(config, {"actor": "somewhere"}))
    assert [line.endswith("# somewhere") for line in lines if "rate" in line] == [False, True]
    assert next(line for line in lines if "steps: 20" in line).endswith("# ?")


def test_what_was_changed_or_added_is_found(composed: Composed) -> None:
    config, _ = composed
    after = OmegaConf.create(OmegaConf.to_container(config))
    after.steps, after.new = 5, {"a": 1}
    assert set(changed(config, after)) == {"steps", "new.a"}
