"""Writes the parts of docs/ that come from the source: configuration.md and the entries of troubleshooting.md.

python docs/generate.py

configuration.md is made of the comments in the YAML files. In troubleshooting.md every message that the package raises
gets an entry; what is written under an entry by hand stays, an entry without a message goes.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
SOURCES = ("divek_verl", "recipes", "data_prep")
ERRORS = ("SetupError", "NoProgress")

# ----------------------------------------------------------------------------------------------- configuration.md

CONFIG_FILES = (
    ("divek/online.yaml", "The `divek:` node", "`reward=divek` and `--config-name divek_trainer` bring it."),
    ("divek/open.yaml", "`data.divek` of the baseline", "`reward=virft` brings it in place of the `divek:` node."),
    ("reward/virft.yaml", "The reward of the baseline", "Under `reward.custom_reward_function.reward_kwargs`."),
)
TRAINER_FILES = ("divek_trainer.yaml", "divek_cpu.yaml")
INTRODUCTION = """# Configuration

<!-- Made by docs/generate.py from the comments in divek_verl/config: change those. -->

Every option can be given on verl's command line, as in `divek.num_samples=12`. A value that cannot work stops the run
before Ray starts, with a sentence that says what to change. verl's own options are documented by verl.
"""


@dataclass(frozen=True)
class Option:
    """An option of a YAML file: its name with dots, its default as written, and the comment above it."""

    name: str
    default: str
    text: str


def read_options(path: Path) -> Iterator[Option]:
    """The options of a file that have a comment; options under one comment share it."""
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    after_option = False
    for line in path.read_text(encoding="utf-8").splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment = [stripped.lstrip("# ")] if after_option or not comment else [*comment, stripped.lstrip("# ")]
            after_option = False
        elif not stripped:
            comment, after_option = [], False
        elif match := re.match(r"( *)([A-Za-z_]+):(?: (.*))?$", line):
            indent, key, value = len(match[1]), match[2], match[3]
            parents = [(depth, name) for depth, name in parents if depth < indent]
            if value is None:
                parents.append((indent, key))
                comment = []
                continue
            if comment:
                yield Option(".".join([name for _, name in parents] + [key]), value, " ".join(comment))
            after_option = True


def configuration() -> str:
    """The text of configuration.md."""
    config = REPOSITORY / "divek_verl" / "config"
    parts = [INTRODUCTION]
    for file, title, text in CONFIG_FILES:
        rows = [f"| `{each.name}` | `{each.default}` | {_cell(each.text)} |" for each in read_options(config / file)]
        parts += [f"## {title}\n\n{text}\n", "| option | default | meaning |\n| --- | --- | --- |", *rows, ""]
    parts.append("## Whole configurations\n\nFor `--config-name`, beside verl's own `ppo_trainer`:\n")
    parts += [f"- `{Path(file).stem}`: {_head(config / file)}" for file in TRAINER_FILES]
    parts.append("\nThe recipes' own files are described in [Reproduce the paper](reproduce-the-paper.md).")
    return "\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _head(path: Path) -> str:
    """The comment at the head of a file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


# --------------------------------------------------------------------------------------------- troubleshooting.md


def messages() -> dict[str, str]:
    """Message as a template (``{name}`` for what is filled in) -> source file, of every error that is raised."""
    found: dict[str, str] = {}
    for folder in SOURCES:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for template in _raised(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault(template, path.relative_to(REPOSITORY).as_posix())
    return found


def _raised(tree: ast.AST) -> Iterator[str]:
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            continue
        texts = _texts(function)
        for node in _own_nodes(function):
            if isinstance(node, ast.Call) and _name(node.func) in ERRORS and node.args:
                argument = node.args[0]
                yield from texts.get(argument.id, []) if isinstance(argument, ast.Name) else _templates(argument)


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _own_nodes(child)


def _texts(function: ast.AST) -> dict[str, list[str]]:
    """Texts that a function gives to a name before it raises them."""
    found: dict[str, list[str]] = {}
    for node in _own_nodes(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).extend(_templates(node.value))
    return found


def _templates(node: ast.AST) -> Iterator[str]:
    """The texts that an expression may be: a string, an f-string, a sum or a choice of them."""
    if isinstance(node, ast.IfExp):
        yield from _templates(node.body)
        yield from _templates(node.orelse)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from (left + right for left in _templates(node.left) for right in _templates(node.right))
    elif isinstance(node, ast.JoinedStr):
        yield _clean("".join(_part(value) for value in node.values))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield _clean(node.value)


def _part(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    assert isinstance(value, ast.FormattedValue)
    return f"{{{_name(value.value) or '...'}}}"


def _name(node: ast.AST) -> str:
    """The last part of a dotted name; empty for any other expression."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _clean(text: str) -> str:
    return " ".join(text.replace("`", "'").split())


def read_entries(text: str) -> dict[str, str]:
    """Message -> what is written under it."""
    entries: dict[str, str] = {}
    message = None
    for line in text.splitlines():
        if start := re.match(r"- `(.*)`$", line):
            message = start[1]
            entries[message] = ""
        elif message is not None and line.startswith("  "):
            entries[message] = f"{entries[message]} {line.strip()}".strip()
        else:
            message = None
    return entries


def first_cure(message: str) -> str:
    """What a message itself says is to be done: its last part."""
    told = message.rstrip(".")
    last = told.rpartition(": " if ": " in told else "; ")[2]
    return f"{last[:1].upper()}{last[1:]}."


def troubleshooting(current: str) -> str:
    """troubleshooting.md with an entry for every message, those of one file together."""
    mark = "<!-- entries -->\n"
    head, _, listed = current.partition(mark)
    entries = read_entries(listed)
    by_file: dict[str, list[str]] = {}
    for message, file in messages().items():
        by_file.setdefault(file, []).append(message)
    parts = [head.rstrip() + "\n\n" + mark.rstrip()]
    for file in sorted(by_file):
        parts.append(f"\n## {file}\n")
        parts += [_entry(message, entries.get(message) or first_cure(message)) for message in by_file[file]]
    return "\n".join(parts) + "\n"


def _entry(message: str, cure: str) -> str:
    return f"- `{message}`\n  {cure}"


def generated() -> dict[Path, str]:
    """Every generated file and its text."""
    path = DOCS / "troubleshooting.md"
    current = path.read_text(encoding="utf-8")
    return {DOCS / "configuration.md": configuration(), path: troubleshooting(current)}


def main() -> None:
    """Write them all."""
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
