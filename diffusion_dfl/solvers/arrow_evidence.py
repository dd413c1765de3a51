"""Evidence that a two-stage program has no optimum; see :mod:`diffusion_dfl.solvers.evidence`."""

import torch
from torch import Tensor

from diffusion_dfl.solvers.arrow import (
    Arrow,
    Point,
    present,
    pull_both,
    size_of,
)
from diffusion_dfl.solvers.factor import has_negative_curvature
from diffusion_dfl.solvers.rows import largest
from diffusion_dfl.solvers.scenarios import push
from diffusion_dfl.solvers.solution import Status

# How far beyond the data a direction is followed that is to prove something.
_FAR = 1e8
# Share of the largest curvature in w below which there is none, and that of z which is rounding's.
_FLAT, _INDEFINITE = 1e-12, 1e-6
# Violation of a constraint beside its own terms, and beside the largest coordinate.
_OWN, _NOISE = 1e-8, 1e-13


def without_optimum(arrow: Arrow, point: Point, before: Point) -> tuple[Tensor, Tensor]:
    """Status of instances that do not converge, after a look for the reason, and its proof."""
    status = torch.full_like(arrow.slope, int(Status.NOT_CONVERGED), dtype=torch.int64)
    falls = _cost_falls_for_ever(arrow, point, before)
    # For ever from where constraints hold.
    falls = torch.where(violated(arrow, point), torch.inf, falls)
    status = torch.where(falls.isfinite(), int(Status.UNBOUNDED), status)
    empty = _no_decision_satisfies(arrow, point)
    status = torch.where(empty.isfinite(), int(Status.INFEASIBLE), status)
    proof = torch.where(empty.isfinite(), empty, falls)
    return status, torch.where(proof.isfinite(), proof, torch.nan)


def not_convex(arrow: Arrow, point: Point) -> Tensor:
    """Whether a cost has negative curvature at a point: in w of a scenario, or in z with its w: ``(B,)``.

    With H the Hessian of a scenario's cost, convexity of all needs ``H_ww`` and the weighted sum of
    ``H_zz - H_zw H_ww^{-1} H_wz`` to be positive semidefinite.
    """
    scenarios, n = arrow.scenarios, point.z.shape[1]
    lead = point.w.shape[:2]
    v = arrow.joined(point.z, point.w)
    hessian = scenarios.hessian(v, v.new_zeros(*lead, scenarios.num_rows))
    hessian = 0.5 * (hessian + hessian.transpose(2, 3))
    rounding = 1e-13 * arrow.slope / arrow.length
    in_w = hessian[..., n:, n:]
    noise = rounding.unsqueeze(1).expand(lead)
    if in_w.shape[:2] == (1, 1):
        noise = noise.amin().view(1, 1)
    own = has_negative_curvature(in_w.flatten(0, 1), noise.flatten())
    own = own.view(in_w.shape[:2]).any(1).expand_as(rounding)
    if not n:
        return own
    ridge = _FLAT * largest(in_w.flatten(0, 1)).view(*in_w.shape[:2], 1, 1) + 1e-300
    eye = torch.eye(in_w.shape[2], dtype=v.dtype, device=v.device)
    factor = torch.linalg.cholesky_ex(in_w + ridge * eye)[0]
    half = torch.linalg.solve_triangular(factor, hessian[..., n:, :n], upper=False)
    weights = arrow.weights.view(*lead, 1, 1)
    schur = (weights * (hessian[..., :n, :n] - half.transpose(2, 3) @ half)).sum(1)
    size = largest((weights * hessian.abs()).sum(1))
    return own | has_negative_curvature(schur, rounding + _INDEFINITE * size)


def violated(arrow: Arrow, point: Point) -> Tensor:
    """Whether a constraint is violated by more than a share of the terms it is the sum of: ``(B,)``.

    Residuals measure all of them by the largest decision, which in a program without a feasible
    one may be a recourse that grows for ever.
    """
    scenarios, z, w = arrow.scenarios, point.z, point.w
    v = arrow.joined(z, w)
    own, equal = arrow.first.terms(z)
    first = arrow.first_values(z).clamp_min(0)
    low, high = scenarios.problem.bounded
    lower, upper = scenarios.problem.lower[low], scenarios.problem.upper[high]
    of_rows = push(scenarios.row_slopes(v).abs(), v.abs())
    if scenarios.rows is not None:
        of_rows = of_rows + scenarios.rows.offset.abs()
    else:
        of_rows = of_rows + scenarios.row_values(v).abs()
    of_rows = torch.cat(
        [of_rows, lower.abs() + w[..., low].abs(), upper.abs() + w[..., high].abs()], dim=2
    )
    values = torch.cat([scenarios.row_values(v), scenarios.bounds(w)], dim=2).clamp_min(0)
    of_equalities = scenarios.equalities.offset.abs()
    of_equalities = of_equalities + push(scenarios.equalities.slope.abs(), v.abs())
    # Where nothing but 0 is left to decide, its rounding is all that there is.
    noise = _NOISE * torch.maximum(largest(z), arrow.length).unsqueeze(1)
    every = _NOISE * torch.maximum(v.abs().amax(2), arrow.length.unsqueeze(1)).unsqueeze(2)
    parts = (
        first > _OWN * own + noise,
        arrow.constraints.equality_residual(z).abs() > _OWN * equal + noise,
        values > _OWN * of_rows + every,
        scenarios.equalities.at(v).abs() > _OWN * of_equalities + every,
    )
    return torch.stack([part.flatten(1).any(1) for part in parts]).any(0)


def _reach(arrow: Arrow, point: Point) -> Tensor:
    rows = arrow.first
    return _FAR * torch.stack(
        [
            arrow.length,
            size_of((point.z.clamp(-1e6, 1e6), arrow.scenarios.equalities.offset)),
            largest(rows.sizes.expand(len(point.z), -1)),
        ]
    ).amax(0)


def _no_decision_satisfies(arrow: Arrow, point: Point) -> Tensor:
    """Residual of the proof that nothing is feasible, ``inf`` where there is none: ``(B,)``.

    Farkas' lemma, as in :func:`diffusion_dfl.solvers.evidence.no_decision_satisfies`: a sum of
    constraints with multipliers >= 0 that is positive for every decision within reach.
    """
    scenarios, count = arrow.scenarios, arrow.scenarios.num_rows
    v = arrow.joined(point.z, point.w)
    weights = arrow.weights.unsqueeze(2)
    dual, nu = weights * point.dual[..., :count], weights * point.nu
    rows, equal = scenarios.row_values(v), scenarios.equalities.at(v)
    first, first_equal = arrow.first_values(point.z), arrow.constraints.equality_residual(point.z)
    first_dual = torch.where(present(arrow), point.first_dual, 0.0)
    value = (dual * rows).sum((1, 2)) + (nu * equal).sum((1, 2))
    value = value + (first_dual * first).sum(1) + (point.first_nu * first_equal).sum(1)
    row_slopes = scenarios.row_slopes(v)
    force = pull_both(row_slopes, scenarios.equalities.slope, dual, nu)
    terms = pull_both(row_slopes.abs(), scenarios.equalities.slope.abs(), dual.abs(), nu.abs())
    n = point.z.shape[1]
    slopes = arrow.first_slopes(point.z)
    bounds = arrow.constraints
    in_z = force[..., :n].sum(1) + arrow.first_pull(slopes, first_dual)
    in_z = in_z + (point.first_nu.unsqueeze(1) @ bounds.equality_matrix).squeeze(1)
    forces = torch.cat([in_z, force[..., n:].flatten(1)], dim=1)
    at = torch.cat([point.z, point.w.flatten(1)], dim=1)
    free = torch.full_like(point.z, torch.inf)
    lower = -free if bounds.lower is None else bounds.lower.expand_as(free)
    upper = free if bounds.upper is None else bounds.upper.expand_as(free)
    problem = scenarios.problem
    lower, upper = (
        torch.cat([first, own.expand_as(point.w).flatten(1)], dim=1)
        for first, own in ((lower, problem.lower), (upper, problem.upper))
    )
    way = torch.where(forces > 0, lower, upper) - at
    bounded = way.isfinite()
    least = value + torch.where(bounded & (forces != 0), forces * way, 0.0).sum(1)
    loose = torch.where(bounded, 0.0, forces.abs())
    size = (dual * rows.abs()).sum((1, 2)) + (nu * equal).abs().sum((1, 2))
    size = size + (first_dual * first.abs()).sum(1) + (point.first_nu * first_equal).abs().sum(1)
    whole = largest(terms).clamp_min(largest(first_dual)).clamp_min(1e-300)
    loose = torch.where(loose <= 1e-13 * whole.unsqueeze(1), 0.0, loose)
    proved = (least > loose.sum(1) * _reach(arrow, point)) & (least > 1e-6 * size) & (size > 0)
    return torch.where(proved, largest(loose) / whole, torch.inf)


def _cost_falls_for_ever(arrow: Arrow, point: Point, before: Point) -> Tensor:
    """Residual of a direction along which the cost falls and nothing stops it, else ``inf``: ``(B,)``."""
    dz, dw = point.z - before.z, point.w - before.w
    size = size_of((dz, dw)).clamp_min(1e-300)
    dz, dw = dz / size.unsqueeze(1), dw / size.view(-1, 1, 1)
    dz, dw = (torch.where(part.abs() > 1e-6, part, 0.0) for part in (dz, dw))
    way = _reach(arrow, point)
    far_z = point.z + way.unsqueeze(1) * dz
    far_w = point.w + way.view(-1, 1, 1) * dw
    here, there = (arrow.joined(z, w) for z, w in ((point.z, point.w), (far_z, far_w)))
    along = arrow.joined(dz, dw)
    scenarios = arrow.scenarios

    def slope(v: Tensor) -> Tensor:
        return (arrow.weights * (scenarios.gradient(v) * along).sum(2)).sum(1)

    def outside(v: Tensor, z: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        values = (scenarios.row_values(v), scenarios.bounds(w), arrow.first_values(z))
        return (*values, scenarios.equalities.at(v), arrow.constraints.equality_residual(z))

    first, last = outside(here, point.z, point.w), outside(there, far_z, far_w)
    beyond = [b - a.clamp_min(0) for a, b in zip(first[:3], last[:3], strict=True)]
    apart = [b - a for a, b in zip(first[3:], last[3:], strict=True)]
    over = size_of((*(part.clamp_min(0) for part in beyond), *apart)) / way
    steep = -1e-9 * arrow.slope
    falls = (over <= 1e-9) & (slope(here) < steep) & (slope(there) < steep)
    return torch.where(falls, over, torch.inf)
