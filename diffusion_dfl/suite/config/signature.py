"""What a ``_target_`` takes: names, types, defaults and meanings, read from its source as text.

A component's constructor owns its knobs, and a dataclass whose instance is the default of an argument
(``sampling: Sampling = Sampling()``) owns its own, which stand in the place of that argument; schemas, help
and docs/config.md come from here. Nothing is imported, so neither help nor an error waits for torch.
"""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffusion_dfl.suite.places import PACKAGE

#: Of a knob without a default.
REQUIRED = object()

_PLAIN: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class Knob:
    """An argument of a component.

    Attributes:
        name: of the argument, and of the key.
        kind: its type as the configuration has it: a name of a set of names is a ``str``.
        default: :data:`REQUIRED` for one that must be given.
        meaning: the first sentence that the docstring says of it; empty if it says nothing.
    """

    name: str
    kind: Any
    default: Any
    meaning: str


@cache
def knobs(target: str) -> dict[str, Knob]:
    """The arguments of a class or function of this package, by name.

    Args:
        target: ``diffusion_dfl.predictors.GaussianPredictor``.

    Raises:
        LookupError: there is none of that name.
    """
    module, _, name = target.rpartition(".")
    node, where = _definition(module, name)
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, ast.get_docstring(node) or "", where)
    return _of_class(node, where)


def attributes(target: str) -> dict[str, Any]:
    """Plain values of a class's attributes, those of its bases in this package among them."""
    module, _, name = target.rpartition(".")
    node, where = _definition(module, name)
    found: dict[str, Any] = {}
    if not isinstance(node, ast.ClassDef):
        return found
    for base in node.bases:
        if isinstance(base, ast.Name):
            with suppress(LookupError):
                parent_module = _definition(where, base.id)[1]
                found.update(attributes(f"{parent_module}.{base.id}"))
    for part in node.body:
        if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
            with suppress(ValueError):
                found[part.targets[0].id] = ast.literal_eval(part.value)
    return found


def constant(module: str, name: str) -> dict[str, Any]:
    """The keywords that a constant of a module is made from: ``FIT = TrainingSettings(epochs=200)``."""
    for node in _parsed(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            assert isinstance(node.value, ast.Call)
            return {str(word.arg): _value(word.value, module) for word in node.value.keywords}
    raise LookupError(f"{module} has no {name}")


def _of_class(node: ast.ClassDef, module: str) -> dict[str, Knob]:
    said = ast.get_docstring(node) or ""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _of_function(part, said + "\n\n" + (ast.get_docstring(part) or ""), module)
    if _is_dataclass(node):
        return _of_fields(node, said, module)
    for base in node.bases:
        if isinstance(base, ast.Name):
            try:
                parent, where = _definition(module, base.id)
            except LookupError:
                continue
            if isinstance(parent, ast.ClassDef):
                found = _of_class(parent, where)
                if found:
                    return found
    return {}


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(item) for item in node.decorator_list)


def _of_fields(node: ast.ClassDef, said: str, module: str) -> dict[str, Knob]:
    meanings = dict(_meanings(said))
    found = {}
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            name = part.target.id
            default = REQUIRED if part.value is None else _value(part.value, module)
            found[name] = Knob(name, _kind(part.annotation), default, meanings.get(name, ""))
    return found


def _of_function(node: ast.FunctionDef, said: str, module: str) -> dict[str, Knob]:
    meanings = dict(_meanings(said))
    given = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(given) - len(node.args.defaults))
    pairs = list(zip(given, [*defaults, *node.args.defaults], strict=True))
    pairs += list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
    found = {}
    for argument, default in pairs:
        if argument.arg == "self":
            continue
        settings = _settings(default, module)
        if settings:
            found.update(settings)
            continue
        value = REQUIRED if default is None else _value(default, module)
        kind = str if argument.annotation is None else _kind(argument.annotation)
        found[argument.arg] = Knob(argument.arg, kind, value, meanings.get(argument.arg, ""))
    return found


def _settings(default: ast.expr | None, module: str) -> dict[str, Knob]:
    """The knobs of the dataclass of this package that a default is made from; none of another."""
    if not (isinstance(default, ast.Call) and isinstance(default.func, ast.Name)):
        return {}
    with suppress(LookupError):
        node, where = _definition(module, default.func.id)
        if isinstance(node, ast.ClassDef) and _is_dataclass(node):
            return _of_class(node, where)
    return {}


def _value(node: ast.expr, module: str) -> Any:
    """A literal, or a constant of the module or of one that it imports it from."""
    if isinstance(node, ast.Name):
        return _named(node.id, module)
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return REQUIRED
    return list(value) if isinstance(value, tuple) else value


def _named(name: str, module: str) -> Any:
    for node in _parsed(module).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(one, ast.Name) and one.id == name for one in targets):
            assert isinstance(node, ast.Assign)
            return _value(node.value, module)
        if isinstance(node, ast.ImportFrom) and node.module:
            for item in node.names:
                if (item.asname or item.name) == name:
                    return _named(item.name, node.module)
    return REQUIRED


def _kind(node: ast.expr) -> Any:
    """The type of a key; what is neither plain nor a list is one of several names."""
    if isinstance(node, ast.BinOp):  # X | None
        parts = [part for part in (node.left, node.right) if ast.unparse(part) != "None"]
        kind = _kind(parts[0])
        return kind | None if len(parts) == 1 else kind
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("list", "tuple", "Sequence"):
        inner = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
        return list[_kind(inner)]  # type: ignore[misc]
    return _PLAIN.get(ast.unparse(node), str)


def _meanings(said: str) -> Iterator[tuple[str, str]]:
    """``name: text`` of the sections ``Args`` and ``Attributes``; several names share one text."""
    for section in re.findall(
        r"^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", said, re.MULTILINE | re.DOTALL
    ):
        entry = re.compile(r"^ {4}(\w[\w, ]*):\s*(.*?)(?=^ {4}\w|\Z)", re.MULTILINE | re.DOTALL)
        for names, text in entry.findall(section):
            plain = re.sub(r":\w+:`[~.]?(?:[\w.]+\.)?(\w+)`", r"\1", " ".join(text.split()))
            plain = plain.replace("``", "")
            meaning = re.split(r"(?<=[^.]\.)\s(?=[A-Z(])", plain)[0].rstrip(".")
            for name in names.split(","):
                yield name.strip(), meaning


def _definition(module: str, name: str) -> tuple[ast.ClassDef | ast.FunctionDef, str]:
    """A definition by its name in a module, which may only import it; and the module it is in."""
    for node in _parsed(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, module
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for item in node.names:
                if (item.asname or item.name) == name:
                    return _definition(node.module, item.name)
    raise LookupError(f"{module} has no {name}")


@cache
def _parsed(module: str) -> ast.Module:
    root, *parts = module.split(".")
    if root != PACKAGE.name:
        raise LookupError(f"{module} is not of this package")
    path: Path = PACKAGE.joinpath(*parts)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LookupError(f"there is no module {module}") from None
