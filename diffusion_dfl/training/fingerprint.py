"""What a value is, as a digest that is the same in every process: programs, predictors, functions.

A function is its code: instructions, constants, names, defaults, and the values that it takes from
its closure and its module. An object is its class and its attributes; a class of the user's own is
its methods too. What an installed package or the standard library defines is its name.
"""

import dis
import enum
import functools
import hashlib
import logging
import sys
import types
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_dfl.errors import UserError

_PLAIN = (int, float, complex, str, bytes)
_NAMED = (
    types.NoneType,
    types.EllipsisType,
    types.NotImplementedType,
    torch.dtype,
    torch.device,
    torch.layout,
    np.dtype,
    range,
    slice,
    Path,
)
# Compared by value, and whether two of them are one object is the interpreter's affair.
_VALUES = (tuple, frozenset, types.CodeType, Tensor, np.ndarray)
_BUILTIN = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    np.ufunc,
)
# Of a class or an instance, what says nothing about numbers.
_SILENT = {
    "__abstractmethods__",
    "__annotations__",
    "__dataclass_fields__",
    "__dataclass_params__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__match_args__",
    "__module__",
    "__orig_bases__",
    "__parameters__",
    "__weakref__",
    "_abc_impl",
}
# A module's own book-keeping: hooks, and whether it is in training mode.
_MODULE = set(vars(nn.Module())) - {"_parameters", "_buffers", "_modules"}


def fingerprint(**values: Any) -> str:
    """SHA-256 of values by name, in hexadecimal.

    Attributes that a class lists in ``_CACHES`` are left out: they follow from the others.

    Raises:
        UserError: a value that cannot be told from another one in another process.
    """
    digest = _Digest()
    for name, value in values.items():
        digest.add(name, value)
    return digest.state.hexdigest()


class _Digest:
    """A hash under way; values met before are told by their number."""

    def __init__(self) -> None:
        self.state = hashlib.sha256()
        # The values themselves are kept, so that no identity is used twice.
        self.met: dict[int, tuple[int, Any]] = {}

    def add(self, where: str, value: Any) -> None:
        """Add a value; ``where`` names it in messages."""
        words = _words(value)
        if words is None and id(value) in self.met:
            words = ("met", self.met[id(value)][0])
        if words is not None:
            self._say(*words)
            return
        if not isinstance(value, _VALUES):
            self.met[id(value)] = len(self.met), value
        if isinstance(value, Tensor | np.ndarray):
            self._array(where, value)
        elif isinstance(value, Mapping):
            self._say("mapping", len(value))
            for key in sorted(value, key=str):
                self.add(f"key of {where}", key)
                self.add(f"{where}[{key!r}]", value[key])
        elif isinstance(value, list | tuple):
            self._say(type(value).__name__, len(value))
            for number, item in enumerate(value):
                self.add(f"{where}[{number}]", item)
        elif isinstance(value, Set):
            self._say("set", *sorted(fingerprint(**{where: item}) for item in value))
        elif isinstance(value, type):
            self._class(where, value)
        else:
            self._called_or_object(where, value)

    def _say(self, *words: object) -> None:
        self.state.update(repr(words).encode())

    def _array(self, where: str, value: Any) -> None:
        if isinstance(value, Tensor):
            if value.layout != torch.strided:
                raise _refused(where, value)
            plain = value.detach().cpu().contiguous()
            self._say("tensor", str(plain.dtype), tuple(plain.shape))
            self.state.update(plain.flatten().view(torch.uint8).numpy().tobytes())
            return
        if value.dtype.hasobject:
            raise _refused(where, value)
        self._say("array", str(value.dtype), value.shape)
        self.state.update(value.tobytes())

    def _called_or_object(self, where: str, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._function(where, value)
        elif isinstance(value, types.CodeType):
            self._code(where, value)
        elif isinstance(value, types.MethodType):
            self.add(where, value.__func__)
            self.add(f"{where}.__self__", value.__self__)
        elif isinstance(value, functools.partial):
            self._say("partial")
            self.add(f"{where}.func", value.func)
            self.add(f"{where}.args", value.args)
            self.add(f"{where}.keywords", value.keywords)
        elif isinstance(value, property):
            self.add(where, (value.fget, value.fset))
        elif isinstance(value, staticmethod | classmethod):
            self.add(where, value.__func__)
        elif isinstance(value, functools.cached_property):
            self.add(where, value.func)
        elif isinstance(value, _BUILTIN):
            owner = getattr(value, "__self__", None)
            self._say("builtin", getattr(value, "__qualname__", value.__name__))
            if not isinstance(owner, types.ModuleType | types.NoneType):
                self.add(f"{where}.__self__", owner)
        elif _named_by_library(value):
            self._say("library", value.__module__, value.__name__)
        else:
            self._object(where, value)

    def _function(self, where: str, function: types.FunctionType) -> None:
        if _named_by_library(function):
            self._say("library", function.__module__, function.__qualname__)
            return
        self._code(where, function.__code__)
        self.add(f"defaults of {where}", function.__defaults__)
        self.add(f"defaults of {where}", function.__kwdefaults__)
        self.add(f"attributes of {where}", dict(vars(function)))
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                content = cell.cell_contents
            except ValueError:  # Not bound yet.
                self._say("empty", name)
                continue
            self.add(f"{name} in {where}", content)
        for name in _globals(function.__code__):
            if name in function.__globals__:
                self._say("global", name)
                self.add(f"{name} in {where}", function.__globals__[name])

    def _code(self, where: str, code: types.CodeType) -> None:
        self._say("code", code.co_code, code.co_names, code.co_freevars, code.co_argcount)
        self.add(f"constants of {where}", code.co_consts)

    def _class(self, where: str, kind: type) -> None:
        self._say("class", kind.__module__, kind.__qualname__)
        if _of_library(kind.__module__):
            return
        for base in kind.__bases__:
            self.add(where, base)
        for name, value in sorted(vars(kind).items()):
            if name not in _SILENT:
                self.add(f"{kind.__qualname__}.{name}", value)

    def _object(self, where: str, value: Any) -> None:
        kind = type(value)
        if not hasattr(value, "__dict__") or isinstance(value, torch.Generator):
            raise _refused(where, value)
        self.add(f"the class of {where}", kind)
        left = {*_SILENT, *getattr(kind, "_CACHES", ())}
        if isinstance(value, nn.Module):
            left |= _MODULE
        for name, attribute in sorted(vars(value).items()):
            cached = isinstance(getattr(kind, name, None), functools.cached_property)
            if name not in left and not cached:
                self._say("attribute", name)
                self.add(f"{where}.{name}", attribute)


def _words(value: Any) -> tuple[object, ...] | None:
    """A value that words tell in full; None for others."""
    if isinstance(value, enum.Enum):
        return type(value).__qualname__, value.name
    if isinstance(value, np.generic):
        return str(value.dtype), repr(value.item())
    for kind in _PLAIN:
        if isinstance(value, kind):
            return type(value).__qualname__, kind.__repr__(value)
    if isinstance(value, _NAMED):
        return type(value).__name__, repr(value)
    if isinstance(value, types.ModuleType):
        return "module", value.__name__
    return ("logger",) if isinstance(value, logging.Logger) else None


def _refused(where: str, value: Any) -> UserError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return UserError(
        f"directory=: cannot tell whether a checkpoint is of this problem: {where} is a {kind}, which "
        "has no value to compare in another process; make it a number, a string, a tensor, a function "
        "or an object of these, or leave out directory="
    )


def _globals(code: types.CodeType) -> list[str]:
    """Names that code, and the functions within it, take from their module."""
    found = {
        str(step.argval)
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.update(_globals(constant))
    return sorted(found)


def _named_by_library(value: Any) -> bool:
    """Whether a function is what its name says in a module that is not the user's."""
    name = getattr(value, "__qualname__", getattr(value, "__name__", None))
    module = getattr(value, "__module__", None)
    if not (isinstance(name, str) and isinstance(module, str) and _of_library(module)):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


@functools.cache
def _of_library(module: str) -> bool:
    """Whether a module is of this package, the standard library or an installed package."""
    root = module.partition(".")[0]
    if root == "diffusion_dfl" or (root in sys.stdlib_module_names and root != "__main__"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)
