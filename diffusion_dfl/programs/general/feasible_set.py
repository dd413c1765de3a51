"""The constraints of a user's own problem, some of which depend on an instance's context."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_dfl.programs.batching import over_batch
from diffusion_dfl.programs.constraints import Constraints, SmoothConstraints
from diffusion_dfl.programs.general.trial import (
    Segments,
    TrialPoints,
    try_convex,
    try_function,
    try_kinks,
)
from diffusion_dfl.programs.numbers import Numbers, as_tensor
from diffusion_dfl.sizes import as_size

#: Numbers shared by all instances, or a function of an instance's context x ``(d_x,)``.
Limit = Numbers | Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FeasibleSet:
    """``lower <= z <= upper``, ``G z <= h(x)``, ``A z = b(x)``, ``c(x, z) <= 0``.

    The attributes are arguments of :class:`~diffusion_dfl.programs.general.TorchProgram`.
    """

    size: int
    matrix: Numbers | None = None
    limit: Limit | None = None
    lower: Limit | None = None
    upper: Limit | None = None
    equality_matrix: Numbers | None = None
    equality_value: Limit | None = None
    inequality: Callable[[Tensor | None, Tensor], Tensor] | None = None
    num_inequalities: int = 0

    _LIMITS: ClassVar[tuple[str, ...]] = ("limit", "lower", "upper", "equality_value")

    def __post_init__(self) -> None:
        for name in ("matrix", "equality_matrix", *self._LIMITS):
            value = getattr(self, name)
            if value is not None and not callable(value):
                object.__setattr__(self, name, as_tensor(name, value))
        for rows, right in (("matrix", "limit"), ("equality_matrix", "equality_value")):
            matrix, value = getattr(self, rows), getattr(self, right)
            if (matrix is None) != (value is None):
                raise ValueError(f"{rows} and {right} come together; one of them is missing")
            if matrix is None:
                continue
            if not isinstance(matrix, Tensor):
                raise TypeError(f"{rows} must be numbers (rows, {self.size}), no function")
            if matrix.dim() != 2 or matrix.shape[1] != self.size:
                raise ValueError(
                    f"{rows} has shape {tuple(matrix.shape)}; expected (rows, {self.size})"
                )
        for name in self._LIMITS:
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.shape not in (self._shape(name), (), (1,)):
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}; expected {tuple(self._shape(name))}, "
                    "or one number for all"
                )
        count = as_size("num_inequalities", self.num_inequalities, least=0)
        object.__setattr__(self, "num_inequalities", count)
        if self.inequality is not None and not callable(self.inequality):
            raise TypeError(f"inequality={self.inequality!r} is no function of (x, z)")
        if (self.inequality is None) != (self.num_inequalities == 0):
            raise ValueError(
                f"num_inequalities={self.num_inequalities} must be the number of values that "
                "`inequality` returns, and 0 without one"
            )

    @property
    def contextual(self) -> bool:
        """Whether any part may depend on the context."""
        limits = any(callable(getattr(self, name)) for name in self._LIMITS)
        return limits or self.inequality is not None

    def constraints(self, like: Tensor, context: Tensor | None) -> Constraints:
        """The set of a batch: ``context (B, d_x)`` or None.

        Raises:
            ValueError: no context where a limit depends on it, or a limit of the wrong shape.
        """
        smooth = None
        if self.inequality is not None:
            inequality = self.inequality

            def values(x: Tensor | None, z: Tensor) -> Tensor:
                return torch.atleast_1d(inequality(x, z))

            smooth = SmoothConstraints(values, self.num_inequalities, context)
        limit, lower, upper, equality_value = (
            self._value(name, like, context) for name in self._LIMITS
        )
        return Constraints.of(
            like,
            self.size,
            matrix=_tensor(self.matrix),
            limit=limit,
            lower=lower,
            upper=upper,
            equality_matrix=_tensor(self.equality_matrix),
            equality_value=equality_value,
            smooth=smooth,
        )

    def bounds(self, like: Tensor, context: Tensor | None) -> list[Tensor | None]:
        """Lower and upper bounds ``(n,)`` of one instance, the first, with a context; or None.

        To try functions between: a bound that is no number or leaves no decision is none here.
        """
        if context is None:
            names = [n for n in ("lower", "upper") if not callable(getattr(self, n))]
        else:
            names = ["lower", "upper"]
        found = {
            name: self._value(name, like, None if context is None else context[:1])
            for name in names
        }
        rows: list[Tensor | None] = []
        for name, none in (("lower", -torch.inf), ("upper", torch.inf)):
            row = found.get(name)
            if row is not None:
                row = row.reshape(-1, self.size)[0].detach()
                row = torch.where(row.isnan() | (row == -none), none, row)
            rows.append(row)
        return rows

    def try_inequality(
        self, points: TrialPoints, context: Tensor | None, bounds: list[Tensor | None]
    ) -> None:
        """Raise ``TypeError`` or ``ValueError`` if the inequality cannot be used."""
        if self.inequality is None:
            return
        inequality = self.inequality
        first = points.outcome
        if context is not None:
            rows = torch.arange(len(points.decision), device=context.device) % len(context)
            first = context[rows]

        def function(x: Tensor, z: Tensor) -> Tensor:
            return inequality(None if context is None else x, z)

        points = TrialPoints(first, points.decision)
        try:
            values = try_function("inequality(x, z)", function, points, in_first=False)
        except ValueError as error:
            if context is not None:
                raise
            raise ValueError(f"{error}. Was it called without the context it needs?") from error
        number = 1 if values.dim() == 1 else values.shape[1]
        if number != self.num_inequalities:
            raise ValueError(
                f"inequality(x, z) returned {number} values; num_inequalities="
                f"{self.num_inequalities}"
            )
        mend = (
            "z, so that inequality(x, z) <= 0 may not be a convex set; state it by convex functions"
        )
        try_convex("inequality(x, z)", function, points, mend)
        segments = Segments.of(first[:2], self.size, *bounds)
        try_kinks("inequality(x, z)", function, segments, "state each piece as a value of its own")

    def _value(self, name: str, like: Tensor, context: Tensor | None) -> Tensor | None:
        """A limit, ``(rows,)`` or, if it depends on the context, ``(B, rows)``."""
        value, shape = getattr(self, name), self._shape(name)
        if value is None:
            return None
        if not callable(value):
            return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(shape)
        if context is None:
            raise ValueError(f"{name} depends on the context; pass context=(B, d_x)")
        try:
            each = over_batch(value, context)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be taken as a function of one instance's context "
                f"{tuple(context.shape[1:])}, vectorised over instances: {error}"
            ) from error
        if each.shape[1:] not in (shape, (), (1,)):
            raise ValueError(
                f"{name} returned shape {tuple(each.shape[1:])}; expected {tuple(shape)}"
            )
        each = each.to(like.dtype)
        return each.reshape(len(context), math.prod(each.shape[1:])).expand(len(context), *shape)

    def _shape(self, name: str) -> torch.Size:
        rows = _tensor({"limit": self.matrix, "equality_value": self.equality_matrix}.get(name))
        return torch.Size([self.size if rows is None else rows.shape[0]])


def _tensor(value: Numbers | None) -> Tensor | None:
    """A part that :class:`FeasibleSet` has made a tensor."""
    assert value is None or isinstance(value, Tensor)
    return value
