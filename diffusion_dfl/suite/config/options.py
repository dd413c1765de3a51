"""What the options of ``conf/`` are: every one of a group with its keys, values and meanings.

Read as text, not composed: a value stands here as it is written, beside the comment of its line; what a
file leaves out is as the constructor has it, with what its docstring says.
:mod:`diffusion_dfl.suite.config.reference` makes docs/config.md of it.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from diffusion_dfl.suite.config.schema import SUPPLIED, target_of
from diffusion_dfl.suite.config.signature import REQUIRED, knobs

_GLOBAL = "# @package _global_"


@dataclass(frozen=True)
class Entry:
    """A key of a file.

    Attributes:
        value: as it is written.
        meaning: the comment of its line; empty if there is none.
    """

    value: str
    meaning: str


@dataclass(frozen=True)
class Option:
    """One file of a group, as ``conf/task/power.yaml``.

    Attributes:
        group, name: ``task``, ``power``.
        summary: the comment at its head.
        own: what the file itself sets, by full path (``task.shortage``).
        entries: what it sets with its bases, whose comments it inherits.
        sections: comments of the keys that hold other keys.
        bases: options of the same group that it starts from.
        chooses: options of other groups that it brings along, ``{"data": "simulated"}``.
        schema: name of its schema in the same group; None for one without its own.
    """

    group: str
    name: str
    summary: str
    own: dict[str, Entry]
    entries: dict[str, Entry]
    sections: dict[str, str] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    chooses: dict[str, str] = field(default_factory=dict)
    schema: str | None = None


def groups(folder: Path) -> list[str]:
    """Names of the groups, the folders of ``conf/`` but for the spaces of searches."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != "search")


def read_group(folder: Path, group: str) -> dict[str, Option]:
    """Every option of a group, by name."""
    names = sorted(path.stem for path in (folder / group).glob("*.yaml"))
    return {name: read_option(folder, group, name) for name in names}


def read_option(folder: Path, group: str, name: str) -> Option:
    """One option with what it inherits.

    Args:
        folder: ``conf/``.
        group, name: of the option.
    """
    text = (folder / group / f"{name}.yaml").read_text(encoding="utf-8")
    own, sections = read_entries(text, "" if text.startswith(_GLOBAL) else f"{group}.")
    bases: list[str] = []
    chooses: dict[str, str] = {}
    schema = None
    for key, value in _defaults(text):
        target = key.removeprefix("override ").split("@")[0]
        if target.startswith("/schema/"):
            schema = target.removeprefix("/schema/").removeprefix(f"{group}/")
        elif key.startswith("override "):
            chooses[target.removeprefix("/")] = value
        elif not value and target != "_self_":
            bases.append(target)
    entries: dict[str, Entry] = {}
    for base in bases:
        inherited = read_option(folder, group, base)
        entries.update(inherited.entries)
        chooses = {**inherited.chooses, **chooses}
        schema = schema or inherited.schema
    own = {**made_of(group, text), **own}
    for path, entry in own.items():
        known = entries.get(path) or made_of(group, text).get(path)
        entries[path] = Entry(entry.value, entry.meaning or (known.meaning if known else ""))
    return Option(
        group, name, _summary(text), own, entries, sections, tuple(bases), chooses, schema
    )


def made_of(group: str, text: str) -> dict[str, Entry]:
    """The keys of what an option makes, as its signature and docstring have them, by path."""
    target = target_of(text)
    if target is None or group not in SUPPLIED:
        return {}
    return knob_entries(target, f"{group}.", SUPPLIED[group])


def knob_entries(target: str, prefix: str, without: Collection[str] = ()) -> dict[str, Entry]:
    """What a target takes, by path."""
    return {
        f"{prefix}{knob.name}": Entry(written_default(knob.default), knob.meaning)
        for knob in knobs(target).values()
        if knob.name not in without
    }


def written_default(value: Any) -> str:
    """A default as YAML has it."""
    if value is REQUIRED:
        return "???"
    if isinstance(value, float):
        return repr(value)
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def read_entries(text: str, prefix: str = "") -> tuple[dict[str, Entry], dict[str, str]]:
    """Leaves of a YAML text by path, and the comments of the keys that hold others.

    Args:
        text: of a file of ``conf/``; its ``defaults`` and ``hydra`` are passed over.
        prefix: put before every path.
    """
    root = yaml.compose(text)
    entries: dict[str, Entry] = {}
    sections: dict[str, str] = {}
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, path: str) -> None:
        for key, value in node.value:
            name = f"{path}{key.value}"
            if name in ("defaults", "hydra"):
                continue
            if isinstance(value, yaml.MappingNode):
                sections[prefix + name] = _comment(lines, key.end_mark)
                walk(value, f"{name}.")
            else:
                written = text[value.start_mark.index : value.end_mark.index]
                entries[prefix + name] = Entry(written, _comment(lines, value.end_mark))

    if isinstance(root, yaml.MappingNode):  # A preset may hold nothing at all.
        walk(root, "")
    return entries, sections


def read_choices(text: str) -> dict[str, Entry]:
    """Groups that ``config.yaml`` chooses from: group -> default option and what the group is."""
    lines = text.splitlines()
    found: dict[str, Entry] = {}
    for key, value, mark in _default_nodes(text):
        if value and not key.startswith(("optional ", "override ")):
            found[key] = Entry(value, _comment(lines, mark))
    return found


def _defaults(text: str) -> Iterator[tuple[str, str]]:
    """Items of a defaults list: ``(key, option)``; the option is empty for a plain name."""
    for key, value, _ in _default_nodes(text):
        yield key, value


def _default_nodes(text: str) -> Iterator[tuple[str, str, yaml.Mark]]:
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        return
    for key, value in root.value:
        if key.value != "defaults":
            continue
        for item in value.value:
            if isinstance(item, yaml.MappingNode):
                for group, option in item.value:
                    yield group.value, option.value, option.end_mark
            else:
                yield item.value, "", item.end_mark


def _comment(lines: list[str], mark: yaml.Mark) -> str:
    """The comment behind ``mark`` on its line."""
    rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
    match = re.match(r"[\s:]*#\s*(.*)", rest)
    return match.group(1).strip() if match else ""


def _summary(text: str) -> str:
    """The comment lines at the head of a file, joined."""
    head: list[str] = []
    for line in text.splitlines():
        if line == _GLOBAL:
            continue
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    return " ".join(head)
