"""The documentation: its links lead somewhere, its generated parts are current, and what it names exists."""

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from divek_verl import cli
from divek_verl.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*(REPOSITORY / "docs").glob("*.md"), *REPOSITORY.glob("*.md")])
# [text](target), and not ![picture](target)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
COMMANDS = {"doctor", "eval", "inspect", "mine", "predict", "prepare", "report"}


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


def test_every_message_that_is_raised_has_an_entry_with_a_cure(generate: ModuleType) -> None:
    entries = generate.read_entries((REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    raised = generate.messages()
    assert raised and set(entries) == set(raised)
    assert not [message for message, cure in entries.items() if not cure]
    # A command is not a sentence: with a capital it would not run.
    assert not [cure for cure in entries.values() if re.match(r"(Pip|Npm|Divek|Python|Hf) ", cure)]


def test_every_reason_that_is_counted_is_listed() -> None:
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    counted = re.compile(r"""(?:\bfailure=|\bfailure = |UnreadablePicture\(|CannotAsk\(|Skip\()"(\w+)\"""")
    sources = (path.read_text(encoding="utf-8") for path in (REPOSITORY / "divek_verl").rglob("*.py"))
    reasons = {reason for source in sources for reason in counted.findall(source)}
    assert {"easy", "mining_timeout", "server_error", "host_not_allowed"} <= reasons
    assert not {reason for reason in reasons if f"`{reason}`" not in text}


def test_messages_are_found_in_every_form_in_which_they_are_raised(generate: ModuleType) -> None:
    import ast

    source = """
def f(a, b):
    raise SetupError("plain: mend it.")
def g(a, b):
    message = f"{a} and {b.c} and {len(a)}: mend it."
    raise SetupError(message) from None
def h(a):
    raise SetupError("one: x." if a else f"two {a!r}: y.")
raise errors.NoProgress("three: z.")
raise ValueError("not ours")
"""
    assert set(generate._raised(ast.parse(source))) == {
        "plain: mend it.",
        "{a} and {c} and {...}: mend it.",
        "one: x.",
        "two {a}: y.",
        "three: z.",
    }


def test_the_text_under_an_entry_is_kept_and_an_entry_without_a_message_goes(generate: ModuleType) -> None:
    message = next(iter(generate.messages()))
    written = (
        f"# Title\n\n<!-- entries -->\n\n- `{message}`\n  Written by hand,\n  on two lines.\n- `gone: x.`\n  Old.\n"
    )
    entries = generate.read_entries(generate.troubleshooting(written))
    assert entries[message] == "Written by hand, on two lines."
    assert "gone: x." not in entries


def test_the_reference_has_every_option(generate: ModuleType) -> None:
    text = generate.configuration()
    for field in dataclasses.fields(Settings):
        assert f"| `divek.{field.name}` |" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = {field.name for field in dataclasses.fields(Settings)}
    assert set(re.findall(r"(?<![\w.])divek\.([a-z_]+)=", text)) <= known
    assert set(re.findall(r"^(?:\w+=\S+ )*divek ([a-z]+)", text, re.MULTILINE)) <= COMMANDS
    for path in re.findall(r"\b(?:recipes|docs|tests|divek_verl|data_prep)/[\w/]+\.(?:py|sh|yaml|md)\b", text):
        assert (REPOSITORY / path).exists(), path


def test_the_commands_of_the_pages_are_those_of_the_package() -> None:
    assert set(cli.COMMANDS) <= COMMANDS
