"""Write docs/configuration.md from the comments in the YAML files.

python docs/generate.py
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent

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


def generated() -> dict[Path, str]:
    """Every generated file and its text."""
    return {DOCS / "configuration.md": configuration()}


def main() -> None:
    """Write them all."""
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
