"""The documentation: its links lead somewhere, its generated parts are current, and what it names exists."""

import dataclasses
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from divek_verl import cli
from divek_verl.labels import ClassNames
from divek_verl.measures import MEASURES
from divek_verl.question import Question, build_question
from divek_verl.records import FailureReason
from divek_verl.settings import Settings
from divek_verl.votes import Votes

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*(REPOSITORY / "docs").glob("*.md"), *REPOSITORY.glob("*.md")])
# [text](target), and not ![picture](target)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", REPOSITORY / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate_docs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def headings(page: Path) -> set[str]:
    """Anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `divek` command in a page: lines of a shell block, and code in a sentence or a table."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    for line in lines:
        if found := re.match(r"(?:\w+=\S+ )*divek (?=[a-z])(.+)", line):
            yield shlex.split(found[1], comments=True)


def options_of(name: str, rest: list[str]) -> set[str]:
    """The options of a sub-command, of `divek prepare` those of the data set that follows."""
    command = typer.main.get_command(cli.load_command(name))
    sets = getattr(command, "commands", {})
    if sets and rest and rest[0] in sets:
        command = sets[rest[0]]
    elif sets:
        command = sets["image_folder"]
    return {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in headings(file), f"{page.name}: {target}"


def test_every_page_is_listed_in_the_index() -> None:
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    listed = {target for target in LINK.findall(index) if "://" not in target}
    assert listed == {page.name for page in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}


def test_the_generated_pages_are_current(generate: ModuleType) -> None:
    for path, text in generate.generated().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: run python docs/generate.py"


def test_the_reference_has_every_option(generate: ModuleType) -> None:
    text = generate.configuration()
    for name in Settings.model_fields:
        assert f"| `divek.{name}` |" in text


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = set(Settings.model_fields)
    assert set(re.findall(r"(?<![\w.])divek\.([a-z_]+)=", text)) <= known
    for name, *rest in commands(text):
        assert name in cli.COMMANDS, f"{page.name}: divek {name}"
        given = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert given <= options_of(name, rest), f"{page.name}: divek {name} {' '.join(rest)}"
    for path in re.findall(
        r"\b(?:recipes|docs|tests|divek_verl|data_prep|benchmarks)/[\w/]+\.(?:py|sh|yaml|md)\b", text
    ):
        assert (REPOSITORY / path).exists(), path


def test_every_reason_is_listed_with_its_sentence() -> None:
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", text, re.MULTILINE)
    assert rows == [(reason.value, reason.sentence) for reason in FailureReason]


def test_the_messages_of_troubleshooting_are_those_of_the_source() -> None:
    sources = [path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "divek_verl").rglob("*.py"))]
    # Strings that stand side by side are one.
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [message for message in re.findall(r"^- \*\*`([^`]+)`", text, re.MULTILINE) if "..." in message]
    assert len(quoted) >= 5
    for message in quoted:
        for part in filter(None, map(str.strip, message.split("..."))):
            assert part in source, message


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md"])
def test_the_measures_of_a_page_are_those_of_the_table(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert [row for row in rows if row[0] in MEASURES] == [dataclasses.astuple(each) for each in MEASURES.values()]


def test_commands_are_found_in_blocks_and_in_sentences() -> None:
    text = "`divek\nmine --out x` and\n```bash\nA=1 divek eval --model \\\n  m # more\ndivekx no\n```\n`divek.seed=1`"
    assert list(commands(text)) == [["eval", "--model", "m"], ["mine", "--out", "x"]]
    assert "--shots" in options_of("prepare", ["cub"]) and "--samples" in options_of("mine", [])


def test_the_readme_lists_every_command() -> None:
    named = {name for name, *_ in commands((REPOSITORY / "README.md").read_text(encoding="utf-8"))}
    assert named == set(cli.COMMANDS)


def test_the_example_of_an_option_source_works() -> None:
    text = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    block = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    module: dict[str, Any] = {}
    exec(block[1], module)
    classes = ClassNames(["Herring Gull", "Herring Tern", "Herring Auk", "Common Tern"])
    source = module["SameFirstWord"]()
    ranking = source.rank(Votes({}), classes, truth="Herring Gull", num_options=3, seed="s")
    assert set(ranking) == {"Herring Tern", "Herring Auk"}
    question = build_question(Votes({}), classes, truth="Herring Gull", num_options=3, seed="s", ranking=ranking)
    assert isinstance(question, Question) and set(question.options) == {"Herring Gull", "Herring Tern", "Herring Auk"}
