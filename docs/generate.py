"""Writes what is documented in divek_verl/settings.py: the `divek:` node of online.yaml, and docs/configuration.md.

python docs/generate.py
"""

import json
import textwrap
from pathlib import Path

from divek_verl.settings import Settings, allowed

DOCS = Path(__file__).resolve().parent
CONFIGURATION = DOCS / "configuration.md"
ONLINE = DOCS.parent / "divek_verl" / "config" / "divek" / "online.yaml"

PAGE = """# Configuration

<!-- Made by docs/generate.py from divek_verl/settings.py: change that. -->

Every option can be given on verl's command line, as in `divek.num_samples=12`. A value that cannot work stops the run
before Ray starts, with a sentence that says what to change. verl's own options are documented by verl.

## The `divek:` node

`reward=divek` and `--config-name divek_trainer` bring it.

| option | default | allowed | meaning |
| --- | --- | --- | --- |
{rows}

## The baseline

`reward=virft` brings no `divek:` node, but these options, with the meaning that they have above:
`data.divek.max_pixels`, `data.divek.min_pixels`, `data.divek.list_classes`, `data.divek.run_dir`, and under
`reward.custom_reward_function.reward_kwargs` `format_weight`, `answer_weight` (reward for the right
class) and `min_think_characters`.

## Whole configurations

For `--config-name`, beside verl's own `ppo_trainer`:

- `divek_trainer`: verl's trainer with DiVE-k on, and with what `reward=divek` cannot set because verl's primary file
  sets it in its own body.
- `divek_cpu`: the same on a machine with no accelerator (`VERL_PLATFORM=cpu`), for small models and tests.

The recipes' own files are described in [Reproduce the paper](reproduce-the-paper.md).
"""


def defaults() -> dict[str, str]:
    """Each option's default, as YAML writes it."""
    values = {name: json.dumps(value).strip('"') for name, value in Settings().model_dump().items()}
    return {**values, "run_dir": "${trainer.default_local_dir}"}


def configuration() -> str:
    """The text of configuration.md."""
    rows = []
    for name, default in defaults().items():
        text = f"{Settings.model_fields[name].description}".replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `divek.{name}` | `{default}` | {allowed(name)} | {text} |")
    return PAGE.format(rows="\n".join(rows))


def online(current: str) -> str:
    """The text of online.yaml: the ``divek:`` node is made anew, what stands around it stays."""
    start, end = current.index("divek:\n"), current.index("\ndata:\n")
    node = ["divek:"]
    for name, default in defaults().items():
        text = f"{Settings.model_fields[name].description} Allowed: {allowed(name)}."
        node += ["", textwrap.fill(text, 118, initial_indent="  # ", subsequent_indent="  # "), f"  {name}: {default}"]
    return current[:start] + "\n".join(node) + "\n" + current[end:]


def generated() -> dict[Path, str]:
    """Every generated file and its text."""
    return {CONFIGURATION: configuration(), ONLINE: online(ONLINE.read_text(encoding="utf-8"))}


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
