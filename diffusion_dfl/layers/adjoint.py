"""One adjoint solve an instance: ``[H R'; R 0] [u; v] = [dL/dz; 0]`` over the rows that bind.

The rows R are the gradients of everything that holds the decision: equalities, inequalities with a
positive multiplier, and hinges whose kink the decision sits on. H is the Hessian of the Lagrangian.
Degenerate instances are found here, counted, and follow one rule each (:class:`Degeneracy`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_dfl.programs import Constraints, Hinges
from diffusion_dfl.programs.program import block
from diffusion_dfl.solvers import Solution
from diffusion_dfl.solvers.rows import gather_true

# A multiplier below this share of the cost's slopes is rounding.
_WEAK = 1e-10
# A slack below this share of the decision's magnitude is rounding of an iterative solver.
_TIGHT = 1e-8
# A KKT matrix with unit rows whose inverse is larger than this has no inverse in float64.
_SINGULAR = 1e11


@dataclass(frozen=True)
class Degeneracy:
    """Where z* has no ordinary derivative; ``(B,)`` bool each, with the rule that is applied.

    Attributes:
        vertex: as many constraints bind as there are decisions. The derivative is 0.
        rank_deficient: rows that depend on one another, or a cost without curvature along the
            feasible directions. The solution of least norm (after scaling to a unit diagonal).
        weak: a constraint is tight with multiplier 0, or a decision touches a kink that does not
            hold it. It counts as slack: the derivative into the feasible side.
    """

    vertex: Tensor
    rank_deficient: Tensor
    weak: Tensor

    @property
    def any(self) -> Tensor:
        """``(B,)``."""
        return self.vertex | self.rank_deficient | self.weak


@dataclass(frozen=True)
class Adjoint:
    """Solution of the adjoint system.

    Attributes:
        direction: u, ``(B, n)``.
        kink_multipliers: v of the kinks that hold the decision, ``(B, M, K)``; None without kinks.
        degeneracy: which instances are degenerate.
        rows, equalities: v of the inequalities but bounds, affine before smooth, ``(B, m + q)``, and of
            the equalities ``(B, p)``; None for a separable program.
    """

    direction: Tensor
    kink_multipliers: Tensor | None
    degeneracy: Degeneracy
    rows: Tensor | None = None
    equalities: Tensor | None = None


@dataclass(frozen=True)
class _Binding:
    """What holds the decision: masks over inequality rows and equalities, and weakly tight ones."""

    affine: Tensor
    fixed: Tensor
    smooth: Tensor
    weak: Tensor


def solve_adjoint(
    solution: Solution,
    weights: Tensor,
    constraints: Constraints,
    hessian: Tensor | Callable[[Tensor], Tensor],
    hinges: Hinges | None,
    held: Tensor,
    right: Tensor,
) -> Adjoint:
    """Solve the adjoint system of every instance.

    Args:
        solution, weights, constraints: what was solved; unsolved instances hold finite stand-ins.
        hessian: of the cost: its diagonal ``(B, n)`` for a separable program, else the function
            that gives its block ``(B, k, k)`` on the free coordinates ``(B, k)``.
        hinges: the exact kinks, or None.
        held: kinks that hold the decision, ``(B, M, K)`` bool; K may be 0.
        right: dL/dz, ``(B, n)``; 0 for unsolved instances.
    """
    binding = _binding(solution, weights, constraints)
    if isinstance(hessian, Tensor):
        return _separable(constraints, binding, hessian, held, right)
    return _dense(solution, constraints, binding, hessian, hinges, held, right)


def _binding(solution: Solution, weights: Tensor, constraints: Constraints) -> _Binding:
    z, duals = solution.decision, solution.duals
    # A mean: scenarios without weight may have slopes of any size.
    slopes = torch.einsum("bm,bmn->bn", weights, solution.subgradients.abs())
    slopes = slopes.amax(1, keepdim=True).clamp_min(1e-300)
    values = constraints.inequality_values(z)
    # Multipliers and slacks in the units of the decision: rows of any norm are alike.
    strong = (duals > _WEAK * slopes) & solution.solved.unsqueeze(1)
    length = z.abs().amax(1, keepdim=True).clamp_min(1e-300)
    tight = (values >= -_TIGHT * length) & solution.solved.unsqueeze(1)
    affine, lower, upper, smooth = strong.split(list(constraints.counts), dim=1)
    matrix, limit = constraints.matrix, constraints.limit
    if matrix.shape[1]:
        # Rise and fall of a ramp of 0 make one equality, which binds whatever its multipliers.
        first, second = opposite_pairs(matrix, limit)
        affine = (affine | first) & ~second
        tight[:, : matrix.shape[1]] &= ~(first | second)
    fixed = torch.zeros_like(z, dtype=torch.bool)
    if constraints.lower is not None:
        fixed = fixed | lower
    if constraints.upper is not None:
        fixed = fixed | upper
    if constraints.lower is not None and constraints.upper is not None:
        fixed = fixed | (constraints.lower == constraints.upper)
    return _Binding(affine, fixed, smooth, (tight & ~strong).any(1))


def opposite_pairs(matrix: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``g z <= h`` and ``-g z <= -h`` that make an equality: masks ``(B|1, m)`` of both."""
    # Either may be one for the whole batch.
    count = max(matrix.shape[0], limit.shape[0])
    sides = limit.expand(count, -1).unsqueeze(2)
    values = torch.cat([matrix.expand(count, -1, -1), sides], dim=2)
    size = values.shape[1]
    opposite = (values.unsqueeze(1) == -values.unsqueeze(2)).all(3)
    order = torch.arange(size, device=matrix.device)
    later = opposite & (order.view(1, -1, 1) > order.view(1, 1, -1))
    second = later.any(2)
    first = later.any(1) & ~second
    return first, second


def _separable(
    constraints: Constraints, binding: _Binding, hessian: Tensor, held: Tensor, right: Tensor
) -> Adjoint:
    """Diagonal Hessian: a coordinate is fixed by its bound, held by its kink, or free."""
    at_kink = held.any(1) & ~binding.fixed
    flat = hessian <= 0
    inverse = torch.where(flat, 0.0, 1.0 / torch.where(flat, 1.0, hessian))
    inverse = torch.where(at_kink | binding.fixed, 0.0, inverse)
    residual = torch.where(binding.fixed, 0.0, right)
    rows = torch.cat([constraints.matrix, constraints.equality_matrix], dim=1)
    mask = _with_equalities(binding.affine, constraints)
    deficient = (flat & ~at_kink & ~binding.fixed).any(1)
    chosen = torch.nonzero(mask.any(1)).flatten()
    if chosen.numel():
        matrix = rows if rows.shape[0] == 1 else rows[chosen]
        dual, singular = solve_binding(
            matrix, mask[chosen], inverse[chosen], (inverse * right)[chosen]
        )
        force = torch.einsum("bm,bmn->bn", dual, matrix.expand(len(chosen), -1, -1))
        residual = residual.index_add(0, chosen, force, alpha=-1)
        deficient = deficient.index_fill(0, chosen[singular], True)
    vertex = binding.fixed.sum(1) + mask.sum(1) >= right.shape[1]
    degeneracy = Degeneracy(vertex, deficient, binding.weak)
    # Tied scenarios share alike.
    share = held.to(right.dtype) / held.sum(1, keepdim=True).clamp_min(1)
    # At its kink y - z = 0 a coordinate passes on what is left of dL/dz.
    multipliers = -share * torch.where(at_kink, residual, 0.0).unsqueeze(1)
    return Adjoint(inverse * residual, multipliers, degeneracy)


def _with_equalities(affine: Tensor, constraints: Constraints) -> Tensor:
    count = constraints.equality_matrix.shape[1]
    return torch.cat([affine, affine.new_ones(affine.shape[0], count)], dim=1)


def solve_binding(
    matrix: Tensor, binding: Tensor, inverse: Tensor, right: Tensor
) -> tuple[Tensor, Tensor]:
    """A v on the binding rows with ``R D R' v = R right``; 0 elsewhere: ``(B, m)``.

    The system is scaled to a unit diagonal first, so that stiff coordinates beside soft ones do
    not look rank-deficient; of several solutions the scaled one of least norm is taken.

    Args:
        matrix: R, ``(B|1, m, n)``.
        binding: ``(B, m)`` bool.
        inverse: diagonal D of the inverse Hessian, ``(B, n)``; 0 where a decision is held.
        right: ``(B, n)``.

    Returns:
        v, and ``(B,)`` bool: rank-deficient.
    """
    mask = binding.to(right.dtype)
    rows = matrix.expand(len(right), -1, -1)
    schur = (rows * inverse.unsqueeze(1)) @ rows.transpose(1, 2)
    schur = schur * mask.unsqueeze(1) * mask.unsqueeze(2)
    size = schur.diagonal(dim1=1, dim2=2)
    unit = torch.where(size > 0, size, torch.ones_like(size)).rsqrt() * mask
    schur = schur * unit.unsqueeze(1) * unit.unsqueeze(2) + torch.diag_embed(1 - mask)
    target = unit * torch.einsum("bmn,bn->bm", rows, right)
    values, vectors = torch.linalg.eigh(schur)
    small = values <= 1e-12 * values[:, -1:].clamp_min(1e-300)
    scaled = torch.where(small, 0.0, 1.0 / torch.where(small, 1.0, values))
    projected = scaled * torch.einsum("bmk,bm->bk", vectors, target)
    return unit * torch.einsum("bmk,bk->bm", vectors, projected), small.any(1)


def _dense(
    solution: Solution,
    constraints: Constraints,
    binding: _Binding,
    hessian: Callable[[Tensor], Tensor],
    hinges: Hinges | None,
    held: Tensor,
    right: Tensor,
) -> Adjoint:
    """Dense Hessian: the free coordinates and the binding rows of every instance, gathered."""
    z = solution.decision
    free, is_free = gather_true(~binding.fixed)
    rows, mask, order = _constraint_rows(solution, constraints, binding)
    vertex = mask.sum(1) >= is_free.sum(1)
    kinks = None
    if hinges is not None and bool(held.any()):
        ties = _Ties.of(hinges, held)
        kinks, kink_mask = gather_true(ties.held)
        rows = torch.cat([rows, hinges.rows(kinks)], dim=1)
        mask = torch.cat([mask, kink_mask], dim=1)
    rows = rows.gather(2, free.unsqueeze(1).expand(-1, rows.shape[1], -1))
    rows = rows * is_free.unsqueeze(1) * mask.unsqueeze(2)
    reduced = hessian(free)
    if constraints.smooth is not None:
        curved = solution.duals[:, -constraints.smooth.size :]
        reduced = reduced + block(constraints.smooth.hessian(z, curved), free)
    # A cost may have no curvature at a bound that is the end of its domain.
    reduced = torch.where(is_free.unsqueeze(1) & is_free.unsqueeze(2), reduced, 0.0)
    target = right.gather(1, free) * is_free
    reduced_direction, dual, singular = _solve_kkt(reduced, rows, is_free, mask, target)
    direction = torch.zeros_like(z).scatter_add(1, free, reduced_direction * is_free)
    multipliers = None
    if kinks is not None:
        carried = dual[:, dual.shape[1] - kinks.shape[1] :] * kink_mask
        of_rows = torch.zeros_like(ties.held, dtype=dual.dtype).scatter_add(1, kinks, carried)
        multipliers = ties.shared(of_rows)
    first, count = constraints.equality_matrix.shape[1], binding.affine.shape[1]
    of_rows = dual[:, first : first + order.shape[1]] * mask[:, first : first + order.shape[1]]
    every = torch.zeros_like(z[:, :1]).expand(-1, count + binding.smooth.shape[1])
    return Adjoint(
        direction,
        multipliers,
        Degeneracy(vertex, singular, binding.weak),
        every.scatter_add(1, order, of_rows),
        dual[:, :first],
    )


@dataclass(frozen=True)
class _Ties:
    """Kinks with parallel gradients: one row holds the decision for all, and they share it alike.

    Attributes:
        held: ``(B, K)``, or ``(B, M * K)`` where gradients differ between scenarios: which rows there are.
        shares: what each kink takes of its row's multiplier, ``(B, M, K)``.
        row: ``(K,)``, the row of each hinge; None where every kink is its own.
    """

    held: Tensor
    shares: Tensor
    row: Tensor | None

    @staticmethod
    def of(hinges: Hinges, held: Tensor) -> "_Ties":
        if hinges.jacobian.shape[:2] != (1, 1):
            return _Ties(held.flatten(1), held.to(hinges.offset.dtype), None)
        gradient = hinges.jacobian[0, 0]
        norm = gradient.norm(dim=1)
        unit = gradient / torch.where(norm > 0, norm, 1.0).unsqueeze(1)
        cosine = unit @ unit.T
        row = (cosine.abs() > 1 - 1e-13).to(torch.int8).argmax(1)
        together = torch.zeros_like(held[:, 0], dtype=torch.int64)
        together = together.index_add(1, row, held.sum(1))
        sign = cosine[torch.arange(len(row), device=row.device), row].sign()
        part = sign * norm[row] / torch.where(norm > 0, norm, 1.0)
        shares = held * (part / together[:, row].clamp_min(1)).unsqueeze(1)
        return _Ties(together > 0, shares, row)

    def shared(self, multipliers: Tensor) -> Tensor:
        """Multipliers of the kinks ``(B, M, K)`` from those of the rows."""
        if self.row is None:
            return multipliers.view_as(self.shares)
        return self.shares * multipliers[:, self.row].unsqueeze(1)


def _constraint_rows(
    solution: Solution, constraints: Constraints, binding: _Binding
) -> tuple[Tensor, Tensor, Tensor]:
    """Equalities and binding inequalities but bounds: rows ``(B, r, n)``, their mask ``(B, r)``, and
    which inequalities they are, ``(B, r - p)``."""
    z = solution.decision
    batch = len(z)
    parts, masks = [constraints.matrix.expand(batch, -1, -1)], [binding.affine]
    if constraints.smooth is not None:
        parts.append(constraints.smooth.jacobian(z))
        masks.append(binding.smooth)
    # Few of many inequalities bind: those are gathered before the system is formed.
    rows = torch.cat(parts, dim=1)
    order, chosen = gather_true(torch.cat(masks, dim=1))
    rows = rows.gather(1, order.unsqueeze(2).expand(-1, -1, rows.shape[2]))
    equalities = constraints.equality_matrix.expand(batch, -1, -1)
    always = chosen.new_ones(batch, equalities.shape[1])
    return torch.cat([equalities, rows], dim=1), torch.cat([always, chosen], dim=1), order


def _solve_kkt(
    hessian: Tensor, rows: Tensor, is_free: Tensor, mask: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """u ``(B, k)``, v ``(B, r)`` and which instances are rank-deficient ``(B,)``."""
    size = hessian.shape[1]
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    largest = diagonal.amax(1, keepdim=True) if size else diagonal.new_zeros(len(diagonal), 1)
    floor = 1e-14 * torch.where(largest > 0, largest, 1.0)
    scale = torch.where(diagonal > floor, diagonal, torch.where(largest > 0, largest, 1.0)).rsqrt()
    scaled_rows = rows * scale.unsqueeze(1)
    norm = scaled_rows.norm(dim=2)
    row_scale = torch.where(norm > 0, 1.0 / torch.where(norm > 0, norm, 1.0), 1.0)
    # All whose coordinates are fixed: nothing is left for it to hold.
    idle = mask & (norm == 0)
    mask = mask & ~idle
    scaled_rows = scaled_rows * row_scale.unsqueeze(2)
    top = hessian * scale.unsqueeze(1) * scale.unsqueeze(2)
    top = top + torch.diag_embed((~is_free).to(top.dtype))
    corner = torch.diag_embed((~mask).to(top.dtype))
    system = torch.cat(
        [
            torch.cat([top, scaled_rows.transpose(1, 2)], dim=2),
            torch.cat([scaled_rows, corner], dim=2),
        ],
        dim=1,
    )
    right = torch.cat([scale * target, target.new_zeros(len(target), rows.shape[1])], dim=1)
    answer, singular = _solve_symmetric(system, right)
    return scale * answer[:, :size], row_scale * answer[:, size:], singular | idle.any(1)


def _solve_symmetric(system: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Least-norm solution of symmetric systems with unit rows, and which of them are singular."""
    if system.shape[1] == 0:
        return right, torch.zeros_like(right[:, 0:0].sum(1), dtype=torch.bool)
    factors, pivots, info = torch.linalg.lu_factor_ex(system)
    # Two solves with a fixed vector estimate the norm of the inverse from below.
    probe = torch.ones_like(right)
    probe[:, ::2] = -1.0
    probe = probe / probe.norm(dim=1, keepdim=True)
    columns = torch.linalg.lu_solve(factors, pivots, torch.stack([right, probe], dim=2))
    image = columns[..., 1]
    size = image.norm(dim=1, keepdim=True)
    again = torch.linalg.lu_solve(factors, pivots, (image / size).unsqueeze(2)).squeeze(2)
    large = torch.maximum(size.squeeze(1), again.norm(dim=1))
    singular = (info != 0) | ~(large < _SINGULAR) | ~columns[..., 0].isfinite().all(1)
    answer = columns[..., 0]
    rows = torch.nonzero(singular).flatten()
    if rows.numel():
        values, vectors = torch.linalg.eigh(system[rows])
        small = values.abs() <= 1e-11 * values.abs().amax(1, keepdim=True)
        scaled = torch.where(small, 0.0, 1.0 / torch.where(small, 1.0, values))
        projected = scaled * torch.einsum("bmk,bm->bk", vectors, right[rows])
        answer = answer.index_copy(0, rows, torch.einsum("bmk,bk->bm", vectors, projected))
    return answer, singular
