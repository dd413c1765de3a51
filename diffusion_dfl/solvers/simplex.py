"""Solver of the mean-variance portfolio: an active set on the simplex, many assets a step.

An optimal portfolio holds few assets, so the work is small systems on the assets held and one
gradient over all assets a step. A step solves the program on the current assets without their
bounds. Assets that would go short leave: all at once if that lowers the cost most, else the first
one met, and the step ends there. Then assets of low reduced cost enter together, up to a quota that
doubles after good steps and is halved where a bound cut a step short. The cost never rises, and an
asset enters only after it fell or at the optimum of the current set, so no set recurs.

Fewer scenarios than assets, equal assets and linear programs leave the small systems singular. A
damping of relative size 1e-12 makes every step well defined (along directions without curvature it
is a long step that the bounds cut short); it acts on the step, not on the portfolio, so that
repeated steps reach the undamped optimum (a proximal-point iteration). The gradient, computed from
the scenarios, decides the status.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.portfolio import MeanVariancePortfolio
from diffusion_dfl.solvers.solution import Solution, Status

_TOLERANCE = 1e-11
# Rounding error of a reduced cost, relative to the terms it is the sum of.
_ROUNDING = 1e-13
_DAMPING = 1e-12
# Damping of assets without any curvature, relative to the largest curvature of an instance.
_FLOOR = 1e-24
# Cholesky factors of singular systems exist with the first damping but for bad luck.
_STRONG_DAMPING = 1e-8
# Assets enter together whose reduced cost is at least this share of the most negative one.
_ENTERING_SHARE = 0.7
# The first quota of assets that enter together, and the largest beside the number held: what enters
# in excess may have to leave one by one.
_FIRST_QUOTA = 16
# With this quota or more, assets enter also after a step that a bound cut short.
_EAGER_QUOTA = 8
# The tolerance grows tenfold after so many steps plus the number of assets, and once more.
_PATIENCE = 50
# Up to so many assets, and no more than scenarios, Q is formed: its n^2 M pay off in a few steps.
_MATRIX_SIZE = 128
# Holdings of a first guess below this share of the largest one are a solver's noise.
_NEGLIGIBLE = 1e-8


def solve_portfolio(
    program: MeanVariancePortfolio, instances: Instances, start: Tensor | None = None
) -> Solution:
    """Solve ``min_z sum_m omega_m f(y_m, z)`` on the simplex for a batch.

    Args:
        program: risk aversion and ridge.
        instances: valid ones, whose bandwidth is ignored: the program is smooth.
        start: ``(B, n)``, a portfolio whose positive holdings are the first guess of the assets
            held; the best single asset where it has none, or if None.

    Returns:
        The :class:`Solution`; holdings that leave the portfolio are exactly 0. Where the optimum is
        not unique, one of the optima. ``duals (B, n)`` are the reduced costs,
        ``equality_duals (B, 1)`` minus the marginal cost of the assets held, ``at_kink (B, M, 0)``.
    """
    problem = _Problem.of(program, instances)
    z = problem.best_single_asset()
    if start is not None:
        guess = torch.where(start > _NEGLIGIBLE * start.amax(1, keepdim=True), start, 0.0)
        guess = guess.clamp_min(0)
        total = guess.sum(1, keepdim=True)
        z = torch.where((total > 0) & total.isfinite(), guess / total.clamp_min(1e-300), z)
    z, iterations = _active_set(problem, z)
    return _certify(program, problem, instances, z, iterations)


@dataclass(frozen=True)
class _Problem:
    """``min z'Q z/2 - mean'z`` with Q as a matrix, or by its factor where that is smaller.

    Attributes:
        scenarios: ``(B, M, n)``.
        risk: ``alpha omega``, ``(B, M)``.
        ridge: ``(B, 1)``.
        matrix: Q, ``(B, n, n)``; None for ``Q = Y' diag(risk) Y + ridge I``.
        mean: ``sum_m omega_m y_m``, ``(B, n)``.
        size: bound of the sum of the absolute values in ``mean``, ``(B, n)``.
        diagonal: of Q, ``(B, n)``.
    """

    scenarios: Tensor
    risk: Tensor
    ridge: Tensor
    matrix: Tensor | None
    mean: Tensor
    size: Tensor
    diagonal: Tensor

    @staticmethod
    def of(program: MeanVariancePortfolio, instances: Instances) -> "_Problem":
        scenarios, weights = instances.scenarios, instances.weights
        total = weights.sum(1, keepdim=True)
        ridge = program.ridge * total
        mean = torch.bmm(weights.unsqueeze(1), scenarios).squeeze(1)
        matrix = None
        if scenarios.shape[2] > min(scenarios.shape[1], _MATRIX_SIZE):
            second = torch.bmm(weights.unsqueeze(1), scenarios.square()).squeeze(1)
        else:
            matrix = torch.bmm((scenarios * weights.unsqueeze(2)).mT, scenarios)
            second = matrix.diagonal(dim1=1, dim2=2).clone()
            matrix.mul_(program.risk_aversion)
            matrix.diagonal(dim1=1, dim2=2).add_(ridge)
        # sum omega |y| <= sqrt(sum omega  sum omega y^2)
        size = (total * second).sqrt()
        diagonal = program.risk_aversion * second + ridge
        risk = program.risk_aversion * weights
        return _Problem(scenarios, risk, ridge, matrix, mean, size, diagonal)

    def select(self, rows: Tensor) -> "_Problem":
        """The instances ``rows``."""
        matrix = None if self.matrix is None else self.matrix[rows]
        # With a matrix the scenarios are not used again.
        scenarios = self.scenarios[rows] if matrix is None else self.scenarios[:0]
        return _Problem(
            scenarios,
            self.risk[rows],
            self.ridge[rows],
            matrix,
            self.mean[rows],
            self.size[rows],
            self.diagonal[rows],
        )

    def best_single_asset(self) -> Tensor:
        """The one-hot portfolio of least cost, ``(B, n)``."""
        best = (0.5 * self.diagonal - self.mean).argmin(1, keepdim=True)
        return torch.zeros_like(self.mean).scatter(1, best, 1.0)

    def gradient(self, z: Tensor) -> Tensor:
        """``Q z - mean``: ``(B, n)``."""
        if self.matrix is not None:
            return torch.bmm(self.matrix, z.unsqueeze(2)).squeeze(2) - self.mean
        slope = self.risk * torch.bmm(self.scenarios, z.unsqueeze(2)).squeeze(2)
        product = torch.bmm(slope.unsqueeze(1), self.scenarios).squeeze(1)
        return product + self.ridge * z - self.mean

    def block(self, order: Tensor, pivot: Tensor) -> Tensor:
        """Hessian along ``e_i - e_pivot`` for the assets i in ``order (B, k)``: ``(B, k, k)``.

        Scenarios are subtracted before they are squared, so that nearly equal assets keep their
        curvature; from the matrix it is known to the rounding of Q.
        """
        if self.matrix is not None:
            batch = torch.arange(len(order), device=order.device).view(-1, 1, 1)
            block = self.matrix[batch, order.unsqueeze(2), order.unsqueeze(1)]
            row = self.matrix[batch.squeeze(2), pivot, order]
            corner = self.matrix[batch.squeeze(2), pivot, pivot]
            return block - row.unsqueeze(1) - row.unsqueeze(2) + corner.unsqueeze(2)
        every = torch.cat([order, pivot], dim=1).unsqueeze(1)
        columns = self.scenarios.gather(2, every.expand(-1, self.scenarios.shape[1], -1))
        change = columns[:, :, :-1] - columns[:, :, -1:]
        block = torch.bmm((change * self.risk.unsqueeze(2)).mT, change)
        block += self.ridge.unsqueeze(2)
        block.diagonal(dim1=1, dim2=2).add_(self.ridge)
        return block

    def reduced_costs(self, z: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """``gradient - z'gradient`` and the size of the terms in it: ``(B, n)`` both.

        The largest negative entry is the Frank-Wolfe gap, a bound of the cost above the optimum.
        """
        root = self.diagonal.sqrt()
        terms = root * (root * z).sum(1, keepdim=True) + self.size
        reduced = gradient - (z * gradient).sum(1, keepdim=True)
        return reduced, terms + (z * terms).sum(1, keepdim=True)


def _active_set(problem: _Problem, z: Tensor) -> tuple[Tensor, Tensor]:
    """From a portfolio to the optimum: ``(B, n) -> (B, n)`` and the steps ``(B,)`` it took."""
    result, counts = z.clone(), z.new_zeros(len(z), dtype=torch.int64)
    rows = torch.arange(len(z), device=z.device)
    if rows.numel() == 0 or z.shape[1] == 1:
        return result, counts
    done = torch.zeros_like(rows, dtype=torch.bool)
    gradient = problem.gradient(z)
    quota = torch.full_like(rows, _FIRST_QUOTA)
    entering = _entering(problem, z, gradient, _ROUNDING, quota)[0]
    patience = _PATIENCE + z.shape[1]
    for step in range(4 * patience):
        moved, stays, fell, swift = _step(problem, z, gradient, entering)
        z = torch.where(done.unsqueeze(1), z, moved)
        counts[rows] += (~done).to(counts.dtype)
        gradient = problem.gradient(z)
        most = (z > 0).sum(1).clamp_min(_FIRST_QUOTA)
        quota = torch.where(swift, torch.minimum(2 * quota, most), (quota // 2).clamp_min(1))
        rounding = _ROUNDING * 10.0 ** min(step // patience, 2)
        fresh, settled = _entering(problem, z, gradient, rounding, quota)
        # After a step that moved nothing the set shrinks until one moves.
        ready = swift | (fell & (quota >= _EAGER_QUOTA))
        entering = stays | (fresh & ready.unsqueeze(1))
        done = done | (settled & ~entering.any(1)) | gradient.isnan().any(1)
        left = int((~done).sum())
        if left == 0 or 2 * left <= len(rows):
            result[rows] = z
            keep = torch.nonzero(~done).flatten()
            if left == 0:
                break
            problem, rows, done, quota = problem.select(keep), rows[keep], done[keep], quota[keep]
            z, gradient, entering = z[keep], gradient[keep], entering[keep]
    result[rows] = z
    return result, counts


def _entering(
    problem: _Problem, z: Tensor, gradient: Tensor, rounding: float, quota: Tensor
) -> tuple[Tensor, Tensor]:
    """Assets to let in, ``(B, n)``, and whether z is optimal to ``rounding``, ``(B,)``.

    Those of least reduced cost, ``quota (B,)`` of them or fewer, and their ties.
    """
    reduced, terms = problem.reduced_costs(z, gradient)
    noise = rounding * terms
    outside = z == 0
    cheap = outside & (reduced < -noise)
    level = outside | (reduced <= noise)
    lowest, _ = torch.where(cheap, reduced, 0.0).sort(dim=1)
    last = (quota.clamp_max(z.shape[1]) - 1).unsqueeze(1)
    limit = torch.minimum(_ENTERING_SHARE * lowest[:, :1], lowest.gather(1, last))
    return cheap & (reduced <= limit), level.all(1) & (reduced >= -noise).all(1)


def _step(
    problem: _Problem, z: Tensor, gradient: Tensor, entering: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step on the assets held or entering.

    Returns:
        The new portfolio ``(B, n)``; assets that still wait at 0 to grow, ``(B, n)``; whether the
        cost fell, ``(B,)``; whether no bound cut the step short, ``(B,)``.
    """
    active = (z > 0) | entering
    width = max(int(active.sum(1).amax()), 1)
    order = active.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    member = active.gather(1, order)
    mask = member.to(z.dtype)
    held = z.gather(1, order) * mask
    hessian, slope, direction = _newton_direction(problem, order, member, gradient)
    room = torch.where(direction < 0, held / -direction, torch.inf)
    length = room.amin(1, keepdim=True).clamp_max(1)
    whole = room.amin(1, keepdim=True) >= 1
    walked = torch.where(room <= length, 0.0, held + length * direction).clamp_min(0)
    clipped = (held + direction).clamp_min(0)
    clipped = clipped / clipped.sum(1, keepdim=True)
    moves = torch.stack([clipped - held, length * direction], dim=2)
    change = (moves * (slope.unsqueeze(2) + 0.5 * torch.bmm(hessian, moves))).sum(1)
    clip = (change[:, :1] < change[:, 1:]) & ~whole
    new = torch.where(clip, clipped, walked) * mask
    new = new / new.sum(1, keepdim=True)
    waiting = ~clip & (length == 0) & (held == 0) & (direction > 0) & member
    fell = torch.where(clip, change[:, :1], change[:, 1:]) < 0
    return (
        torch.zeros_like(z).scatter(1, order, new),
        torch.zeros_like(active).scatter(1, order, waiting),
        fell.squeeze(1),
        (whole | clip).squeeze(1),
    )


def _newton_direction(
    problem: _Problem, order: Tensor, member: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Hessian and gradient with the budget eliminated, and the damped step of sum 0 to the minimum.

    ``(B, k, k), (B, k), (B, k)`` over the assets in ``order``, 0 where they are no ``member``. The
    asset of least curvature gives what the others take: its row, column and slope are 0, and
    subtracting its curvature from the others' loses no digits.
    """
    diagonal = problem.diagonal.gather(1, order)
    least = torch.where(member, diagonal, torch.inf).argmin(1, keepdim=True)
    others = member.scatter(1, least, False)
    mask = others.to(gradient.dtype)
    pivot = order.gather(1, least)
    slope = (gradient.gather(1, order) - gradient.gather(1, pivot)) * mask
    hessian = problem.block(order, pivot) * (mask.unsqueeze(1) * mask.unsqueeze(2))
    largest = problem.diagonal.amax(1, keepdim=True) + problem.size.amax(1, keepdim=True)
    damping = _DAMPING * diagonal + _FLOOR * largest + 1e-300
    damped = hessian + torch.diag_embed(torch.where(others, damping, 1.0))
    factor, failed = torch.linalg.cholesky_ex(damped)
    if bool(failed.any()):
        again = (_STRONG_DAMPING / _DAMPING) * damping * (failed > 0).unsqueeze(1)
        factor, _ = torch.linalg.cholesky_ex(damped + torch.diag_embed(again))
    right = -slope.unsqueeze(2)
    step = torch.cholesky_solve(right, factor)
    # Once more on what the damping left over: where there is curvature, nothing of it remains.
    step = step + torch.cholesky_solve(right - torch.bmm(hessian, step), factor)
    direction = step.squeeze(2) * mask
    direction = direction.scatter(1, least, -direction.sum(1, keepdim=True))
    return hessian, slope, direction


def _certify(
    program: MeanVariancePortfolio,
    problem: _Problem,
    instances: Instances,
    z: Tensor,
    iterations: Tensor,
) -> Solution:
    """Duals, residuals and status from the gradient at z."""
    subgradients = program.gradients(instances, z)
    gradient = torch.bmm(instances.weights.unsqueeze(1), subgradients).squeeze(1)
    reduced, terms = problem.reduced_costs(z, gradient)
    duals = torch.where(z > 0, 0.0, reduced.clamp_min(0))
    stationarity = (reduced - duals).abs()
    infeasible = torch.maximum((z.sum(1) - 1.0).abs(), (-z).amax(1).clamp_min(0))
    unused = (duals * z).abs().amax(1)
    good = (stationarity <= _TOLERANCE * terms).all(1) & (infeasible <= _TOLERANCE) & (unused == 0)
    return Solution(
        decision=z,
        duals=duals,
        equality_duals=-(z * gradient).sum(1, keepdim=True),
        subgradients=subgradients,
        at_kink=z.new_zeros(*instances.weights.shape, 0, dtype=torch.bool),
        status=torch.where(good, int(Status.SOLVED), int(Status.NOT_CONVERGED)),
        iterations=iterations,
        residuals=torch.stack([stationarity.amax(1), infeasible, unused], dim=1),
    )
