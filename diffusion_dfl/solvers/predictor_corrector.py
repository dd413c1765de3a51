"""Steps of the interior point: Mehrotra's predictor-corrector, damped where F is not quadratic.

Inequalities get slacks. A hinge is ``c t`` with ``a(z) = t - u``, ``t, u >= 0``; its multipliers
``alpha`` (of u) and ``beta = c - alpha`` (of t) are eliminated together with t and u: with
``D = 1 / (t / beta + u / alpha)`` it adds ``D grad_a grad_a'`` to the Hessian, so a Newton step
factors one ``n x n`` matrix an instance, whatever the number of hinges (Mehrotra, SIAM J. Optim.
2(4), 1992; Boyd and Vandenberghe, Convex Optimization, section 11.7).
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffusion_dfl.solvers.active_set import Multipliers
from diffusion_dfl.solvers.newton_system import Factor, FirstOrder, Problem
from diffusion_dfl.solvers.rows import largest

_TO_BOUNDARY = 0.995
_MAX_HALVINGS = 25
# Least centering of damped steps; the next one follows a step shorter than this.
_DAMPED_CENTERING, _SHORT = (0.1, 1.0), 0.02


@dataclass
class Iterate:
    """Decision, slacks and multipliers of rows, equality multipliers, and of the hinges the
    parts ``t, u`` of the argument with their multipliers ``beta, alpha``."""

    z: Tensor
    slack: Tensor
    dual: Tensor
    nu: Tensor
    t: Tensor
    u: Tensor
    alpha: Tensor
    beta: Tensor

    def select(self, rows: Tensor) -> "Iterate":
        return Iterate(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def moved(self, direction: "Iterate", length: Tensor) -> "Iterate":
        def move(value: Tensor, change: Tensor) -> Tensor:
            return value + length.view(-1, *[1] * (value.dim() - 1)) * change

        return Iterate(
            **{
                f.name: move(getattr(self, f.name), getattr(direction, f.name))
                for f in fields(self)
            }
        )


def started(problem: Problem, z: Tensor, spread: float) -> Iterate:
    """Slacks and multipliers for a first decision, none below a share ``spread`` of the length.

    Steps keep a decision within the bounds that it starts within: they may be the domain of its cost.
    """
    width = spread * problem.length.unsqueeze(1)
    at = problem.first_order(z)
    present = problem.rows.present
    room = torch.where(_of_bounds(problem, at.values), torch.zeros_like(width), width)
    slack = torch.where(present, torch.maximum(-at.values, room), 1.0)
    level = (problem.slope.unsqueeze(1) * width).expand_as(slack)
    dual = torch.where(present, 0.1 * level / slack, 0.0)
    nu = z.new_zeros(len(z), problem.rows.constraints.equality_matrix.shape[1])
    a = at.arguments
    if problem.hinges is None:
        return Iterate(z, slack, dual, nu, a, a, a, a)
    # On the central path of a hinge with half-width w: alpha u = beta t = c w / 2.
    w = spread * problem.hinge_length.view(-1, 1, 1).expand_as(a)
    root = (w**2 + a**2).sqrt()
    small = (w + w**2 / (root + a.abs())) / (w + root)
    large = 2.0 - small
    up, down = torch.where(a > 0, large, small), torch.where(a > 0, small, large)
    weight = torch.where(problem.hinges.weight > 0, problem.hinges.weight, 1.0)
    return Iterate(z, slack, dual, nu, w / down, w / up, 0.5 * weight * up, 0.5 * weight * down)


def _of_bounds(problem: Problem, values: Tensor) -> Tensor:
    """Which inequalities are bounds that the decision is strictly within: ``(B, q)`` bool."""
    counts = problem.rows.constraints.counts
    index = torch.arange(values.shape[1], device=values.device)
    last = counts.affine + counts.lower + counts.upper
    return (index >= counts.affine) & (index < last) & (values < 0)


def multipliers(problem: Problem, iterate: Iterate) -> Multipliers:
    alpha, held = iterate.alpha, torch.zeros_like(iterate.alpha, dtype=torch.bool)
    if problem.hinges is not None:
        weight, length = problem.hinges.weight, problem.hinge_length.view(-1, 1, 1)
        # A share well inside its interval while both parts of the argument vanish.
        held = (iterate.alpha * length > iterate.u * weight) & (weight > 0)
        held = held & (iterate.beta * length > iterate.t * weight)
        alpha = torch.where(weight > 0, alpha, 0.0)
    return Multipliers(iterate.z, iterate.dual, iterate.nu, alpha, held)


def _gap(problem: Problem, iterate: Iterate) -> Tensor:
    """Mean complementarity product, ``(B,)``."""
    total, hinges = (iterate.slack * iterate.dual).sum(1), problem.hinges
    if hinges is not None:
        total = total + hinges.product(iterate.alpha, iterate.u)
        total = total + hinges.product(iterate.beta, iterate.t)
    return total / _num_products(problem, total)


def _gap_ahead(problem: Problem, now: Iterate, way: Iterate, length: Tensor) -> Tensor:
    """:func:`_gap` after a step, from the parts of its square in the length."""
    hinges = problem.hinges

    def product(first: Iterate, second: Iterate) -> Tensor:
        total = (first.slack * second.dual).sum(1)
        if hinges is None:
            return total
        total = total + hinges.product(first.alpha, second.u)
        return total + hinges.product(first.beta, second.t)

    total = product(now, now) + length * (product(now, way) + product(way, now))
    total = total + length**2 * product(way, way)
    return total / _num_products(problem, total)


def _num_products(problem: Problem, like: Tensor) -> Tensor:
    count = problem.rows.present.sum(1).expand(len(like))
    if problem.hinges is not None:
        count = count + 2 * problem.hinges.count
    return count.clamp_min(1)


def _stationarity(problem: Problem, iterate: Iterate, at: FirstOrder) -> Tensor:
    residual = at.gradient + problem.force(at, iterate.dual, iterate.nu)
    if problem.hinges is not None:
        residual = residual + problem.hinges.force(problem.hinges.real(iterate.alpha))
    return residual


def _primal(problem: Problem, iterate: Iterate, at: FirstOrder) -> tuple[Tensor, Tensor]:
    """Residuals of ``c(z) + slack = 0`` and of ``t - u - a(z) = 0``."""
    rows = torch.where(problem.rows.present, at.values + iterate.slack, 0.0)
    hinges = at.arguments
    if problem.hinges is not None:
        hinges = problem.hinges.real(iterate.t - iterate.u - at.arguments)
    return rows, hinges


def error(problem: Problem, iterate: Iterate, at: FirstOrder) -> Tensor:
    """KKT residual relative to the problem's slope and length, ``(B,)``."""
    rows, hinges = _primal(problem, iterate, at)
    feasibility = largest(rows) + largest(hinges) + largest(at.equality)
    gap = _gap(problem, iterate) / (problem.slope * problem.length)
    stationarity = largest(_stationarity(problem, iterate, at))
    return stationarity / problem.slope + feasibility / problem.length + gap


def newton_step(
    problem: Problem,
    iterate: Iterate,
    at: FirstOrder,
    hessian: Tensor,
    bend: Tensor | None,
) -> tuple[Iterate, FirstOrder]:
    """One predictor-corrector step, or a damped one where that would not bring the optimum closer."""
    newton = _Newton(problem, iterate, at, hessian if bend is None else hessian + bend)
    gap = _gap(problem, iterate)
    predictor = newton.direction(torch.zeros_like(gap), None)
    reach = newton.longest(predictor).clamp_max(1.0)
    ahead = _gap_ahead(problem, iterate, predictor, reach)
    centering = (ahead / gap.clamp_min(1e-300)).clamp(1e-8, 1.0) ** 3
    direction = newton.direction(centering * gap, predictor)
    length = (_TO_BOUNDARY * newton.longest(direction)).clamp_max(1.0)
    moved, there = _moved(problem, iterate, direction, length)
    before = error(problem, iterate, at)
    poor = ~(error(problem, moved, there) <= (1 - 0.01 * length) * before)
    for least in _DAMPED_CENTERING:
        rows = torch.nonzero(poor).flatten()
        if not rows.numel():
            return moved, there
        level = centering.clamp_min(least) * gap
        direction = newton.direction(level, None)
        longest = (_TO_BOUNDARY * newton.longest(direction)).clamp_max(1.0)[rows]
        part, begun = problem.select(rows), iterate.select(rows)
        trial, length = _damped(
            part, begun, at.select(rows), direction.select(rows), longest, level[rows]
        )
        for f in fields(moved):
            getattr(moved, f.name)[rows] = getattr(trial, f.name)
        # A step cut this short points out of the neighbourhood of the central path: back to it.
        poor = torch.zeros_like(poor).index_copy(0, rows, length < _SHORT)
        there = problem.first_order(moved.z)
    return moved, there


def _moved(
    problem: Problem, iterate: Iterate, direction: Iterate, length: Tensor
) -> tuple[Iterate, FirstOrder]:
    """The iterate after a step; slacks of smooth rows that hold strictly follow their values."""
    moved = iterate.moved(direction, length)
    at = problem.first_order(moved.z)
    count = problem.rows.constraints.counts.smooth
    if count:
        room = -at.values[:, -count:]
        slack = moved.slack[:, -count:]
        settled = torch.where(room > (1 - _TO_BOUNDARY) * iterate.slack[:, -count:], room, slack)
        moved.slack = torch.cat([moved.slack[:, :-count], settled], dim=1)
    return moved, at


def _damped(
    problem: Problem,
    iterate: Iterate,
    at: FirstOrder,
    direction: Iterate,
    length: Tensor,
    target: Tensor,
) -> tuple[Iterate, Tensor]:
    """Halve the step of every instance until its perturbed KKT residual falls."""
    merit = _merit(problem, iterate, at, target)
    for _ in range(_MAX_HALVINGS):
        trial, found = _moved(problem, iterate, direction, length)
        worse = ~(_merit(problem, trial, found, target) <= (1 - 0.01 * length) * merit)
        if not bool(worse.any()):
            break
        length = torch.where(worse, 0.5 * length, length)
    return trial, length


def _merit(problem: Problem, iterate: Iterate, at: FirstOrder, target: Tensor) -> Tensor:
    """Norm of the perturbed KKT residual, each part in its unit: damped Newton steps reduce it."""
    slope, length = problem.slope.unsqueeze(1), problem.length.unsqueeze(1)
    rows, hinges = _primal(problem, iterate, at)
    present = problem.rows.present
    products = torch.where(present, iterate.slack * iterate.dual - target.unsqueeze(1), 0.0)
    parts = [
        _stationarity(problem, iterate, at) / slope,
        rows / length,
        at.equality / length,
        products / (slope * length),
    ]
    if problem.hinges is not None:
        real, level = problem.hinges.weight > 0, target.view(-1, 1, 1)
        parts.append(hinges.flatten(1) / length)
        for product in (iterate.alpha * iterate.u, iterate.beta * iterate.t):
            parts.append(torch.where(real, product - level, 0.0).flatten(1) / (slope * length))
    return torch.stack([part.square().sum(1) for part in parts]).sum(0).sqrt()


class _Newton:
    """The Newton equations at an iterate, factored once for predictor and corrector."""

    def __init__(self, problem: Problem, iterate: Iterate, at: FirstOrder, hessian: Tensor):
        self._problem, self._iterate, self._at = problem, iterate, at
        self._present = problem.rows.present
        self._row_weight = torch.where(self._present, iterate.dual / iterate.slack, 0.0)
        self._stationarity = _stationarity(problem, iterate, at)
        self._row_residual, self._hinge_residual = _primal(problem, iterate, at)
        self._stiffness = iterate.alpha
        if problem.hinges is not None:
            softness = iterate.t / iterate.beta + iterate.u / iterate.alpha
            self._stiffness = problem.hinges.real(1.0 / softness)
        system = problem.system(at, hessian, self._row_weight, self._stiffness)
        unit = problem.slope / problem.length
        scale = torch.maximum(largest(hessian.diagonal(dim1=1, dim2=2)), 1e-2 * unit)
        self._factor = Factor(system, problem.rows.constraints.equality_matrix, scale)

    def direction(self, target: Tensor, predictor: Iterate | None) -> Iterate:
        """Direction to complementarity products ``target``, less second-order terms."""
        now, problem = self._iterate, self._problem
        row_gap = target.unsqueeze(1) - now.slack * now.dual
        if predictor is not None:
            row_gap = row_gap - predictor.slack * predictor.dual
        row_shift = torch.where(self._present, row_gap / now.slack, 0.0)
        row_shift = row_shift + self._row_weight * self._row_residual
        force = problem.force(self._at, row_shift, torch.zeros_like(now.nu))
        right = -self._stationarity - force
        hinge_shift = up_gap = down_gap = now.alpha
        if problem.hinges is not None:
            level = target.view(-1, 1, 1)
            up_gap, down_gap = level - now.alpha * now.u, level - now.beta * now.t
            if predictor is not None:
                up_gap = up_gap - predictor.alpha * predictor.u
                down_gap = down_gap - predictor.beta * predictor.t
            hinge_shift = up_gap / now.alpha - down_gap / now.beta - self._hinge_residual
            hinge_shift = self._stiffness * hinge_shift
            right = right - problem.hinges.force(hinge_shift)
        dz, dnu = self._factor.solve(right, -self._at.equality)
        push = problem.push(self._at, dz)
        d_slack = torch.where(self._present, -self._row_residual - push, 0.0)
        d_dual = row_shift + self._row_weight * push
        if problem.hinges is None:
            return Iterate(dz, d_slack, d_dual, dnu, *[now.alpha] * 4)
        d_alpha = hinge_shift + self._stiffness * problem.hinges.push(dz)
        d_u = problem.hinges.real((up_gap - now.u * d_alpha) / now.alpha)
        d_t = problem.hinges.real((down_gap + now.t * d_alpha) / now.beta)
        return Iterate(dz, d_slack, d_dual, dnu, d_t, d_u, d_alpha, -d_alpha)

    def longest(self, direction: Iterate) -> Tensor:
        """Longest step that keeps slacks and multipliers non-negative, and z in sight: ``(B,)``."""
        lengths = [torch.full_like(self._problem.slope, torch.inf)]
        for name in ("slack", "dual", "t", "u", "alpha", "beta"):
            value = getattr(self._iterate, name).flatten(1)
            if value.shape[1]:
                change = getattr(direction, name).flatten(1)
                lengths.append(1.0 / (-change / value.clamp_min(1e-300)).amax(1).clamp_min(1e-300))
        # Where a smoothed cost is nearly flat, Newton's step is of any length.
        size = largest(direction.z).clamp_min(1e-300)
        lengths.append((self._problem.length + largest(self._iterate.z)) / size)
        return torch.stack(lengths).amin(0)
