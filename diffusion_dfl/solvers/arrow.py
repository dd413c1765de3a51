"""Two-stage programs as one problem in arrow form, and its Newton equations.

With z of the first stage and w_m of scenario m, multipliers of a scenario being those of its own
problem, Newton's equations are

    [ H  + ...      B_m ...  ]     H    = sum_m omega_m H_zz,m + first stage
    [ omega_m B_m'  omega_m K_m ]  K_m  = [H_ww G_w' E_w'; G_w -S/L 0; E_w 0 0]

with slacks S and multipliers L of rows; bounds of w, and rows that hardly bind, are eliminated into H.
Blocks K_m are factored alone, and what is left is ``n x n``: ``H - sum_m omega_m B_m K_m^{-1} B_m'``.
Rows that bind stay in K_m: eliminating them would subtract what they add to H, up to rounding of their
weight.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.func import grad, jacrev

from diffusion_dfl.programs.batching import over_batch
from diffusion_dfl.programs.constraints import Constraints, apply, transpose_apply
from diffusion_dfl.programs.two_stage import ScenarioProblem
from diffusion_dfl.solvers.newton_system import Factor
from diffusion_dfl.solvers.rows import Rows, gather_true, largest, take

# Numbers that an intermediate tensor of one chunk may hold.
_CHUNK = 2**23
# A function this close to its affine form, relative to its terms, is that form.
_SAME = 1e-10
# Share of its size that is added to a block, so that what is decided by nothing keeps still.
_RIDGE = 1e-13
_REFINEMENTS = 2
# A row binds whose multiplier is that many times its slack, in units of the problem.
_BINDING = 1e4

#: z, multipliers of the first stage's equalities, w, multipliers of rows and of equalities.
_Parts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


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


@dataclass(frozen=True)
class Arrow:
    """A batch of two-stage programs with unit gradients of their rows.

    ``first`` are the constraints of z, ``weights (B, M)``; ``length`` and ``slope (B,)`` are magnitudes
    of decisions and of the cost.
    """

    scenarios: Scenarios
    first: Rows
    weights: Tensor
    length: Tensor
    slope: Tensor

    def select(self, rows: Tensor) -> "Arrow":
        return Arrow(
            self.scenarios.select(rows),
            self.first.select(rows),
            self.weights[rows],
            self.length[rows],
            self.slope[rows],
        )

    @property
    def constraints(self) -> Constraints:
        return self.first.constraints

    def joined(self, z: Tensor, w: Tensor) -> Tensor:
        """``(B, n), (B, M, r) -> (B, M, N)``."""
        return torch.cat([z.unsqueeze(1).expand(-1, w.shape[1], -1), w], dim=2)

    def first_values(self, z: Tensor) -> Tensor:
        """Inequalities of the first stage in their units, -1 where there is none: ``(B, q)``."""
        values = self.constraints.inequality_values(z)
        count = self.constraints.counts.smooth
        if count:
            smooth = values[:, -count:] / self.first.unit[:, -count:]
            values = torch.cat([values[:, :-count], smooth], dim=1)
        return torch.where(self.first.present, values, -1.0)

    def first_slopes(self, z: Tensor) -> Tensor | None:
        """Of the smooth constraints in their units, ``(B, q, n)``."""
        smooth = self.constraints.smooth
        if smooth is None:
            return None
        return smooth.jacobian(z) / self.first.unit[:, -smooth.size :].unsqueeze(-1)

    def first_push(self, slopes: Tensor | None, dz: Tensor) -> Tensor:
        """Change of :meth:`first_values` along a direction."""
        rows = self.constraints
        parts = [apply(rows.matrix, dz)]
        if rows.lower is not None:
            parts.append(-dz)
        if rows.upper is not None:
            parts.append(dz)
        if slopes is not None:
            parts.append(apply(slopes, dz))
        return torch.where(self.first.present, torch.cat(parts, dim=1), 0.0)

    def first_pull(self, slopes: Tensor | None, duals: Tensor) -> Tensor:
        """``J' duals``: ``(B, q) -> (B, n)``."""
        rows = self.constraints
        affine, lower, upper, smooth = duals.split(list(rows.counts), dim=1)
        total = transpose_apply(rows.matrix, affine)
        if rows.lower is not None:
            total = total - lower
        if rows.upper is not None:
            total = total + upper
        return total if slopes is None else total + transpose_apply(slopes, smooth)

    def first_gram(self, slopes: Tensor | None, weight: Tensor) -> Tensor:
        """``J' diag(weight) J``: ``(B, q) -> (B, n, n)``."""
        rows = self.constraints
        affine, lower, upper, smooth = weight.split(list(rows.counts), dim=1)
        total = rows.matrix.transpose(1, 2) @ (rows.matrix * affine.unsqueeze(-1))
        for bound, part in ((rows.lower, lower), (rows.upper, upper)):
            if bound is not None:
                total = total + torch.diag_embed(part)
        if slopes is not None:
            total = total + slopes.transpose(1, 2) @ (slopes * smooth.unsqueeze(-1))
        return total


@dataclass
class Point:
    """Decisions with slacks and multipliers, or a direction of them.

    z ``(B, n)``, ``first_*`` of its constraints ``(B, q)``, ``(B, p)``; w ``(B, M, r)``, ``slack`` and
    ``dual`` of the scenarios' rows and bounds ``(B, M, k + b)``, ``nu`` of their equalities.
    """

    z: Tensor
    first_slack: Tensor
    first_dual: Tensor
    first_nu: Tensor
    w: Tensor
    slack: Tensor
    dual: Tensor
    nu: Tensor

    def select(self, rows: Tensor) -> "Point":
        return Point(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def write(self, rows: Tensor, other: "Point") -> None:
        """Put another one in the instances ``rows``, in place."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(other, f.name)

    def replaced(self, rows: Tensor, other: "Point") -> "Point":
        """This one with the instances ``rows`` taken from another."""
        made = Point(**{f.name: getattr(self, f.name).clone() for f in fields(self)})
        made.write(rows, other)
        return made

    def moved(self, direction: "Point", length: Tensor) -> "Point":
        return Point(
            **{
                f.name: (
                    value + length.view(-1, *[1] * (value.dim() - 1)) * getattr(direction, f.name)
                )
                for f in fields(self)
                for value in [getattr(self, f.name)]
            }
        )


class NewtonEquations:
    """The equations at a point, factored once for several right sides."""

    def __init__(self, arrow: Arrow, point: Point):
        self._arrow = arrow
        scenarios, n = arrow.scenarios, point.z.shape[1]
        v = arrow.joined(point.z, point.w)
        self._count, self._size = scenarios.num_rows, n
        self._rows, self._equalities = scenarios.row_slopes(v), scenarios.equalities.slope
        self._hessian = scenarios.hessian(v, point.dual[..., : self._count])
        ratio = point.dual / point.slack
        self._row_weight, self._bound_weight = ratio[..., : self._count], ratio[..., self._count :]
        unit = arrow.slope / arrow.length
        diagonal = scenarios.bound_pull(self._bound_weight, signed=False)
        self._diagonal = diagonal + _RIDGE * unit.view(-1, 1, 1)
        self._blocks = _Blocks(
            self._hessian, self._diagonal, self._rows, self._row_weight, self._equalities, n, unit
        )
        weights = arrow.weights.view(*arrow.weights.shape, 1, 1)
        self._curved = (weights * self._hessian[..., :n, :n]).sum(1)
        self._first_slopes = arrow.first_slopes(point.z)
        present = arrow.first.present
        self._first_weight = torch.where(present, point.first_dual / point.first_slack, 0.0)
        top = arrow.first_gram(self._first_slopes, self._first_weight)
        smooth = arrow.constraints.smooth
        if smooth is not None:
            own = arrow.first.unit[:, -smooth.size :]
            top = top + smooth.hessian(point.z, point.first_dual[:, -smooth.size :] / own)
        self._first_bend = top
        self._matrix = arrow.constraints.equality_matrix
        schur = top + (weights * self._blocks.schur).sum(1)
        size = 1e-2 * unit
        if n:
            size = torch.maximum(size, self._curved.diagonal(dim1=1, dim2=2).abs().amax(1))
        self._factor = Factor(0.5 * (schur + schur.transpose(1, 2)), self._matrix, size)

    def solve(
        self, in_z: Tensor, in_first_nu: Tensor, in_w: Tensor, in_rows: Tensor, in_nu: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """z, first_nu, w, duals of rows and nu, for right sides of their equations.

        What is eliminated, first-stage inequalities and bounds of w, must be in the right sides. Refined:
        where a scenario holds z, as at a kink, its block alone is next to singular.
        """
        right = (in_z, in_first_nu, in_w, in_rows, in_nu)
        found = self._solve(*right)
        for _ in range(_REFINEMENTS):
            a, b, c, d, e = self._solve(*self._rest(right, found))
            found = (found[0] + a, found[1] + b, found[2] + c, found[3] + d, found[4] + e)
        return found

    def _solve(
        self, in_z: Tensor, in_first_nu: Tensor, in_w: Tensor, in_rows: Tensor, in_nu: Tensor
    ) -> _Parts:
        w, duals, nu = self._blocks.solve(in_w, in_rows, in_nu)
        if not self._size:
            return in_z, in_first_nu, w, duals, nu
        pulled = self._pulled(w, duals, nu)
        z, first_nu = self._factor.solve(in_z - pulled, in_first_nu)
        every = self._over_scenarios(z)
        of_w, of_duals, of_nu = (push(part, every) for part in self._blocks.eliminated)
        return z, first_nu, w - of_w, duals - of_duals, nu - of_nu

    def _rest(self, right: _Parts, found: _Parts) -> _Parts:
        """What a solution leaves of the right sides."""
        in_z, in_first_nu, in_w, in_rows, in_nu = right
        z, first_nu, w, duals, nu = found
        v = self._arrow.joined(z, w)
        in_v = push(self._hessian, v) + pull(self._rows, duals) + pull(self._equalities, nu)
        of_z = (self._arrow.weights.unsqueeze(2) * in_v[..., : self._size]).sum(1)
        of_z = of_z + torch.einsum("bij,bj->bi", self._first_bend, z)
        return (
            in_z - of_z - transpose_apply(self._matrix, first_nu),
            in_first_nu - apply(self._matrix, z),
            in_w - in_v[..., self._size :] - self._diagonal * w,
            in_rows - push(self._rows, v) + duals / self._row_weight,
            in_nu - push(self._equalities, v),
        )

    def _pulled(self, w: Tensor, duals: Tensor, nu: Tensor) -> Tensor:
        """``sum_m omega_m B_m (w, duals, nu)_m``: ``(B, n)``."""
        n = self._size
        total = push(self._hessian[..., :n, n:], w) + pull(self._rows[..., :n], duals)
        total = total + pull(self._equalities[..., :n], nu)
        return (self._arrow.weights.unsqueeze(2) * total).sum(1)

    def _over_scenarios(self, z: Tensor) -> Tensor:
        return z.unsqueeze(1).expand(-1, self._arrow.weights.shape[1], -1)

    def pushes(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Change of first-stage inequalities and of the scenarios' rows and bounds."""
        first = self._arrow.first_push(self._first_slopes, z)
        rows = push(self._rows, self._arrow.joined(z, w))
        return first, torch.cat([rows, self._arrow.scenarios.bound_push(w)], dim=2)

    def first_pull(self, duals: Tensor) -> Tensor:
        """``J' duals`` of the first stage, ``(B, n)``."""
        return self._arrow.first_pull(self._first_slopes, duals)

    @property
    def first_weight(self) -> Tensor:
        """Multiplier over slack of the first stage, ``(B, q)``."""
        return self._first_weight

    @property
    def bound_weight(self) -> Tensor:
        """The same of bounds of w, ``(B, M, b)``."""
        return self._bound_weight


class _Blocks:
    """Blocks ``K_m``, factored by LU; rows that hardly bind are eliminated into ``H_ww``.

    ``schur (B, M, n, n)`` is what a scenario adds to the matrix of z, and ``eliminated`` are w, multipliers
    of rows and of equalities that answer to a step of z, ``(B, M, r|k|p, n)``.
    """

    def __init__(
        self,
        hessian: Tensor,
        diagonal: Tensor,
        rows: Tensor,
        weight: Tensor,
        equalities: Tensor,
        n: int,
        unit: Tensor,
    ):
        lead, r, p = diagonal.shape[:2], diagonal.shape[2], equalities.shape[2]
        self._rows, self._n = rows, n
        binding = weight > _BINDING * unit.view(-1, 1, 1)
        self._weight = torch.where(binding, 0.0, weight)
        order, mask = gather_true(binding.flatten(0, 1))
        self._order, self._mask = order.view(*lead, -1), mask.view(*lead, -1)
        held = self._order.shape[2]
        self._sizes = [r, held, p]
        size = hessian.shape[2]
        bent = (hessian + _weighted_gram(rows, self._weight)).expand(*lead, size, size)
        kept = self._gathered(rows) * self._mask.unsqueeze(3)
        system = diagonal.new_zeros(*lead, r + held + p, r + held + p)
        system[..., :r, :r] = bent[..., n:, n:]
        system[..., :r, :r].diagonal(dim1=2, dim2=3).add_(diagonal)
        system[..., r : r + held, :r] = kept[..., n:]
        system[..., :r, r : r + held] = kept[..., n:].transpose(2, 3)
        system[..., r + held :, :r] = equalities[..., n:]
        system[..., :r, r + held :] = equalities[..., n:].transpose(2, 3)
        softness = torch.where(self._mask, 1.0 / weight.gather(2, self._order), 1.0)
        tail = system.diagonal(dim1=2, dim2=3)
        tail[..., r : r + held] = -softness
        # Twice: a large diagonal must not hide the rows that it does not concern.
        scale = torch.ones_like(system[..., 0])
        for _ in range(2):
            seen = (system * scale.unsqueeze(3) * scale.unsqueeze(2)).abs().amax(3)
            scale = scale * torch.where(seen > 0, seen, 1.0).rsqrt()
        self._scale = scale.unsqueeze(3)
        system = system * scale.unsqueeze(3) * scale.unsqueeze(2)
        # Redundant equalities.
        system.diagonal(dim1=2, dim2=3)[..., r + held :] -= _RIDGE
        self._factors = torch.linalg.lu_factor_ex(system)[:2]
        parts = (bent[..., n:, :n], kept[..., :n], equalities[..., :n].expand(*lead, -1, -1))
        border = torch.cat(parts, dim=2)
        found = self._lu_solve(border)
        self.schur = bent[..., :n, :n] - border.transpose(2, 3) @ found
        w, own, nu = found.split(self._sizes, dim=2)
        moved = rows[..., n:] @ w - rows[..., :n]
        self.eliminated = (w, self._with_binding(self._weight.unsqueeze(3) * moved, own), nu)

    def solve(self, in_w: Tensor, in_rows: Tensor, in_nu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``K_m^{-1}`` of right sides ``(B, M, r|k|p)``."""
        rows = self._rows[..., self._n :]
        shifted = in_w + pull(rows, self._weight * in_rows)
        held = in_rows.gather(2, self._order) * self._mask
        right = torch.cat([shifted, held, in_nu], dim=2).unsqueeze(3)
        w, own, nu = self._lu_solve(right).split(self._sizes, dim=2)
        w, nu = w.squeeze(3), nu.squeeze(3)
        duals = self._weight * (push(rows, w) - in_rows)
        return w, self._with_binding(duals.unsqueeze(3), own).squeeze(3), nu

    def _gathered(self, rows: Tensor) -> Tensor:
        if rows.shape[:2] == (1, 1):
            return rows[0, 0][self._order]
        return rows.gather(2, self._order.unsqueeze(3).expand(-1, -1, -1, rows.shape[3]))

    def _with_binding(self, duals: Tensor, own: Tensor) -> Tensor:
        index = self._order.unsqueeze(3).expand(-1, -1, -1, own.shape[3])
        return duals.scatter_add(2, index, own * self._mask.unsqueeze(3))

    def _lu_solve(self, right: Tensor) -> Tensor:
        return self._scale * torch.linalg.lu_solve(*self._factors, self._scale * right)


def _weighted_gram(rows: Tensor, weight: Tensor) -> Tensor:
    """``G' diag(weight) G``: ``(B|1, M|1, k, N), (B, M, k) -> (B, M, N, N)``."""
    if rows.shape[:2] != (1, 1):
        return rows.transpose(2, 3) @ (rows * weight.unsqueeze(3))
    own = rows[0, 0]
    outer = (own.unsqueeze(2) * own.unsqueeze(1)).flatten(1)
    return (weight @ outer).unflatten(2, (own.shape[1], own.shape[1]))


def residual(arrow: Arrow, point: Point) -> tuple[Tensor, ...]:
    """Stationarity in z and w, and values with slacks: of the first stage, its equalities, the
    scenarios' rows and bounds, and their equalities."""
    scenarios = arrow.scenarios
    v = arrow.joined(point.z, point.w)
    count, n = scenarios.num_rows, point.z.shape[1]
    in_v = scenarios.gradient(v) + pull(scenarios.row_slopes(v), point.dual[..., :count])
    in_v = in_v + pull(scenarios.equalities.slope, point.nu)
    in_w = in_v[..., n:] + scenarios.bound_pull(point.dual[..., count:])
    in_z = torch.einsum("bm,bmn->bn", arrow.weights, in_v[..., :n])
    in_z = in_z + arrow.first_pull(arrow.first_slopes(point.z), point.first_dual)
    in_z = in_z + transpose_apply(arrow.constraints.equality_matrix, point.first_nu)
    first = torch.where(arrow.first.present, arrow.first_values(point.z) + point.first_slack, 0.0)
    values = torch.cat([scenarios.row_values(v), scenarios.bounds(point.w)], dim=2)
    return (
        in_z,
        in_w,
        first,
        arrow.constraints.equality_residual(point.z),
        values + point.slack,
        scenarios.equalities.at(v),
    )


def stationarity_terms(arrow: Arrow, point: Point) -> tuple[Tensor, Tensor]:
    """What the gradients of the Lagrangian in z and w are sums of, without signs."""
    scenarios, v = arrow.scenarios, arrow.joined(point.z, point.w).abs()
    count, n = scenarios.num_rows, point.z.shape[1]
    if scenarios.slopes is not None:
        terms = scenarios.slopes.offset.abs() + push(scenarios.slopes.slope.abs(), v)
    else:
        terms = scenarios.gradient(arrow.joined(point.z, point.w)).abs()
        terms = terms + arrow.slope.view(-1, 1, 1)
    slopes = scenarios.row_slopes(arrow.joined(point.z, point.w)).abs()
    terms = terms + pull(slopes, point.dual[..., :count])
    terms = terms + pull(scenarios.equalities.slope.abs(), point.nu.abs())
    in_w = terms[..., n:] + scenarios.bound_pull(point.dual[..., count:], signed=False)
    in_z = torch.einsum("bm,bmn->bn", arrow.weights, terms[..., :n])
    rows = arrow.constraints
    affine, lower, upper, smooth = point.first_dual.split(list(rows.counts), dim=1)
    in_z = in_z + transpose_apply(rows.matrix.abs(), affine)
    in_z = in_z + transpose_apply(rows.equality_matrix.abs(), point.first_nu.abs())
    for bound, part in ((rows.lower, lower), (rows.upper, upper)):
        if bound is not None:
            in_z = in_z + part
    first = arrow.first_slopes(point.z)
    if first is not None:
        in_z = in_z + transpose_apply(first.abs(), smooth)
    return in_z, in_w


def size_of(parts: tuple[Tensor, ...]) -> Tensor:
    """Largest entry of several tensors, ``(B,)``."""
    return torch.stack([largest(part) for part in parts]).amax(0)
