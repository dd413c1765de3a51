"""Constraints of a decision problem: bounds, affine rows, equalities and smooth convex functions.

    lower <= z <= upper,   G z <= h,   A z = b,   c(x, z) <= 0        (paper, Appendix A)

One object holds them for a batch; multipliers of the inequalities are stored in one tensor, in the
order of :meth:`Constraints.inequality_values`: rows of G, lower bounds, upper bounds, smooth ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacrev

from diffusion_dfl.programs.batching import over_batch
from diffusion_dfl.programs.degrees import quadratic


@dataclass(frozen=True)
class SmoothConstraints:
    """Convex functions ``c(x, z) <= 0``, differentiated by torch.func.

    Attributes:
        function: ``(context (d_x,) or None, z (n,)) -> (q,)``, for one instance.
        size: q.
        context: ``(B, d_x)``, or None if the functions do not depend on it.
    """

    function: Callable[[Tensor | None, Tensor], Tensor]
    size: int
    context: Tensor | None = None

    def select(self, rows: Tensor) -> "SmoothConstraints":
        """The instances ``rows`` of the batch."""
        context = None if self.context is None else self.context[rows]
        return SmoothConstraints(self.function, self.size, context)

    def values(self, z: Tensor) -> Tensor:
        """``(B, n) -> (B, q)``."""
        return self._over_batch(self.function, z)

    def jacobian(self, z: Tensor) -> Tensor:
        """``(B, n) -> (B, q, n)``."""
        return self._over_batch(jacrev(self.function, argnums=1), z)

    def hessian(self, z: Tensor, multipliers: Tensor) -> Tensor:
        """``sum_q multiplier_q hess_zz c_q``: ``(B, n), (B, q) -> (B, n, n)``."""

        def weighted(context: Tensor | None, point: Tensor, factor: Tensor) -> Tensor:
            return (factor * self.function(context, point)).sum()

        second = jacrev(grad(weighted, argnums=1), argnums=1)
        if self.context is None:
            return over_batch(lambda point, factor: second(None, point, factor), z, multipliers)
        return over_batch(second, self.context, z, multipliers)

    def bends(self, z: Tensor) -> Tensor:
        """Largest second derivative of every function: ``(B, n) -> (B, q)``."""
        index = torch.arange(len(z), device=z.device).repeat_interleave(self.size)
        eye = torch.eye(self.size, dtype=z.dtype, device=z.device).repeat(len(z), 1)
        found = self.select(index).hessian(z[index], eye)
        return found.abs().amax((1, 2)).view(len(z), self.size)

    def quadratic(self, z: Tensor) -> bool:
        """Whether the functions are proved to be quadratic in z, by what they compute at one ``(n,)``."""
        if self.context is None:
            return quadratic(lambda _, z: self.function(None, z), z, z)
        return quadratic(self.function, self.context[0].to(z.dtype), z)

    def _over_batch(self, function: Callable[..., Tensor], z: Tensor) -> Tensor:
        if self.context is None:
            return over_batch(lambda point: function(None, point), z)
        return over_batch(function, self.context, z)


# Numbers that the closed form of quadratic constraints may hold.
_NUMBERS = 2**23


@dataclass(frozen=True)
class QuadraticConstraints(SmoothConstraints):
    """Functions ``d' Q d / 2 + l' d + k`` of ``d = z - origin``: values and derivatives are products.

    A set far from 0 is no difference of large numbers where its origin is near it.

    Attributes:
        bend, slope, value: Q ``(B|1, q, n, n)``, l ``(B|1, q, n)`` and k ``(B|1, q)``.
        origin: ``(B|1, n)``.
    """

    bend: Tensor = field(kw_only=True)
    slope: Tensor = field(kw_only=True)
    value: Tensor = field(kw_only=True)
    origin: Tensor = field(kw_only=True)

    @staticmethod
    def of(given: SmoothConstraints, z: Tensor) -> SmoothConstraints:
        """The closed form of functions that are proved to be quadratic in z, others as they were given.

        Args:
            z: decisions ``(B, n)`` near the set.
        """
        batch, size = z.shape
        count = 1 if given.context is None else batch
        if isinstance(given, QuadraticConstraints) or count * given.size * size**2 > _NUMBERS:
            return given
        if not batch or not given.quadratic(z[0]):
            return given
        origin = z[:count]
        eye = torch.eye(given.size, dtype=z.dtype, device=z.device)
        value, slope = given.values(origin), given.jacobian(origin)
        bend = torch.stack([given.hessian(origin, row.expand(count, -1)) for row in eye], dim=1)
        if not bool(value.isfinite().all() & slope.isfinite().all() & bend.isfinite().all()):
            return given
        parts = {"bend": bend, "slope": slope, "value": value, "origin": origin}
        return QuadraticConstraints(given.function, given.size, given.context, **parts)

    def select(self, rows: Tensor) -> "QuadraticConstraints":
        """The instances ``rows`` of the batch."""
        context = None if self.context is None else self.context[rows]
        parts = {name: getattr(self, name) for name in ("bend", "slope", "value", "origin")}
        chosen = {
            n: part if len(part) == 1 and self.context is None else part[rows]
            for n, part in parts.items()
        }
        return QuadraticConstraints(self.function, self.size, context, **chosen)

    def values(self, z: Tensor) -> Tensor:
        """``(B, n) -> (B, q)``."""
        way = z - self.origin
        return self.value + ((self.slope + 0.5 * self._bent(way)) * way.unsqueeze(1)).sum(2)

    def jacobian(self, z: Tensor) -> Tensor:
        """``(B, n) -> (B, q, n)``."""
        return self.slope + self._bent(z - self.origin)

    def hessian(self, z: Tensor, multipliers: Tensor) -> Tensor:
        """``sum_q multiplier_q Q_q``: ``(B, n), (B, q) -> (B, n, n)``."""
        return (multipliers.unsqueeze(2).unsqueeze(3) * self.bend).sum(1)

    def bends(self, z: Tensor) -> Tensor:
        """``(B, q)``, the same for all z."""
        return self.bend.abs().amax((2, 3)).expand(len(z), -1)

    def _bent(self, way: Tensor) -> Tensor:
        return (self.bend @ way.unsqueeze(1).unsqueeze(3)).squeeze(3)


class RowCounts(NamedTuple):
    """How many inequalities there are of each kind, in the order multipliers are stored."""

    affine: int
    lower: int
    upper: int
    smooth: int


@dataclass(frozen=True)
class Constraints:
    """Feasible set of a batch of instances.

    The leading dimension of every tensor is B, or 1 where all instances share it. Bounds are None
    or finite on every coordinate that has one; ``-inf`` and ``inf`` mean no bound.

    Attributes:
        matrix, limit: ``G (B|1, m, n)`` and ``h (B|1, m)``; m may be 0. ``h`` may hold ``inf``.
        lower, upper: ``(B|1, n)`` or None.
        equality_matrix, equality_value: ``A (B|1, p, n)`` and ``b (B|1, p)``; p may be 0.
        smooth: the functions c, or None.
    """

    matrix: Tensor
    limit: Tensor
    lower: Tensor | None
    upper: Tensor | None
    equality_matrix: Tensor
    equality_value: Tensor
    smooth: SmoothConstraints | None = None

    @staticmethod
    def of(
        like: Tensor,
        size: int,
        matrix: Tensor | None = None,
        limit: Tensor | None = None,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
        equality_matrix: Tensor | None = None,
        equality_value: Tensor | None = None,
        smooth: SmoothConstraints | None = None,
    ) -> "Constraints":
        """Constraints from the parts that exist, shared by all instances or batched.

        Args:
            like: tensor whose dtype and device the parts take.
            size: n.
            matrix, limit: ``(m, n)``, ``(m,)`` or with a leading B.
            lower, upper: ``(n,)`` or ``(B, n)``.
            equality_matrix, equality_value: ``(p, n)``, ``(p,)`` or with a leading B.
            smooth: see :class:`SmoothConstraints`.
        """

        def batched(value: Tensor | None, dimensions: int, empty: tuple[int, ...]) -> Tensor:
            if value is None:
                return like.new_zeros(1, *empty)
            value = value.to(dtype=like.dtype, device=like.device)
            return value.unsqueeze(0) if value.dim() < dimensions else value

        return Constraints(
            matrix=batched(matrix, 3, (0, size)),
            limit=batched(limit, 2, (0,)),
            lower=None if lower is None else batched(lower, 2, (size,)),
            upper=None if upper is None else batched(upper, 2, (size,)),
            equality_matrix=batched(equality_matrix, 3, (0, size)),
            equality_value=batched(equality_value, 2, (0,)),
            smooth=smooth,
        )

    @property
    def counts(self) -> RowCounts:
        """Number of affine rows, lower bounds, upper bounds and smooth constraints."""
        size = self.matrix.shape[2]
        return RowCounts(
            affine=self.matrix.shape[1],
            lower=0 if self.lower is None else size,
            upper=0 if self.upper is None else size,
            smooth=0 if self.smooth is None else self.smooth.size,
        )

    @property
    def stated(self) -> Tensor:
        """Whether every limit is a number, and that of every equality finite: ``(B|1,)`` bool."""
        known = self.matrix.isfinite().all(2).all(1) & ~self.limit.isnan().any(1)
        known = known & self.equality_matrix.isfinite().all(2).all(1)
        known = known & self.equality_value.isfinite().all(1)
        for bound in (self.lower, self.upper):
            if bound is not None:
                known = known & ~bound.isnan().any(1)
        return known

    @property
    def impossible(self) -> Tensor:
        """Whether an infinite limit leaves no decision, as ``G z <= -inf``: ``(B|1,)`` bool."""
        empty = (self.limit == -torch.inf).any(1)
        if self.lower is not None:
            empty = empty | (self.lower == torch.inf).any(1)
        if self.upper is not None:
            empty = empty | (self.upper == -torch.inf).any(1)
        return empty

    def select(self, rows: Tensor) -> "Constraints":
        """The instances ``rows`` of the batch."""

        def part(value: Tensor) -> Tensor:
            return value if value.shape[0] == 1 else value[rows]

        return Constraints(
            matrix=part(self.matrix),
            limit=part(self.limit),
            lower=None if self.lower is None else part(self.lower),
            upper=None if self.upper is None else part(self.upper),
            equality_matrix=part(self.equality_matrix),
            equality_value=part(self.equality_value),
            smooth=None if self.smooth is None else self.smooth.select(rows),
        )

    def inequality_values(self, z: Tensor) -> Tensor:
        """``G z - h``, ``lower - z``, ``z - upper``, ``c(x, z)``, all <= 0 if feasible: ``(B, q)``."""
        parts = [apply(self.matrix, z) - self.limit] if self.matrix.shape[1] else [z[:, :0]]
        if self.lower is not None:
            parts.append(self.lower - z)
        if self.upper is not None:
            parts.append(z - self.upper)
        if self.smooth is not None:
            parts.append(self.smooth.values(z))
        return torch.cat(parts, dim=1)

    def inequality_jacobian(self, z: Tensor) -> Tensor:
        """Derivative of :meth:`inequality_values` in z: ``(B, q, n)``."""
        batch, size = z.shape
        eye = torch.eye(size, dtype=z.dtype, device=z.device).expand(batch, size, size)
        parts = [self.matrix.expand(batch, -1, -1)]
        if self.lower is not None:
            parts.append(-eye)
        if self.upper is not None:
            parts.append(eye)
        if self.smooth is not None:
            parts.append(self.smooth.jacobian(z))
        return torch.cat(parts, dim=1)

    def inequality_force(self, z: Tensor, duals: Tensor) -> Tensor:
        """``sum_q dual_q grad_z`` of the inequalities: ``(B, n), (B, q) -> (B, n)``."""
        affine, lower, upper, smooth = duals.split(list(self.counts), dim=1)
        force = transpose_apply(self.matrix, affine)
        if self.lower is not None:
            force = force - lower
        if self.upper is not None:
            force = force + upper
        if self.smooth is not None:
            force = force + transpose_apply(self.smooth.jacobian(z), smooth)
        return force

    def equality_residual(self, z: Tensor) -> Tensor:
        """``A z - b``: ``(B, n) -> (B, p)``."""
        if not self.equality_matrix.shape[1]:
            return z[:, :0]
        return apply(self.equality_matrix, z) - self.equality_value


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """``(B|1, m, n), (B, n) -> (B, m)``; one product where all instances share the matrix."""
    if not matrix.shape[1]:
        return vector.new_zeros(len(vector), 0)
    if matrix.shape[0] == 1:
        return vector @ matrix[0].T
    return (matrix @ vector.unsqueeze(2)).squeeze(2)


def transpose_apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """``(B|1, m, n), (B, m) -> (B, n)``; one product where all instances share the matrix."""
    if not matrix.shape[1]:
        return vector.new_zeros(len(vector), matrix.shape[2])
    if matrix.shape[0] == 1:
        return vector @ matrix[0]
    return (vector.unsqueeze(1) @ matrix).squeeze(1)
