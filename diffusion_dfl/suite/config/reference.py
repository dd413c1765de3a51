"""docs/config.md: every key of the configuration with type, default and meaning.

Names, types, defaults and meanings are those of constructors and their docstrings, but for what ``conf/``
chooses otherwise. ``make config-docs`` writes the page; a test holds the committed one against it and
asks a meaning of every key.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from diffusion_dfl.suite.config.options import (
    Entry,
    Option,
    groups,
    knob_entries,
    read_choices,
    read_entries,
    read_group,
    written_default,
)
from diffusion_dfl.suite.config.schema import RunConfig, register
from diffusion_dfl.suite.config.signature import constant, knobs

#: Where the page is, from the repository's root.
PAGE = Path("docs") / "config.md"

#: Explained once, in the text.
_EVERYWHERE = ("name", "_target_")

#: The page's own text, from the repository's root.
TEMPLATE = Path("docs") / "templates" / "config.md"

_OPTION_KEYS = (
    "Options of `task`, `model` and `grad` also have `name`, their own name, and `_target_`, the "
    "class or function that makes them."
)


def render(folder: Path) -> str:
    """The page.

    Args:
        folder: ``conf/``, beside ``docs/``, whose templates have the page's own text.
    """
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    entries, sections = _run_entries(text)
    choices = read_choices(text)
    every = {group: read_group(folder, group) for group in groups(folder)}
    head = (folder.parent / TEMPLATE).read_text(encoding="utf-8")
    parts = [head, "## Choices\n", _OPTION_KEYS + "\n", _choices(choices, every)]
    parts += _settings(entries, sections, choices)
    for group in (*choices, *(name for name in every if name not in choices)):
        options = every[group]
        parts.append(f"## {group}\n")
        if group == "preset":
            parts.append(_presets(options))
        elif any(option.schema or _is_plain(option) for option in options.values()):
            parts += [_option(option) for option in options.values()]
        else:
            parts.append(_global(options.values()))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def without_meaning(folder: Path) -> list[str]:
    """Keys of the schemas that no comment explains: ``task=power: task.ramp``."""
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    entries, _ = _run_entries(text)
    choices = read_choices(text)
    missing = [f"the defaults list: {name}" for name, entry in choices.items() if not entry.meaning]
    for path, _ in _leaves(RunConfig):
        # A choice's keys are those of its options.
        if path.split(".")[0] not in choices and not _meaning(entries, path):
            missing.append(f"config.yaml: {path}")
    for group in groups(folder):
        for option in read_group(folder, group).values():
            for path in _schema_of(option):
                if path.split(".")[-1] in _EVERYWHERE:
                    continue
                if not _meaning(option.entries, path):
                    missing.append(f"{group}={option.name}: {path}")
    return missing


def _run_entries(text: str) -> tuple[dict[str, Entry], dict[str, str]]:
    """Keys of config.yaml, those of the rule and the stages among them, and what its sections are."""
    entries = knob_entries("diffusion_dfl.training.rule.DecisionRule", "decision.", {"regularise"})
    settings, constants = "diffusion_dfl.training.settings", {"train": "TRAIN"}
    for stage in ("foundation", "fit", "train"):
        made = knob_entries(f"{settings}.TrainingSettings", f"{stage}.")
        given = constant(settings, constants.get(stage, "FIT"))
        for name, value in given.items():
            path = f"{stage}.{name}"
            made[path] = Entry(written_default(value), made[path].meaning)
        entries.update(made)
    own, sections = read_entries(text)
    stages = knobs("diffusion_dfl.training.experiment.Stages")
    sections = {name: knob.meaning for name, knob in stages.items()} | {
        name: said for name, said in sections.items() if said
    }
    return {**entries, **own}, sections


def _meaning(entries: dict[str, Entry], path: str) -> str:
    return entries[path].meaning if path in entries else ""


def _is_plain(option: Option) -> bool:
    """Whether its keys are those of the group alone, and known to the run's own schema."""
    return all(path.startswith(f"{option.group}.") for path in option.entries)


def _schema_of(option: Option) -> dict[str, Any]:
    """Types by path of the keys that an option's schema knows; empty for one that has none."""
    register()
    if option.schema is not None:
        node = ConfigStore.instance().load(f"schema/{option.group}/{option.schema}.yaml").node
        schema = OmegaConf.get_type(node)
        return dict(_leaves(schema, f"{option.group}."))
    prefix = f"{option.group}."
    return {path: kind for path, kind in _leaves(RunConfig) if path.startswith(prefix)}


def _leaves(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and types of a dataclass's fields, those of nested ones in their place."""
    hints = get_type_hints(schema)
    for item in fields(schema):
        kind = hints[item.name]
        if is_dataclass(kind):
            yield from _leaves(kind, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", kind


def _type(kind: Any) -> str:
    """``float``, ``list[str]``, ``str or null``."""
    if get_origin(kind) in (Union, UnionType):
        names = [_type(part) for part in get_args(kind) if part is not NoneType]
        return " or ".join([*names, "null"])
    if get_origin(kind) is not None:
        return f"{get_origin(kind).__name__}[{', '.join(map(_type, get_args(kind)))}]"
    return str(kind.__name__)


def _choices(choices: dict[str, Entry], every: dict[str, dict[str, Option]]) -> str:
    rows = [
        [
            f"[`{group}`](#{group})",
            f"`{entry.value}`",
            ", ".join(f"`{name}`" for name in every[group]),
            entry.meaning.split(":")[0],
        ]
        for group, entry in choices.items()
    ]
    return _table(["key", "default", "options", "meaning"], rows)


def _settings(
    entries: dict[str, Entry], sections: dict[str, str], choices: dict[str, Entry]
) -> list[str]:
    """Keys of config.yaml itself: the plain ones, then a section a dataclass."""
    kinds = dict(_leaves(RunConfig))
    plain = [path for path in kinds if "." not in path and path not in choices]
    parts = ["## The run\n", _entry_table(plain, entries, kinds)]
    hints = get_type_hints(RunConfig)
    alike: dict[frozenset[str], list[str]] = {}
    for item in fields(RunConfig):
        if is_dataclass(hints[item.name]) and item.name not in choices:
            keys = {path for path, _ in _leaves(hints[item.name])} - {"refit"}
            alike.setdefault(frozenset(keys), []).append(item.name)
    for names in alike.values():
        parts.append(f"## {', '.join(names)}\n")
        said = [f"`{name}`: {sections[name]}." for name in names if sections.get(name)]
        parts += [" ".join(said) + "\n"] if said else []
        inner = list(dict.fromkeys(key for one in names for key, _ in _leaves(hints[one])))
        if len(names) == 1:
            parts.append(_entry_table([f"{names[0]}.{key}" for key in inner], entries, kinds))
            continue
        rows = []
        for key in inner:
            there = [f"{name}.{key}" for name in names if f"{name}.{key}" in kinds]
            values = [
                _code(entries[f"{name}.{key}"].value) if f"{name}.{key}" in there else "–"
                for name in names
            ]
            first = there[0]
            rows.append([f"`{key}`", _type(kinds[first]), *values, entries[first].meaning])
        parts.append(_table(["key", "type", *names, "meaning"], rows))
    return parts


def _entry_table(paths: Iterable[str], entries: dict[str, Entry], kinds: dict[str, Any]) -> str:
    rows = []
    for path in paths:
        entry = entries.get(path)
        value = _code(entry.value) if entry else "–"
        rows.append([f"`{path}`", _type(kinds[path]), value, entry.meaning if entry else ""])
    return _table(["key", "type", "default", "meaning"], rows)


def _option(option: Option) -> str:
    """Heading, summary and keys of one option."""
    kinds = _schema_of(option)
    target = option.entries.get(f"{option.group}._target_")
    heading = f"### {option.group}={option.name}\n"
    said = option.summary + (f" Makes `{target.value}`." if target else "")
    shown = [
        path for path in kinds if path in option.own and path.rsplit(".", 1)[-1] not in _EVERYWHERE
    ]
    parts = [heading, said + "\n"]
    if shown:
        parts.append(_entry_table(shown, {path: option.entries[path] for path in shown}, kinds))
    if option.bases:
        rest = " and ".join(f"`{option.group}={base}`" for base in option.bases)
        parts.append(f"Everything else is as in {rest}.\n")
    beside = [f"`{group}={name}`" for group, name in option.chooses.items()]
    beside += [
        f"`{path}={entry.value}`" + (f" ({entry.meaning})" if entry.meaning else "")
        for path, entry in option.own.items()
        if path not in kinds
    ]
    if beside:
        parts.append(f"It also sets {', '.join(beside)}.\n")
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _global(options: Iterable[Option]) -> str:
    """Options that set keys of all kinds: a row each."""
    rows = [[f"`{option.name}`", option.summary, _sets(option)] for option in options]
    return _table(["option", "what it is", "sets"], rows)


def _presets(options: dict[str, Option]) -> str:
    """Presets of cells; what several share stands in each."""
    shared = {base for option in options.values() for base in option.bases}
    rows = [
        [f"`{option.name}`", _sets(option)]
        for option in options.values()
        if option.name not in shared
    ]
    said = (
        "Tuned values of a cell, `<task>-<model>-<grad>`, applied when there is a file of that name "
        "in `conf/preset/`. They were chosen on validation data only; the search is in "
        "`results/search/`.\n"
    )
    return said + "\n" + _table(["cell", "sets"], rows)


def _sets(option: Option) -> str:
    named = [f"`{group}={name}`" for group, name in option.chooses.items()]
    named += [
        f"`{path}={entry.value}`"
        for path, entry in option.entries.items()
        if path != option.group  # scale: laptop is the name of the option
    ]
    return ", ".join(named) or "nothing"


def _code(value: str) -> str:
    return f"`{value}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
