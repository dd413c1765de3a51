"""Integer programs, which are not solved here, refused by name wherever one is stated."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

_KEYWORDS = ("integer", "boolean", "binary")
_MEND = (
    "integer programs are not solved here. State the relaxation, lower=0. and upper=1. for a choice, "
    "with regularise=Regulariser(...) on its layer (docs/decision_layer.md), or take PyEPO, which is "
    "made for them"
)


def continuous(state: Callable[P, R]) -> Callable[P, R]:
    """What states a program, refusing ``integer=``, ``boolean=`` and ``binary=`` with a TypeError."""

    @wraps(state)
    def checked(*arguments: P.args, **options: P.kwargs) -> R:
        for name in _KEYWORDS:
            if name in options:
                raise TypeError(f"{name}={options[name]!r}: {_MEND}")
        return state(*arguments, **options)

    return checked


def continuous_class(stated: C) -> C:
    """:func:`continuous` for a dataclass, whose ``__init__`` is written by its decorator."""
    stated.__init__ = continuous(stated.__init__)  # type: ignore[misc]
    return stated


def refuse_integers(problem: Any) -> None:
    """Raise ValueError for a cvxpy problem with integer variables."""
    if problem.is_mixed_integer():
        names = ", ".join(
            variable.name()
            for variable in problem.variables()
            if variable.attributes["integer"] or variable.attributes["boolean"]
        )
        raise ValueError(f"the problem has integer variables ({names}): {_MEND}")
