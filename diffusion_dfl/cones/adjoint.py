"""Derivative of a cone program's solution: one adjoint solve an instance.

With ``v = s - z`` slack and dual are projections, ``s = Pi(v)`` and ``z = Pi(v) - v``, and the
solution is a root of ``P x + A' z + q`` and ``A x + s - b`` in (x, v). With D the derivative of the
projection at v, the transposed linearisation is

    P u - A' (I - D) w = dL/dx,     A u + D w = dL/dz,     y = (I - D) w

(equalities have D = 0), and

    dL/dq = -u,  dL/dP = -(u x' + x u') / 2,  dL/db = -y,  dL/dA = y x' - z u'

(Agrawal et al., "Differentiating through a cone program", 2019). Where the solution map has a kink,
one rule: a constraint that is tight with a zero multiplier counts as slack. Of a singular system,
as at a solution that is not unique, an approximate solution is taken.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_dfl.cones.kkt import KKTSystem, solve_projected
from diffusion_dfl.cones.problem import ConeProblem, ConeSolution

# A multiplier this far below the equilibrated data is rounding.
_WEAK = 1e-9


class ConeAdjoint(NamedTuple):
    """u ``(B, n)`` and y ``(B, m)`` of the module's formulas; 0 where an instance was not solved."""

    primal: Tensor
    dual: Tensor


def differentiate_cone(
    problem: ConeProblem, solution: ConeSolution, grad_x: Tensor, grad_dual: Tensor | None = None
) -> ConeAdjoint:
    """The adjoint of :func:`~diffusion_dfl.cones.solver.solve_cone`.

    Args:
        problem: what was solved.
        solution: its solution.
        grad_x: dL/dx, ``(B, n)``.
        grad_dual: dL/dz, ``(B, m)``; 0 if None.
    """
    good = solution.solved
    primal, dual = torch.zeros_like(solution.x), torch.zeros_like(solution.dual)
    rows = torch.nonzero(good).flatten()
    if not rows.numel():
        return ConeAdjoint(primal, dual)
    if len(rows) < len(good):
        problem = problem.select(rows)
    reduction = problem.reduction
    scaled = reduction.problem.equilibrated
    data, beta, gamma = scaled.problem, scaled.beta.unsqueeze(1), scaled.gamma.unsqueeze(1)
    conic = problem.cones.zero
    units = scaled.rows[:, data.cones.zero :]
    slack = units * solution.slack[rows, conic:] / beta
    multiplier = solution.dual[rows, conic:] / (units * gamma)
    derivative = data.algebra.projection_derivative(slack - multiplier, _WEAK)
    right = (
        grad_x[rows],
        torch.zeros_like(problem.limit) if grad_dual is None else grad_dual[rows],
    )
    first, second = reduction.right(*right)
    u, y, _ = solve_projected(
        KKTSystem.of(data),
        derivative,
        scaled.columns * first,
        scaled.rows * second * gamma / beta,
    )
    u, y = reduction.solution(scaled.columns * u * beta / gamma, scaled.rows * y, *right)
    return ConeAdjoint(primal.index_copy(0, rows, u), dual.index_copy(0, rows, -y))
