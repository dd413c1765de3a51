"""Implicit differentiation of the KKT system (Eq. 5 and Eq. 9 from the same adjoint).

At a solution the binding constraints ``G_a z = h_a`` hold with equality and

    sum_m omega_m grad_z f(y_m, z) + G_a' v = 0.

One solve of the transposed system ``[H G_a'; G_a 0] [u; v] = [dL/dz; 0]`` an instance gives

    dL/dy_m     = -omega_m f_zy(y_m, z)' u          (pathwise, Eq. 5)
    dL/domega_m = -u' grad_z f(y_m, z) = w_m        (score weights, Eq. 9 and 10)
    dL/ds       = -(d/ds sum_m omega_m grad_z f_s)' u.

A kinked program in exact form has decisions that sit on a scenario's kink. Such an hour moves with
its scenario and with nothing else: its inverse curvature is 0 and the scenario receives what is
left of ``dL/dz``, ``r = dL/dz - G_a' v``.

Where the map has a kink of its own, one rule each, so that results are reproducible:
a constraint that is tight with a zero multiplier counts as slack; a decision that touches a
scenario whose slope share is 0 or 1 counts as not held by it; tied scenarios share alike;
a rank-deficient set of binding constraints is solved by its pseudo-inverse.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffusion_dfl.programs.power import PowerProgram
from diffusion_dfl.programs.smoothing import resolvable
from diffusion_dfl.solvers import Solution, solve

# A multiplier below this share of the cost's slopes is rounding.
_WEAK = 1e-10


class ImplicitDecision(torch.autograd.Function):
    """``(scenarios, weights, bandwidth) -> z*`` with its vector-Jacobian product.

    Differentiable once in all three; a second derivative raises. Instances that were not solved
    get zero gradients. All tensors float64; shapes as in :func:`diffusion_dfl.solvers.solve`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        program: PowerProgram,
        scenarios: Tensor,
        weights: Tensor,
        bandwidth: Tensor,
        record: list[Solution],
    ) -> Tensor:
        bandwidth = resolvable(scenarios, bandwidth)
        solution = solve(program, scenarios, weights, bandwidth)
        record.append(solution)
        ctx.program, ctx.solution = program, solution
        ctx.save_for_backward(scenarios, weights, bandwidth)
        return solution.decision.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_decision: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:
        scenarios, weights, bandwidth = ctx.saved_tensors
        gradients = differentiate(
            ctx.program,
            ctx.solution,
            scenarios,
            weights,
            bandwidth,
            grad_decision,
        )
        return None, *gradients, None


def differentiate(
    program: PowerProgram,
    solution: Solution,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    grad_decision: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Vector-Jacobian product of z*: gradients in scenarios, weights and bandwidth.

    Args:
        program: what was solved.
        solution: its solution.
        scenarios, weights, bandwidth: ``(B, M, n)``, ``(B, M)``, ``(B, n)``.
        grad_decision: dL/dz*, ``(B, n)``.
    """
    good = solution.solved.unsqueeze(1)
    z = torch.where(good, solution.decision, 0.0)
    right = torch.where(good, grad_decision, 0.0)
    scenarios = torch.where(good.unsqueeze(2), scenarios, 0.0)
    weights = torch.where(good, weights, 1.0 / weights.shape[1])
    bandwidth = torch.where(good, bandwidth, 0.0)
    held = solution.at_kink
    inverse = 1.0 / program.hessian(scenarios, weights, bandwidth, z)
    inverse = torch.where(held.any(1), 0.0, inverse)
    matrix, _ = program.inequalities(z)
    slopes = program.hinge_slope + scenarios.abs().amax((1, 2))
    binding = (solution.duals > _WEAK * slopes.unsqueeze(1)) & good
    residual = right
    if program.ramp == 0:
        # Rise and fall make one equality, which binds whatever its multiplier.
        rises = torch.arange(len(matrix), device=z.device) < len(matrix) // 2
        binding = rises & good
    rows = torch.nonzero(binding.any(1)).flatten()
    if rows.numel():
        dual = solve_binding(
            matrix, binding[rows], inverse[rows], (inverse * right)[rows] @ matrix.T
        )
        residual = right.index_add(0, rows, dual @ matrix, alpha=-1)
    adjoint = inverse * residual
    cross = program.cross(scenarios, bandwidth, z)
    in_scenarios = -weights.unsqueeze(-1) * cross * adjoint.unsqueeze(1)
    # Only the kinked hours of an exact program are held, and those have no curvature of their own.
    share = held.to(z.dtype) / held.sum(1, keepdim=True).clamp_min(1)
    in_scenarios = in_scenarios + share * residual.unsqueeze(1)
    subgradients = torch.where(good.unsqueeze(2), solution.subgradients, 0.0)
    in_weights = -torch.einsum("bn,bmn->bm", adjoint, subgradients)
    in_bandwidth = -program.bandwidth_product(scenarios, weights, bandwidth, z, adjoint)
    return in_scenarios, in_weights, in_bandwidth


def solve_binding(matrix: Tensor, binding: Tensor, inverse: Tensor, right: Tensor) -> Tensor:
    """A v on the binding rows with ``G_a D G_a' v = right_a``; 0 elsewhere: ``(B, m)``.

    The system is scaled to a unit diagonal first, so that stiff hours beside soft ones do not
    look rank-deficient; of several solutions the scaled one of least norm is taken.

    Args:
        matrix: G, ``(m, n)``.
        binding: ``(B, m)`` bool.
        inverse: diagonal D of the inverse Hessian, ``(B, n)``; 0 where a decision is held.
        right: ``(B, m)``.
    """
    mask = binding.to(right.dtype)
    schur = torch.einsum("mi,bi,ki->bmk", matrix, inverse, matrix)
    schur = schur * mask.unsqueeze(1) * mask.unsqueeze(2)
    size = schur.diagonal(dim1=1, dim2=2)
    unit = torch.where(size > 0, size, torch.ones_like(size)).rsqrt() * mask
    schur = schur * unit.unsqueeze(1) * unit.unsqueeze(2) + torch.diag_embed(1 - mask)
    pseudo_inverse = torch.linalg.pinv(schur, hermitian=True, rtol=1e-12)
    return unit * torch.einsum("bmk,bk->bm", pseudo_inverse, unit * right)
