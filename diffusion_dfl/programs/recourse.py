"""What is decided in every scenario of a two-stage program, and its optimality conditions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.programs.integers import continuous_class
from diffusion_dfl.programs.numbers import Numbers, as_tensor
from diffusion_dfl.sizes import as_size

#: Of one scenario and its recourse: ``(y (d_y,), z (n,), u (r,))``, and the context ``x (d_x,)`` if it
#: takes four arguments.
ScenarioFunction = Callable[..., Tensor]

# The bound that is none.
_NONE = {"lower": "-inf", "upper": "inf"}


@continuous_class
@dataclass(frozen=True, eq=False)
class Recourse:
    """What is decided once an outcome is known, in every scenario anew.

    Attributes:
        num_decisions: r.
        smooth: q, ``(y (d_y,), z (n,), u (r,)) -> scalar``, convex and twice differentiable in (z, u); a
            kink is a decision of its own with an inequality for each piece. None for no cost.
        inequality: g, ``(y, z, u) -> (k,)``, <= 0, convex and twice differentiable in (z, u).
        equality: e, ``(y, z, u) -> (p,)``, = 0, affine in (z, u).
        lower, upper: of u, a number or ``(r,)``; entries may be infinite.

    All functions may take the context x as a fourth argument.

    Raises:
        TypeError, ValueError: parts that do not fit each other; ``integer``, ``boolean`` or ``binary``:
            recourse is continuous too.
    """

    num_decisions: int
    smooth: ScenarioFunction | None = None
    inequality: ScenarioFunction | None = None
    equality: ScenarioFunction | None = None
    lower: Numbers | None = None
    upper: Numbers | None = None

    def __post_init__(self) -> None:
        size = as_size("recourse: num_decisions", self.num_decisions)
        object.__setattr__(self, "num_decisions", size)
        for name in ("smooth", "inequality", "equality"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"recourse: {name}={value!r} is no function of (y, z, u)")
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if value is None:
                continue
            if callable(value):
                raise TypeError(
                    f"recourse: {name} is a function; it must be numbers: state a bound that depends "
                    "on the scenario or the context in inequality="
                )
            bound = as_tensor(f"recourse: {name}", value)
            if bound.shape not in ((), (1,), (self.num_decisions,)):
                raise ValueError(
                    f"recourse: {name} has shape {tuple(bound.shape)}; expected "
                    f"({self.num_decisions},) or one number for all"
                )
            if bool(bound.isnan().any()):
                row = int(torch.atleast_1d(bound).isnan().nonzero()[0])
                raise ValueError(
                    f"recourse: {name} is NaN at entry {row}; pass a number, {_NONE[name]} for no bound"
                )
            object.__setattr__(self, name, bound)
        low, high = self.bounds(torch.zeros((), dtype=torch.float64))
        if bool((low > high).any()):
            row = int((low > high).nonzero()[0])
            raise ValueError(
                f"recourse: lower is above upper at entry {row}, {float(low[row]):g} > "
                f"{float(high[row]):g}, so that no decision is possible"
            )

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper, ``(r,)`` each, infinite where there is none."""
        free = like.new_full((self.num_decisions,), torch.inf)
        low, high = (
            other if bound is None else as_tensor("bound", bound).to(like).expand_as(free)
            for bound, other in ((self.lower, -free), (self.upper, free))
        )
        return low, high


@dataclass(frozen=True, eq=False)
class ScenarioProblem:
    """The problem of one scenario in ``v = (z, w)``, w being all that is decided in the scenario.

    Attributes:
        size: n, of z.
        cost: ``(y, v) -> scalar``.
        rows: ``(y, v) -> (k,)``, <= 0; None if there are none.
        equalities: ``(y, v) -> (p,)``, affine in v; None if there are none.
        lower, upper: of w, ``(r,)``, infinite where there is none.
    """

    size: int
    cost: Callable[[Tensor, Tensor], Tensor]
    rows: Callable[[Tensor, Tensor], Tensor] | None
    equalities: Callable[[Tensor, Tensor], Tensor] | None
    lower: Tensor
    upper: Tensor

    def given(self, size: int) -> "ScenarioProblem":
        """Of outcomes ``(y (size,), z)`` in w alone, the first stage being decided."""

        def moved(function: Callable[[Tensor, Tensor], Tensor]) -> Any:
            return lambda both, w: function(both[:size], torch.cat([both[size:], w]))

        return ScenarioProblem(
            0,
            moved(self.cost),
            None if self.rows is None else moved(self.rows),
            None if self.equalities is None else moved(self.equalities),
            self.lower,
            self.upper,
        )

    @cached_property
    def bounded(self) -> tuple[Tensor, Tensor]:
        """Indices of w with a lower and with an upper bound, those with one value left out."""
        apart = self.lower < self.upper
        low = torch.nonzero(self.lower.isfinite() & apart).flatten()
        return low, torch.nonzero(self.upper.isfinite() & apart).flatten()

    @cached_property
    def fixed(self) -> Tensor:
        """Indices of w whose bounds are equal."""
        return torch.nonzero(self.lower == self.upper).flatten()

    def inequality_values(self, y: Tensor, v: Tensor) -> Tensor:
        """All of the scenario's inequalities, rows before lower and upper bounds: ``(k,)``."""
        w = v[self.size :]
        low, high = self.bounded
        parts = [] if self.rows is None else [torch.atleast_1d(self.rows(y, v))]
        return torch.cat([*parts, self.lower[low] - w[low], w[high] - self.upper[high]])

    def equality_values(self, y: Tensor, v: Tensor) -> Tensor:
        """All of the scenario's equalities: ``(p,)``."""
        held = v[self.size :][self.fixed] - self.lower[self.fixed]
        parts = [] if self.equalities is None else [torch.atleast_1d(self.equalities(y, v))]
        return torch.cat([*parts, held])

    def lagrangian(self, y: Tensor, v: Tensor, duals: Tensor, equality_duals: Tensor) -> Tensor:
        """``cost + duals' inequalities + equality_duals' equalities``, a scalar."""
        value = self.cost(y, v) + (duals * self.inequality_values(y, v)).sum()
        return value + (equality_duals * self.equality_values(y, v)).sum()


@dataclass(frozen=True, eq=False)
class Conditions:
    """Optimality conditions of two-stage programs: gradient of the Lagrangian in z ``(B, n)`` and in w
    ``(B, M, r)``, values of the scenarios' inequalities and equalities ``(B, M, k)``, ``(B, M, p)``."""

    in_z: Tensor
    in_w: Tensor
    inequalities: Tensor
    equalities: Tensor
