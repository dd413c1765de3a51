"""What an attempt came to as a :class:`Solution`, and whether the program as given agrees with it."""

from dataclasses import replace

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import Constraints, apply, transpose_apply
from diffusion_dfl.solvers.active_set import Multipliers
from diffusion_dfl.solvers.hinges import ScaledHinges
from diffusion_dfl.solvers.newton_system import Problem, side
from diffusion_dfl.solvers.rows import largest
from diffusion_dfl.solvers.solution import Solution, Status

# Residual of a coordinate beside its own terms, and beside the largest of all.
_OWN, _OWN_ROUNDING = 1e-8, 1e-14
# A slope share this close to an end of its interval rests on the end.
_STRICT = 1e-9
# Residual of a cost, beside its slopes, at the optimum of the form it was taken for.
_FORM_FITS = 1e-6


def precise(problem: Problem, solution: Solution, rows: Tensor) -> Solution:
    """The instances ``rows``, NOT_CONVERGED where a residual is large beside its own terms.

    The certificate measures all coordinates by one slope and one length, which says nothing of those
    in smaller units. Here each is measured by itself, down to the rounding of the largest.
    """
    problem, solution = problem.select(rows), solution.select(rows)
    z, instances = solution.decision, problem.instances
    given = problem.program.constraints(instances.scenarios, instances.context)
    equalities = given.equality_matrix.expand(len(z), -1, -1)
    jacobian = torch.cat([given.inequality_jacobian(z), equalities], dim=1)
    multipliers = torch.cat([solution.duals, solution.equality_duals], dim=1)
    hessian = problem.curvature(z, torch.zeros_like(solution.duals))[0]
    slopes = solution.subgradients
    stationarity = torch.einsum("bm,bmn->bn", instances.weights, slopes)
    stationarity = stationarity + transpose_apply(jacobian, multipliers)
    terms = torch.einsum("bm,bmn->bn", instances.weights, slopes.abs())
    terms = (
        terms + transpose_apply(jacobian.abs(), multipliers.abs()) + apply(hessian.abs(), z.abs())
    )
    steep = stationarity.abs() > _OWN * terms + _OWN_ROUNDING * largest(terms).unsqueeze(1)
    values = torch.cat([given.inequality_values(z), given.equality_residual(z).abs()], dim=1)
    outside = values.clamp_min(0)
    # An infinite limit has an infinite slack.
    unused = torch.where(multipliers != 0, (multipliers * values).abs(), 0.0).sum(1)
    limits = [part for part in (given.limit, given.lower, given.upper) if part is not None]
    # Smooth functions do not say what their values are made of.
    limits.append(torch.full_like(outside[:, :1], torch.inf).expand(-1, given.counts.smooth))
    sizes = torch.cat([part.expand(len(z), -1) for part in (*limits, given.equality_value)], dim=1)
    sizes = sizes.abs() + apply(jacobian.abs(), z.abs())
    noise = _OWN_ROUNDING * jacobian.abs().amax(2) * largest(z).unsqueeze(1)
    wrong = steep.any(1) | (outside > _OWN * sizes + noise).any(1)
    exact = problem.program.hinges(instances)
    if exact is not None and solution.shares is not None:
        values, shares = exact.arguments(z), solution.shares
        unused_of_hinges = (1 - shares) * values.clamp_min(0) - shares * values.clamp_max(0)
        price = exact.coefficient * instances.weights.unsqueeze(2)
        unused = unused + (price * unused_of_hinges).sum((1, 2))
    wrong = wrong | (unused > _OWN * (terms * z.abs()).sum(1))
    status = torch.where(solution.solved & wrong, int(Status.NOT_CONVERGED), solution.status)
    return replace(solution, status=status)


def of_another_cost(problem: Problem, solution: Solution) -> Tensor:
    """Where what was solved may be another program: ``(B,)``.

    A cost is taken for a quadratic form that fits it at a few decisions. In the flat tails of a softplus
    one does, and says so by the residual of the cost itself, or by an instance without an optimum.
    """
    unknown = solution.status == int(Status.NOT_CONVERGED)
    for verdict in (Status.UNBOUNDED, Status.NON_CONVEX):
        unknown = unknown | (solution.status == int(verdict))
    z = solution.decision
    slopes = torch.einsum("bm,bmn->bn", problem.instances.weights, solution.subgradients.abs())
    hessian = problem.curvature(z, torch.zeros_like(solution.duals))[0]
    resolution = apply(hessian.abs(), z.abs())
    terms = largest(slopes) + _FORM_FITS * (largest(resolution) + problem.slope)
    stationary = solution.residuals[:, 0] <= _FORM_FITS * terms
    return unknown | (solution.solved & ~stationary)


def as_solution(
    problem: Problem, point: Multipliers, status: Tensor, iterations: Tensor, proof: Tensor
) -> Solution:
    """Multipliers, subgradients and residuals in the units of the program as it was given."""
    instances = problem.instances
    program, hinges, z = problem.program, problem.hinges, point.z
    given = program.constraints(instances.scenarios, instances.context)
    dual, nu = problem.rows.original_duals(point.dual, point.nu)
    exact = program.hinges(instances)
    shares = None
    if exact is None:
        subgradients = problem.gradients(z)
        at_kink = torch.zeros_like(subgradients[..., :0], dtype=torch.bool)
    else:
        shares = side(exact.arguments(z))
        at_kink = torch.zeros_like(shares, dtype=torch.bool)
        if hinges is not None:
            found, known = _tied_alike(hinges, point)
            shares = torch.where(hinges.given_marks(known), hinges.given_shares(found), shares)
        subgradients = problem.smooth_gradients(z, exact)
        subgradients = subgradients + exact.scenario_force(exact.coefficient * shares)
        if hinges is not None:
            slopes = torch.einsum("bm,bmn->bn", instances.weights, subgradients.abs())
            # Of a large price a small share is what holds the decision.
            least = _STRICT * torch.minimum(hinges.weight, largest(slopes).view(-1, 1, 1))
            force = found * hinges.weight
            strict = (force > least) & (hinges.weight - force > least)
            at_kink = hinges.given_marks(point.held & (hinges.weight > 0) & strict)
    return Solution(
        decision=z,
        duals=dual,
        equality_duals=nu,
        subgradients=subgradients,
        at_kink=at_kink,
        status=status,
        iterations=iterations,
        residuals=kkt_residuals(given, instances.weights, z, subgradients, dual, nu),
        shares=shares,
        proof=proof,
        hessian=problem.proved_hessian(z),
    )


def kkt_residuals(
    given: Constraints, weights: Tensor, z: Tensor, subgradients: Tensor, dual: Tensor, nu: Tensor
) -> Tensor:
    """Largest entries of stationarity, primal feasibility and complementarity: ``(B, 3)``."""
    values = given.inequality_values(z)
    stationarity = torch.einsum("bm,bmn->bn", weights, subgradients)
    stationarity = stationarity + given.inequality_force(z, dual)
    stationarity = stationarity + transpose_apply(given.equality_matrix, nu)
    outside = torch.maximum(largest(values.clamp_min(0)), largest(given.equality_residual(z)))
    # An infinite limit has an infinite slack.
    unused = largest(torch.where(dual > 0, dual * values, 0.0))
    return torch.stack([largest(stationarity), outside, unused], dim=1)


def _tied_alike(hinges: ScaledHinges, point: Multipliers) -> tuple[Tensor, Tensor]:
    """Shares of slopes, equal for scenarios tied at a kink, those without weight included, and which of
    them the solution says: ``(B, M, K)`` each.

    The sum over a kink's scenarios is what stationarity fixes; how they share it is a convention.
    Ties show only where a hinge has the same gradient in every scenario.
    """
    real = hinges.weight > 0
    shares = point.alpha / torch.where(real, hinges.weight, 1.0)
    if hinges.jacobian.shape[1] > 1:
        return shares, real
    held = point.held & real
    weight = torch.where(held, hinges.weight, 0.0).sum(1, keepdim=True)
    pull = torch.where(held, point.alpha, 0.0).sum(1, keepdim=True)
    common = pull / torch.where(weight > 0, weight, 1.0)
    # Held hinges of one gradient have one offset, which idle ones may share.
    offset = torch.where(held, hinges.offset, -torch.inf).amax(1, keepdim=True)
    idle = ~real & (hinges.offset == offset)
    return torch.where(held | idle, common, shares), real | idle
