"""Newton equations of two-stage programs, in arrow form.

With z of the first stage and w_m of scenario m, multipliers of a scenario being those of its own
problem, Newton's equations are

    [ H  + ...      B_m ...  ]     H    = sum_m omega_m H_zz,m + first stage
    [ omega_m B_m'  omega_m K_m ]  K_m  = [H_ww G_w' E_w'; G_w -S/L 0; E_w 0 0]

with slacks S and multipliers L of rows; bounds of w, and rows that hardly bind, are eliminated into H.
Blocks K_m are factored alone, and what is left is ``n x n``: ``H - sum_m omega_m B_m K_m^{-1} B_m'``.
Rows that bind stay in K_m: eliminating them would subtract what they add to H, up to rounding of their
weight.
"""

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import apply, transpose_apply
from diffusion_dfl.solvers.arrow import Arrow, Point
from diffusion_dfl.solvers.factor import Factor
from diffusion_dfl.solvers.rows import gather_true
from diffusion_dfl.solvers.scenarios import pull, push

# Share of its size that is added to a block, so that what is decided by nothing keeps still.
_RIDGE = 1e-13
_REFINEMENTS = 2
# A row binds whose multiplier is that many times its slack, in units of the problem.
_BINDING = 1e4
#: z, multipliers of the first stage's equalities, w, multipliers of rows and of equalities.
_Parts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


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
