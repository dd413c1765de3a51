"""Evidence that a program has no optimum: no feasible decision, or no end to the fall of its cost."""

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import apply, transpose_apply
from diffusion_dfl.solvers.factor import cholesky
from diffusion_dfl.solvers.newton_system import FirstOrder, Problem
from diffusion_dfl.solvers.rows import largest

# How far beyond the size of the data a decision is looked for.
_FAR = 1e8
# A sum below this share of its terms is what their rounding leaves.
_ROUNDING = 1e-13
# Share of a direction that does not count.
_SIDEWAYS = 1e-6
_PROJECTION_STEPS = 40
_BALANCING_STEPS = 3
_MAX_HALVINGS = 30


def reach(problem: Problem, z: Tensor) -> Tensor:
    """Beyond any size a decision may have: 1e8 times the largest number of the program, ``(B,)``.

    The largest of z, of all finite limits and of the problem's length.
    """
    rows = problem.rows
    equalities = largest(rows.constraints.equality_value.expand(len(z), -1))
    limits = largest(rows.sizes.expand(len(z), -1))
    return _FAR * torch.stack([problem.length, largest(z), limits, equalities]).amax(0)


def no_decision_satisfies(
    problem: Problem, at: FirstOrder, z: Tensor, dual: Tensor, nu: Tensor
) -> Tensor:
    """Residual of a proof that nothing is feasible, ``inf`` where there is none: ``(B,)``.

    For ``lambda >= 0`` the function ``v(z') = lambda' c(z') + nu' (A z' - b)`` is convex and must be
    <= 0 at a feasible z'. It is at least ``v(z) + w'(z' - z)`` with ``w = J' lambda + A' nu``, whose
    minimum over the bounds is known (Farkas' lemma where w = 0). A coordinate without a bound counts
    as if it were within :func:`reach`; what remains of its w, relative to the terms it is made of,
    is the residual.
    """
    constraints = problem.rows.constraints
    value = (dual * at.values).sum(1) + (nu * at.equality).sum(1)
    force = problem.force(at, dual, nu)
    terms = _sum_of_terms(problem, at, dual, nu)
    unbounded = torch.full_like(z, torch.inf)
    lower = -unbounded if constraints.lower is None else constraints.lower.expand_as(z)
    upper = unbounded if constraints.upper is None else constraints.upper.expand_as(z)
    to_bound = torch.where(force > 0, lower, upper) - z
    bounded = to_bound.isfinite()
    least = value + torch.where(bounded & (force != 0), force * to_bound, 0.0).sum(1)
    loose = torch.where(bounded | (force.abs() <= _ROUNDING * terms), 0.0, force.abs())
    # A value that is left over by cancellation says nothing.
    size = (dual * at.values.abs()).sum(1) + (nu * at.equality).abs().sum(1)
    equal = constraints.equality_value.abs() + z.abs().amax(1, keepdim=True)
    sizes = (dual * (problem.rows.sizes + z.abs().amax(1, keepdim=True))).sum(1)
    sizes = sizes + (nu.abs() * equal).sum(1)
    proved = (least > loose.sum(1) * reach(problem, z)) & (least > 1e-6 * size)
    proved &= least > _ROUNDING * sizes
    residual = largest(torch.where(bounded, 0.0, force)) / largest(terms).clamp_min(1e-300)
    return torch.where(proved, residual, torch.inf)


def _sum_of_terms(problem: Problem, at: FirstOrder, dual: Tensor, nu: Tensor) -> Tensor:
    """What ``J' dual + A' nu`` is the sum of, without signs: ``(B, n)``."""
    rows = problem.rows.constraints
    affine, lower, upper, smooth = dual.split(list(rows.counts), dim=1)
    total = transpose_apply(rows.matrix.abs(), affine)
    total = total + transpose_apply(rows.equality_matrix.abs(), nu.abs())
    for bound, part in ((rows.lower, lower), (rows.upper, upper)):
        if bound is not None:
            total = total + part
    if at.jacobian is not None:
        total = total + transpose_apply(at.jacobian.abs(), smooth)
    return total


def nothing_is_feasible(problem: Problem, z: Tensor) -> Tensor:
    """Residual of the proof by the decision that violates the constraints least: ``(B,)``.

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
    dual, nu = _balanced(problem, at, at.values.clamp_min(0), at.equality)
    residual = no_decision_satisfies(problem, at, z, dual, nu)
    return torch.where(violated, residual, torch.inf)


def _balanced(problem: Problem, at: FirstOrder, dual: Tensor, nu: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest multipliers with ``J' dual + A' nu = 0`` of the same rows: ``(B, q), (B, p)``.

    A violation that is small beside its limit carries the rounding of the limit.
    """
    active = dual > 0
    matrix = problem.rows.constraints.equality_matrix
    eye = torch.eye(at.gradient.shape[1], dtype=dual.dtype, device=dual.device)
    system = (1e-9 * eye + matrix.mT @ matrix).expand(len(dual), -1, -1)
    none = at.arguments if problem.hinges is None else torch.zeros_like(problem.hinges.weight)
    factor = cholesky(problem.system(at, system, active.to(dual.dtype), none))
    for _ in range(_BALANCING_STEPS):
        force = problem.force(at, dual, nu).unsqueeze(-1)
        step = torch.cholesky_solve(force, factor).squeeze(-1)
        dual = torch.where(active, dual - problem.push(at, step), 0.0).clamp_min(0)
        nu = nu - apply(matrix, step)
    return dual, nu


def _violation_square(at: FirstOrder) -> Tensor:
    rows = at.values.clamp_min(0).square().sum(1)
    return 0.5 * (rows + at.equality.square().sum(1))


def cost_falls_for_ever(problem: Problem, at: FirstOrder, z: Tensor, ray: Tensor) -> Tensor:
    """Residual of a proof that the cost is unbounded, ``inf`` where there is none: ``(B,)``.

    The proof is a direction of unit size that leads into no constraint and along which the cost still
    falls :func:`reach` away, and farther than its curvature at z says its minimum is. The residual
    is how far it leads out of the feasible set, relative to the way.

    Args:
        problem: a batch of programs.
        at: values at z.
        z: ``(B, n)``.
        ray: direction ``(B, n)``; it must not lead into the constraints.
    """
    size = ray.abs().amax(1, keepdim=True)
    ray = torch.where((size > 0) & ray.isfinite(), ray / size.clamp_min(1e-300), 0.0)
    # What is left of a step in the directions that have a minimum.
    ray = torch.where(ray.abs() > _SIDEWAYS, ray, 0.0)

    def slope(point: FirstOrder) -> Tensor:
        gradient = point.gradient
        if problem.hinges is not None:
            side = (point.arguments > 0).to(z.dtype)
            gradient = gradient + problem.hinges.force(problem.hinges.weight * side)
        return (gradient * ray).sum(1)

    here = slope(at)
    hessian = problem.curvature(z, torch.zeros_like(at.values))[0]
    bend = torch.einsum("bi,bij,bj->b", ray, hessian, ray)
    bend = bend - _ROUNDING * torch.einsum("bi,bij,bj->b", ray.abs(), hessian.abs(), ray.abs())
    # A model's minimum this far away is farther than any number of the program.
    model = torch.where(bend > 0, -here / bend.clamp_min(1e-300), 0.0)
    way = torch.maximum(reach(problem, z), _FAR * model.clamp(0.0, 1e100))
    beyond = problem.first_order(z + way.unsqueeze(1) * ray)
    outside = largest((beyond.values - at.values.clamp_min(0)).clamp_min(0))
    outside = torch.maximum(outside, largest(beyond.equality - at.equality)) / way
    steep = -1e-9 * problem.slope
    falls = (outside <= 1e-9) & (here < steep) & (slope(beyond) < steep)
    return torch.where(falls, outside, torch.inf)
