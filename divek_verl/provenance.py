"""Where each value of a configuration that Hydra composed comes from, and the configuration as YAML that says so."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from posixpath import normpath
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

# Of the comments; longer lines push theirs to the right.
COLUMN = 60


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``a.b.c`` and the value of each leaf of a mapping; an empty mapping is a leaf."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def sources(
    config_name: str, overrides: Mapping[str, str], folders: Mapping[Path, str], search_path: Sequence[str] = ()
) -> dict[str, str]:
    """The source of each value that a file or an override sets; for an initialized Hydra, as ``hydra.compose`` is.

    Args:
        config_name: the primary file.
        overrides: override -> what to call its source.
        folders: the folders with Hydra's files, in the order in which it searches them, and what to call each.
        search_path: overrides that let Hydra find the folders.
    """
    hydra = GlobalHydra.instance()
    composed = hydra.config_loader().compute_defaults_list(config_name, [*search_path, *overrides], RunMode.RUN)
    found: dict[str, str] = {}
    # Hydra merges in this order, and the last one wins.
    for default in composed.defaults:
        # verl writes some as ../optim/fsdp.
        file = normpath(f"{default.config_path}.yaml")
        folder = next((each for each in folders if (each / file).is_file()), None)
        if folder is not None:
            body = OmegaConf.to_container(OmegaConf.load(folder / file))
            start = f"{default.package}." if default.package else ""
            found.update({name: f"{folders[folder]}{file}" for name, _ in flatten(body, start)})
    for override in composed.config_overrides:
        if source := overrides.get(override.input_line):
            name, value = override.key_or_group, override.value()
            parts = dict(flatten(value, f"{name}.")) if isinstance(value, dict) else {}
            found.update(dict.fromkeys(parts or [name], source))
    return found


def changed(before: DictConfig, after: DictConfig) -> Iterator[str]:
    """The names of the values that only ``after`` has."""
    known = dict(flatten(OmegaConf.to_container(before)))
    for name, value in flatten(OmegaConf.to_container(after)):
        if name not in known or known[name] != value:
            yield name


def as_yaml(config: DictConfig, found: Mapping[str, str]) -> Iterator[str]:
    """The lines of a configuration, with interpolations resolved and the source of each value as a comment.

    A reference to a whole node stays as it is, so that the node is not shown twice.
    """
    return _lines(OmegaConf.to_container(config), OmegaConf.to_container(config, resolve=True), found, ())


def _lines(plain: Any, resolved: Any, found: Mapping[str, str], above: tuple[str, ...]) -> Iterator[str]:
    indent = "  " * len(above)
    for key, value in plain.items():
        name = (*above, str(key))
        if isinstance(value, dict) and value:
            yield f"{indent}{_flow(key)}:"
            yield from _lines(value, resolved[key], found, name)
            continue
        whole_node = isinstance(value, str) and isinstance(resolved[key], dict)
        line = f"{indent}{_flow(key)}: {_flow(value if whole_node else resolved[key])}"
        refers = f", {' '.join(value.split())}" if not whole_node and isinstance(value, str) and "${" in value else ""
        yield f"{line:<{COLUMN}}  # {_source(name, found)}{refers}"


def _source(name: Iterable[str], found: Mapping[str, str]) -> str:
    """The source of a value, or that of the node in which it was set as a part of a list or another whole."""
    parts = list(name)
    while parts and ".".join(parts) not in found:
        parts.pop()
    return found[".".join(parts)] if parts else "?"


class _OneLine(yaml.SafeDumper):
    """Writes a text of several lines with escapes, so that a comment can follow."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_OneLine.add_representer(str, _OneLine.represent_str)


def _flow(value: Any) -> str:
    """A key or a value on one line."""
    text = yaml.dump(value, Dumper=_OneLine, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()
