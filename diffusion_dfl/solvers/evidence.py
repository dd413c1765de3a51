"""Evidence that a program has no optimum: no feasible decision, or no end to the fall of its cost."""

import torch
from torch import Tensor

from diffusion_dfl.solvers.newton_system import FirstOrder, Problem, cholesky
from diffusion_dfl.solvers.rows import largest

# How far beyond the size of the data a decision is looked for.
_FAR = 1e8
_PROJECTION_STEPS = 40
_MAX_HALVINGS = 30


def no_decision_satisfies(
    problem: Problem, at: FirstOrder, z: Tensor, dual: Tensor, nu: Tensor
) -> Tensor:
    """Whether the multipliers rule out every decision within 1e8 times the data's size: ``(B,)``.

    For ``lambda >= 0`` the function ``v(z') = lambda' c(z') + nu' (A z' - b)`` is convex and must be
    <= 0 at a feasible z'. It is at least ``v(z) + w'(z' - z)`` with ``w = J' lambda + A' nu``: so
    ``v(z) > |w|_1 R`` excludes all within R of z (Farkas' lemma where w = 0).
    """
    reach = _FAR * (problem.length + z.abs().amax(1))
    value = (dual * at.values).sum(1) + (nu * at.equality).sum(1)
    force = problem.force(at, dual, nu).abs().sum(1)
    # A value that is left over by cancellation says nothing.
    size = (dual * at.values.abs()).sum(1) + (nu * at.equality).abs().sum(1)
    return (value > force * reach) & (value > 1e-6 * size)


def nothing_is_feasible(problem: Problem, z: Tensor) -> Tensor:
    """Whether the decision that violates the constraints least proves that all do: ``(B,)``.

    At a minimiser of ``V(z) = |c(z)_+|^2 / 2 + |A z - b|^2 / 2`` the violations are multipliers with
    ``J' c_+ + A' (A z - b) = 0``: those of :func:`no_decision_satisfies`. Newton's method with
    backtracking finds it.
    """
    size = z.abs().amax(1, keepdim=True)
    usable = z.isfinite().all(1, keepdim=True) & (size < 1e3 * problem.length.unsqueeze(1))
    z = torch.where(usable, z, 0.0)
    matrix = problem.rows.constraints.equality_matrix
    eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    none = None if problem.hinges is None else torch.zeros_like(problem.hinges.weight)
    at = problem.first_order(z)
    for _ in range(_PROJECTION_STEPS):
        dual = at.values.clamp_min(0)
        gradient = problem.force(at, dual, at.equality)
        bend = problem.curvature(z, dual)[1]
        system = 1e-9 * eye + matrix.mT @ matrix
        system = system.expand(len(z), -1, -1) if bend is None else system + bend
        hinge_weight = dual if none is None else none
        system = problem.system(at, system, (dual > 0).to(z.dtype), hinge_weight)
        step = -torch.cholesky_solve(gradient.unsqueeze(-1), cholesky(system)).squeeze(-1)
        slope = (gradient * step).sum(1)
        before = _violation_square(at)
        length = torch.ones_like(before)
        for _ in range(_MAX_HALVINGS):
            trial = z + length.unsqueeze(1) * step
            there = problem.first_order(trial)
            worse = ~(_violation_square(there) <= before + 1e-4 * length * slope + 1e-15 * before)
            if not bool(worse.any()):
                break
            length = torch.where(worse, 0.5 * length, length)
        z, at = trial, there
        if bool((step.abs().amax(1) <= 1e-15 * (problem.length + z.abs().amax(1))).all()):
            break
    violated = _violation_square(at) > (1e-7 * problem.length) ** 2
    return violated & no_decision_satisfies(problem, at, z, at.values.clamp_min(0), at.equality)


def _violation_square(at: FirstOrder) -> Tensor:
    rows = at.values.clamp_min(0).square().sum(1)
    return 0.5 * (rows + at.equality.square().sum(1))


def cost_falls_for_ever(problem: Problem, at: FirstOrder, z: Tensor, ray: Tensor) -> Tensor:
    """Whether the cost still falls along a ray 1e8 times the data's size away: ``(B,)``.

    Args:
        problem: a batch of programs.
        at: values at z.
        z: ``(B, n)``.
        ray: direction ``(B, n)``; it must not lead into the constraints.
    """
    size = ray.abs().amax(1, keepdim=True)
    ray = torch.where((size > 0) & ray.isfinite(), ray / size.clamp_min(1e-300), 0.0)
    reach = _FAR * (problem.length + z.abs().amax(1))
    beyond = problem.first_order(z + reach.unsqueeze(1) * ray)
    rounding = 1e-9 * reach
    feasible = largest((beyond.values - at.values.clamp_min(0)).clamp_min(0)) <= rounding
    feasible &= largest(beyond.equality - at.equality) <= rounding

    def slope(point: FirstOrder) -> Tensor:
        gradient = point.gradient
        if problem.hinges is not None:
            side = (point.arguments > 0).to(z.dtype)
            gradient = gradient + problem.hinges.force(problem.hinges.weight * side)
        return (gradient * ray).sum(1)

    steep = -1e-9 * problem.slope
    return feasible & (slope(at) < steep) & (slope(beyond) < steep)
