"""A user's own tasks, models and grads: YAML files of theirs that name functions and classes of theirs.

    python train.py --config-dir my_conf task=my_task

A ``_target_`` that is not of this package is looked for in the working directory too. Its keys are the
arguments it takes: no schema knows them, so its signature does. The digest of its file is part of what
a run is, so that neither a result nor a fit outlives the code that made it.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.places import PACKAGE

GROUPS = ("task", "model", "grad")
_PACKAGE = "diffusion_dfl."

#: Key under which a node's code digest is kept in a run's config.yaml.
CODE = "_code_"


def is_own(target: object) -> bool:
    """Whether a ``_target_`` is the user's, not of this package."""
    return isinstance(target, str) and not target.startswith(_PACKAGE)


def look_in_working_directory() -> None:
    """Let modules of the working directory be imported, after everything that is installed."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def source_file(target: str) -> Path | None:
    """The file of the module in ``module.name``; None where there is none to read.

    Nothing of the last module is executed.
    """
    look_in_working_directory()
    parts = target.split(".")
    for size in range(len(parts) - 1, 0, -1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:size]))
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            return Path(spec.origin)
    return None


def locate(group: str, name: str, target: str) -> Callable[..., Any]:
    """The function or class of a ``_target_``.

    Raises:
        UserError: there is none, or its module cannot be imported.
    """
    from hydra.utils import get_method, get_object

    look_in_working_directory()
    module = target.rpartition(".")[0]
    if not module:
        raise UserError(
            f"{group}._target_={target}: expected module.name, as in my_module.{target}"
        )
    if is_own(target) and source_file(target) is None:
        raise UserError(
            f"{group}._target_={target}: {group}={name} needs the module {module}, which is neither "
            "installed nor in the working directory; run the command from the folder of "
            f"{module.partition('.')[0]}.py, or add that folder to PYTHONPATH"
        )
    try:
        found = get_object(target)
        return found if isinstance(found, type) else get_method(target)
    except Exception as error:
        reason = error.__cause__ or error
        raise UserError(f"{group}._target_={target}: {cause(reason)}") from error


def check_keys(
    group: str, name: str, node: Mapping[str, Any], supplied: Collection[str]
) -> Callable[..., Any]:
    """The target of a node whose keys are arguments it takes.

    Args:
        group, name: as on the command line.
        node: its keys.
        supplied: arguments that are passed beside the keys of the node.

    Raises:
        UserError: a key it does not take, with the nearest that it does, or one that is missing.
    """
    target = str(node["_target_"])
    make = locate(group, name, target)
    parameters = _parameters(make)
    if parameters is None:
        return make
    kinds = {parameter.kind for parameter in parameters.values()}
    arguments = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    takes = [key for argument in arguments.values() for key in _names(argument)]
    own = [key for key in node if key not in ("name", "_target_", CODE)]
    free = [key for key in takes if key not in supplied]
    for key in own:
        if key in supplied:
            raise UserError(
                f"{group}.{key}={node[key]}: {target} is given {key} by the run; leave it out of "
                f"{group}={name}"
            )
        known = key in takes or key in arguments
        if not known and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise UserError(
                f"{group}.{key}={node[key]}: {target} takes no {key}; {_nearest(key, free)}"
            )
    for key, argument in arguments.items():
        if argument.default is argument.empty and key not in supplied and key not in own:
            raise UserError(
                f"{group}.{key} is missing: {target} needs it; write {key}: VALUE into the YAML of "
                f"{group}={name}"
            )
    return make


def with_settings(make: Callable[..., Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from flat keys: those of a dataclass whose instance is a default are one of these.

    ``{"width": 8, "eta": 0.5}`` of a class that takes ``sampling=Sampling()`` is
    ``{"width": 8, "sampling": Sampling(eta=0.5)}``.

    Raises:
        ValueError: whatever a dataclass refuses.
    """
    found, parameters = dict(keys), _parameters(make) or {}
    for name, parameter in parameters.items():
        own = [key for key in _names(parameter) if key in found and key not in parameters]
        if own and name not in keys:
            found[name] = replace(parameter.default, **{key: found.pop(key) for key in own})
    return found


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """What a callable takes; None for built-in ones, which judge for themselves."""
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):
        return None


def _names(parameter: inspect.Parameter) -> list[str]:
    """The keys of an argument: its name, or the fields of the dataclass that its default is of."""
    default = parameter.default
    if is_dataclass(default) and not isinstance(default, type):
        return [field.name for field in fields(default) if field.init]
    return [parameter.name]


def _nearest(wrong: str, names: Sequence[str]) -> str:
    near = get_close_matches(wrong, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}It takes: {', '.join(names) or 'nothing'}"


def check_names(nodes: Mapping[str, Any], choices: Mapping[str, str]) -> None:
    """Refuse an own file whose ``name`` is not its own, or that has no ``_target_``.

    Args:
        nodes: group -> its composed node.
        choices: group -> name of the file it comes from.

    Raises:
        UserError: results would stand under another name, or there is nothing to make.
    """
    for group in GROUPS:
        node, chosen = nodes[group], choices.get(group)
        if not isinstance(node, Mapping) and not hasattr(node, "keys"):
            raise UserError(f"{group}={chosen}: its YAML has no keys; it needs name and _target_")
        for key in ("name", "_target_"):
            if key not in node:
                mend = f"name: {chosen}" if key == "name" else "_target_: my_module.my_function"
                raise UserError(f"{group}={chosen}: its YAML has no {key}; add `{mend}`")
        if chosen is not None and node["name"] != chosen:
            raise UserError(
                f"{group}={chosen}: its YAML says name: {node['name']}, under which its results "
                f"would stand; make both the same, as in `name: {chosen}`"
            )


def refuse_missing(directory: Path) -> None:
    """Refuse a folder of the user's that is not there.

    Raises:
        UserError: naming it.
    """
    if not directory.is_dir():
        raise UserError(
            f"--config-dir {directory}: there is no such folder here; name the one that holds your task/, "
            "model/, grad/ or preset/"
        )


def refuse_hidden(directory: Path, ours: Path) -> None:
    """Refuse a folder of the user's whose file has the name of one of ours, which would be taken.

    Raises:
        UserError: naming both.
    """
    for path in sorted(directory.rglob("*.yaml")):
        relative = path.relative_to(directory)
        if (ours / relative).exists():
            raise UserError(
                f"--config-dir {directory}: {relative.as_posix()} has the name of a file of this "
                f"project, which would be taken in its place; rename it (conf/{relative.as_posix()} "
                "can be changed key by key on the command line)"
            )


def cause(error: BaseException) -> str:
    """What went wrong in a user's code: the message, the kind if it is no message, and the line."""
    text = str(error).strip()
    if not isinstance(error, UserError | ValueError | TypeError) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    trace, place = error.__traceback__, ""
    installed = str(PACKAGE)
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((installed, sys.prefix, sys.base_prefix, "<")):
            place = f" ({Path(file).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return text + place
