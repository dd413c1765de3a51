"""What the files of a run may say: a run may come from anybody, so they are data.

They name parts of this package, each in its own place. Code of a user's own runs only from a folder
that the user names, never because a file in a run says so (docs/security.md).
"""

import re
import sys
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import printable, read_text
from diffusion_dfl.suite.config.own import locate, source_file
from diffusion_dfl.suite.config.schema import MADE, target_of
from diffusion_dfl.suite.places import CONFIG_DIRECTORY

_MOST_BYTES, _MOST_LEVELS, _MOST_EVENTS = 2**20, 50, 10_000


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values as OmegaConf writes them: ``1e-3`` is a number, a date is text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """:func:`parse_yaml` of a file.

    Raises:
        ValueError: it is none, or longer than a configuration can be.
        OSError: it cannot be read.
    """
    return parse_yaml(read_text(path, _MOST_BYTES))


def parse_yaml(text: str) -> dict[str, Any]:
    """The mapping that YAML of plain values is.

    Raises:
        ValueError: it is none; it holds an alias, a tag, or more levels than a configuration can.
    """
    level = number = 0
    try:
        for event in yaml.parse(text, _Loader):
            number += 1
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it holds the alias *{event.anchor}")
            if getattr(event, "tag", None) is not None:
                raise ValueError(f"it holds the tag {event.tag}")
            if number > _MOST_EVENTS:
                raise ValueError("it holds more than a configuration can")
            level += isinstance(event, yaml.CollectionStartEvent)
            level -= isinstance(event, yaml.CollectionEndEvent)
            if level > _MOST_LEVELS:
                raise ValueError(f"it is nested more than {_MOST_LEVELS} levels deep")
        told = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, LookupError) as error:
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ValueError(f"it is no YAML of plain values: {problem}") from None
    if not isinstance(told, dict):
        raise ValueError("it is no mapping")
    return told


_SECTIONS = (*MADE, "data", "decision", "foundation", "fit", "train", "evaluation")


@cache
def registered(kind: str) -> frozenset[str]:
    """What a run may name as its ``task``, ``model``, ``grad`` or ``program``, as ``module.name``."""
    if kind in MADE:
        texts = (path.read_text("utf-8") for path in (CONFIG_DIRECTORY / kind).glob("*.yaml"))
        return frozenset(target for target in map(target_of, texts) if target is not None)
    from diffusion_dfl import programs

    found = (getattr(programs, name) for name in programs.__all__)
    return frozenset(
        f"{one.__module__}.{one.__qualname__}"
        for one in found
        if isinstance(one, type) and issubclass(one, programs.Program)
    )


def check_named(
    file: Path, kind: str, target: object, trust: Path | None, also: Collection[str] = ()
) -> None:
    """Refuse a part that a run's file may not name; nothing is imported to see.

    Args:
        file: of the run.
        kind: ``task``, ``model``, ``grad``, ``program``, or a key where no part is expected.
        target: ``module.name``.
        trust: folder of code that may run.
        also: further targets that may.

    Raises:
        UserError: naming the file, the target and what allows it.
    """
    known = registered(kind) if kind in (*MADE, "program") else frozenset()
    if target in known or target in also:
        return
    if isinstance(target, str) and trust is not None and _is_inside(trust, target):
        return
    mend = "name its folder with --trust-code FOLDER if you trust it"
    if trust is not None:
        mend = f"--trust-code {trust} does not hold it"
    raise UserError(
        f"{file}: {printable(kind, 80)}={str(target)[:80]!r} is no {kind} of this package, and a run's files are data: "
        f"other code runs only from where you say; {mend}"
    )


def check_config(
    file: Path, config: dict[str, Any], trust: Path | None, also: Collection[str] = ()
) -> None:
    """Refuse a run's configuration that names what it may not, or that is to be resolved here.

    Raises:
        UserError: naming the file, the key and the mend.
    """
    missing = [name for name in _SECTIONS if not isinstance(config.get(name), dict)]
    missing += [name for name in ("seed", "threads") if type(config.get(name)) is not int]
    missing += [
        f"{group}.{key}"
        for group in MADE
        for key in ("name", "_target_")
        if group not in missing and not isinstance(config[group].get(key), str)
    ]
    if missing:
        raise UserError(
            f"{file} has no {missing[0]}, so it is no configuration of a run; repeat the run's command "
            "with force=true"
        )
    for path, value in _leaves(config):
        key = ".".join(path)
        if path[-1] == "_target_":
            kind = path[0] if len(path) == 2 else key
            check_named(file, kind, value, trust, also)
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{file}: {printable(key, 80)}={printable(value, 80)} would be resolved where it is read; "
                "a run's configuration holds values"
            )


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict | list) and path[-1:] != ("_target_",):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(key, str) and "${" in key:
                yield (*path, key), key
            yield from _leaves(item, (*path, str(key)))
    else:
        yield path, value


def _is_inside(folder: Path, target: str) -> bool:
    """Whether ``module.name`` is made in a file below a folder, which is then importable.

    The module is imported, which is what the folder is trusted for; what it imports itself is not.
    """
    module = target.rpartition(".")[0]
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module):
        return False
    place, path = folder.resolve(), Path(*module.split("."))
    if not any((place / one).is_file() for one in (path.with_suffix(".py"), path / "__init__.py")):
        return False
    if str(place) not in sys.path:
        sys.path.append(str(place))
    file = source_file(target)
    if file is None or not file.resolve().is_relative_to(place):
        return False
    found = getattr(locate("trust", module, target), "__module__", None)
    made = getattr(sys.modules.get(str(found)), "__file__", None)
    return made is not None and Path(made).resolve().is_relative_to(place)
