"""The scenarios of two-stage programs, batched, in closed form where their functions have one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jacrev

from diffusion_dfl.programs.batching import over_batch
from diffusion_dfl.programs.two_stage import ScenarioProblem
from diffusion_dfl.solvers.rows import take

# Numbers that an intermediate tensor of one chunk may hold.
_CHUNK = 2**23
# A function this close to its affine form, relative to its terms, is that form.
_SAME = 1e-10


@dataclass(frozen=True)
class Affine:
    """``offset + slope v``: ``(B, M, q)`` and ``(B|1, M|1, q, N)``."""

    offset: Tensor
    slope: Tensor

    @staticmethod
    def of(
        function: Callable[[Tensor, Tensor], Tensor], scenarios: Tensor, size: int
    ) -> "Affine | None":
        """The affine form in v of a function ``(y, v (size,)) -> (q,)``, or None if it has none."""
        flat = scenarios.flatten(0, 1)
        origin = flat.new_zeros(size)
        lead = scenarios.shape[:2]

        def at(v: Tensor) -> Tensor:
            chunk = max(1, _CHUNK // (size + flat.shape[1]))
            return over_batch(lambda y: function(y, v), flat, chunk=chunk)

        offset = at(origin)
        steps = torch.arange(1, size + 1, dtype=flat.dtype, device=flat.device)
        size_of = flat.abs().amax().nan_to_num(1.0, 1.0).clamp_min(1.0)
        generic = size_of * torch.cos(steps * steps)

        def slopes(rows: Tensor) -> Tensor:
            chunk = max(1, _CHUNK // max(1, offset.shape[1] * size))
            return over_batch(lambda y: jacrev(function, 1)(y, origin), rows, chunk=chunk)

        def holds(slope: Tensor) -> bool:
            for point in (generic, -3.0 * generic):
                expected = offset + (slope @ point)
                terms = offset.abs() + slope.abs() @ point.abs()
                if not bool(((at(point) - expected).abs() <= _SAME * terms).all()):
                    return False
            return True

        ends = slopes(flat[[0, -1]])
        if torch.equal(ends[0], ends[1]) and holds(ends[0]):
            return Affine(offset.view(*lead, -1), ends[0].view(1, 1, -1, size))
        slope = slopes(flat)
        if not holds(slope):
            return None
        return Affine(offset.view(*lead, -1), slope.view(*lead, -1, size))

    def select(self, rows: Tensor) -> "Affine":
        return Affine(self.offset[rows], take(self.slope, rows))

    def at(self, v: Tensor) -> Tensor:
        """``(B, M, N) -> (B, M, q)``."""
        return self.offset + push(self.slope, v)


def push(slope: Tensor, v: Tensor) -> Tensor:
    """``(B|1, M|1, q, N), (B, M, N) -> (B, M, q)``."""
    if slope.shape[:2] == (1, 1):
        return v @ slope[0, 0].T
    return (slope @ v.unsqueeze(-1)).squeeze(-1)


def pull(slope: Tensor, duals: Tensor) -> Tensor:
    """``slope' duals``: ``(B|1, M|1, q, N), (B, M, q) -> (B, M, N)``."""
    if slope.shape[:2] == (1, 1):
        return duals @ slope[0, 0]
    return (slope.transpose(2, 3) @ duals.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class Scenarios:
    """The scenarios' problems of a batch, with closed forms where their functions have them.

    Attributes:
        problem: of one scenario.
        outcomes: ``(B, M, d_y)``.
        slopes: the cost's gradient in v, if the cost is quadratic.
        rows: of the problem, but bounds, if they are affine.
        equalities: all of them.
        unit: of every row, its gradient's size, ``(B|1, 1, k)``.
    """

    problem: ScenarioProblem
    outcomes: Tensor
    slopes: Affine | None
    rows: Affine | None
    equalities: Affine
    unit: Tensor

    @staticmethod
    def of(problem: ScenarioProblem, outcomes: Tensor) -> "Scenarios":
        """Raises ValueError where the equalities are not affine."""
        size = problem.size + len(problem.lower)
        slopes = Affine.of(grad(problem.cost, argnums=1), outcomes, size)
        rows, unit, stated = None, outcomes.new_ones(1, 1, 0), problem.rows
        if stated is not None:
            rows = Affine.of(lambda y, v: torch.atleast_1d(stated(y, v)), outcomes, size)
            if rows is not None:
                norms = rows.slope.norm(dim=3).amax(1, keepdim=True)
            else:
                ones = outcomes.new_ones(size)
                jacobian = over_batch(
                    lambda y: jacrev(lambda v: torch.atleast_1d(stated(y, v)))(ones), outcomes[:, 0]
                )
                norms = jacobian.norm(dim=2).nan_to_num(1.0, 1.0).unsqueeze(1)
            # Of each instance by itself: a solution must not depend on what it was solved with.
            unit = torch.where(norms > 0, norms, 1.0)
            if rows is not None:
                rows = Affine(rows.offset / unit, rows.slope / unit.unsqueeze(3))
        equalities = Affine.of(problem.equality_values, outcomes, size)
        if equalities is None:
            raise ValueError("recourse: equality(y, z, u) is not affine in z and u; it must be")
        return Scenarios(problem, outcomes, slopes, rows, equalities, unit)

    def select(self, rows: Tensor) -> "Scenarios":
        return Scenarios(
            self.problem,
            self.outcomes[rows],
            None if self.slopes is None else self.slopes.select(rows),
            None if self.rows is None else self.rows.select(rows),
            self.equalities.select(rows),
            take(self.unit, rows),
        )

    @property
    def num_rows(self) -> int:
        return self.unit.shape[2]

    def original(self, duals: Tensor) -> Tensor:
        """Multipliers ``(B, M, k + b)`` of rows and bounds as they were given."""
        return duals / self.units(duals)

    def units(self, like: Tensor) -> Tensor:
        """Of rows and bounds, shaped like their multipliers."""
        own = self.unit.expand(*like.shape[:2], -1)
        return torch.cat([own, torch.ones_like(like[..., own.shape[2] :])], dim=2)

    def bounds(self, w: Tensor) -> Tensor:
        """Values of the bounds, ``(B, M, r) -> (B, M, b)``."""
        low, high = self.problem.bounded
        return torch.cat(
            [self.problem.lower[low] - w[..., low], w[..., high] - self.problem.upper[high]], dim=2
        )

    def bound_push(self, dw: Tensor) -> Tensor:
        """Change of the bounds' values along a direction."""
        low, high = self.problem.bounded
        return torch.cat([-dw[..., low], dw[..., high]], dim=2)

    def bound_pull(self, duals: Tensor, signed: bool = True) -> Tensor:
        """What multipliers of bounds add to the gradient in w; to a diagonal if not ``signed``."""
        low, high = self.problem.bounded
        every = duals.new_zeros(*duals.shape[:2], len(self.problem.lower))
        every = every.index_add(2, low, duals[..., : len(low)], alpha=-1.0 if signed else 1.0)
        return every.index_add(2, high, duals[..., len(low) :])

    def _every(self, function: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        """A function of one scenario over all of them."""
        flat = [part.flatten(0, 1) for part in (self.outcomes, *parts)]
        size = flat[1].shape[1]
        found = over_batch(function, *flat, chunk=max(1, _CHUNK // max(1, size * size)))
        return found.view(*self.outcomes.shape[:2], *found.shape[1:])

    def gradient(self, v: Tensor) -> Tensor:
        """Of the cost, ``(B, M, N)``."""
        if self.slopes is not None:
            return self.slopes.at(v)
        return self._every(grad(self.problem.cost, argnums=1), v)

    def row_values(self, v: Tensor) -> Tensor:
        """Of the rows but bounds, ``(B, M, k)``."""
        if self.rows is not None:
            return self.rows.at(v)
        return self._every(self._rows, v) / self.unit

    def row_slopes(self, v: Tensor) -> Tensor:
        """``(B|1, M|1, k, N)``."""
        if self.rows is not None:
            return self.rows.slope
        return self._every(jacrev(self._rows, 1), v) / self.unit.unsqueeze(3)

    def hessian(self, v: Tensor, duals: Tensor) -> Tensor:
        """Of the cost and of ``duals (B, M, k)`` times the rows, ``(B|1, M|1, N, N)``."""
        duals = duals / self.unit
        if self.slopes is not None and self.rows is not None:
            return self.slopes.slope
        if self.slopes is not None:
            bend = self._every(jacrev(grad(self._weighted_rows, 1), 1), v, duals)
            return self.slopes.slope + bend
        if self.rows is not None:
            return self._every(jacrev(grad(self.problem.cost, argnums=1), 1), v)

        def lagrangian(y: Tensor, point: Tensor, factors: Tensor) -> Tensor:
            return self.problem.cost(y, point) + self._weighted_rows(y, point, factors)

        return self._every(jacrev(grad(lagrangian, 1), 1), v, duals)

    def _rows(self, y: Tensor, v: Tensor) -> Tensor:
        if self.problem.rows is None:
            return v.new_zeros(0)
        return torch.atleast_1d(self.problem.rows(y, v))

    def _weighted_rows(self, y: Tensor, v: Tensor, duals: Tensor) -> Tensor:
        return (self._rows(y, v) * duals).sum()
