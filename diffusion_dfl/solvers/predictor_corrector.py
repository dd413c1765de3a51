"""Steps of the interior point: Mehrotra's predictor-corrector with Gondzio's corrections of centrality,
damped where F is not quadratic.

Inequalities get slacks. A hinge is ``c t`` with ``a(z) = t - u``, ``t, u >= 0``; its multipliers
``alpha`` (of u) and ``beta = c - alpha`` (of t) are eliminated together with t and u: with
``D = 1 / (t / beta + u / alpha)`` it adds ``D grad_a grad_a'`` to the Hessian, so a Newton step
factors one ``n x n`` matrix an instance, whatever the number of hinges (Mehrotra, SIAM J. Optim.
2(4), 1992; Boyd and Vandenberghe, Convex Optimization, section 11.7). Slacks, t and u are the rooms
of one row of pairs, their multipliers the prices: each price times its room is to vanish. A factor is
used for further directions that bring the products that a longer step would spoil back towards their
target (Gondzio, Comput. Optim. Appl. 6, 1996).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from diffusion_dfl.solvers.active_set import Multipliers
from diffusion_dfl.solvers.newton_system import FirstOrder, Problem
from diffusion_dfl.solvers.roots import longest_share
from diffusion_dfl.solvers.rows import largest

_TO_BOUNDARY = 0.995
_MAX_HALVINGS = 25
# Least centering of damped steps; the next one follows a step shorter than this.
_DAMPED_CENTERING, _SHORT = (0.1, 1.0), 0.02
# Where the slope turns is looked for down to this share of a step, and tried if the residual falls to this.
_SHORTEST, _TURNED = 1e-16, 0.999
# How much longer a correction tries to make a step, and the share of that which it must gain.
_LONGER, _WORTH = 0.3, 0.1
# Products are brought back into this range around their target.
_CENTRAL = (0.1, 10.0)


@dataclass(frozen=True)
class Iterate:
    """Where the iteration stands.

    Attributes:
        problem: what is solved.
        z, nu: decisions and multipliers of equalities.
        room, price: of the pairs ``(B, q + 2 M K)``: slacks of rows, then t and u of hinges, and their
            multipliers dual, beta and alpha; 1 for rows and hinges that are not there.
        at: the program at z.
    """

    problem: Problem
    z: Tensor
    nu: Tensor
    room: Tensor
    price: Tensor
    at: FirstOrder

    def select(self, rows: Tensor) -> "Iterate":
        """The instances ``rows``."""
        return Iterate(
            self.problem.select(rows),
            self.z[rows],
            self.nu[rows],
            self.room[rows],
            self.price[rows],
            self.at.select(rows),
        )

    @property
    def slack(self) -> Tensor:
        """Of rows, ``(B, q)``."""
        return self.room[:, : self.at.values.shape[1]]

    @property
    def dual(self) -> Tensor:
        """Multipliers of rows, ``(B, q)``; 0 for those that are not there."""
        return self.problem.rows.real(self._row_prices)

    @property
    def _row_prices(self) -> Tensor:
        return self.price[:, : self.at.values.shape[1]]

    def of_hinges(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """The two values ``(B, M, K)`` of a hinge, of t and of u, from a tensor like ``room``."""
        both = pairs[:, self.at.values.shape[1] :].view(len(pairs), 2, *self.at.arguments.shape[1:])
        t, u = both.unbind(1)
        return t, u

    @cached_property
    def gap(self) -> Tensor:
        """Mean product of a pair, ``(B,)``."""
        total = self.problem.of_pairs(self.room * self.price).sum(1)
        return total / self.problem.num_pairs

    @cached_property
    def stationarity(self) -> Tensor:
        """Gradient of the Lagrangian, ``(B, n)``."""
        residual = self.at.gradient + self.problem.force(self.at, self.dual, self.nu)
        hinges = self.problem.hinges
        if hinges is not None:
            residual = residual + hinges.force(hinges.real(self.of_hinges(self.price)[1]))
        return residual

    @cached_property
    def row_residual(self) -> Tensor:
        """``c(z) + slack``, ``(B, q)``."""
        return self.problem.rows.real(self.at.values + self.slack)

    @cached_property
    def hinge_residual(self) -> Tensor:
        """``t - u - a(z)``, ``(B, M, K)``."""
        if self.problem.hinges is None:
            return self.at.arguments
        t, u = self.of_hinges(self.room)
        return self.problem.hinges.real(t - u - self.at.arguments)

    @cached_property
    def error(self) -> Tensor:
        """KKT residual relative to the problem's slope and length, ``(B,)``."""
        problem = self.problem
        apart = (
            largest(self.row_residual) + largest(self.hinge_residual) + largest(self.at.equality)
        )
        gap = self.gap / (problem.slope * problem.length)
        return largest(self.stationarity) / problem.slope + apart / problem.length + gap

    def merit(self, target: Tensor) -> Tensor:
        """Norm of the KKT residual perturbed to products ``target (B,)``, each part in its unit:
        damped Newton steps reduce it."""
        slope, length = self.problem.slope.unsqueeze(1), self.problem.length.unsqueeze(1)
        products = self.problem.of_pairs(self.room * self.price - target.unsqueeze(1))
        parts = [
            self.stationarity / slope,
            self.row_residual / length,
            self.hinge_residual.flatten(1) / length,
            self.at.equality / length,
            products / (slope * length),
        ]
        return torch.stack([part.square().sum(1) for part in parts]).sum(0).sqrt()

    def multipliers(self) -> Multipliers:
        """As the active set takes them."""
        hinges = self.problem.hinges
        if hinges is None:
            alpha = self.z.new_zeros(len(self.z), 0, 0)
            return Multipliers(self.z, self.dual, self.nu, alpha, alpha > 0)
        (t, u), (beta, alpha) = self.of_hinges(self.room), self.of_hinges(self.price)
        weight, length = hinges.weight, self.problem.hinge_length.view(-1, 1, 1)
        # A share well inside its interval while both parts of the argument vanish.
        held = (alpha * length > u * weight) & (weight > 0) & (beta * length > t * weight)
        return Multipliers(self.z, self.dual, self.nu, hinges.real(alpha), held)

    def active(self) -> Multipliers:
        """:meth:`multipliers`, 0 of rows that do not bind."""
        point, problem = self.multipliers(), self.problem
        binds = point.dual * problem.length.unsqueeze(1) > problem.slope.unsqueeze(1) * self.slack
        return replace(point, dual=torch.where(binds & problem.rows.present, point.dual, 0.0))

    def moved(self, way: "Direction", length: Tensor) -> "Iterate":
        """After a step of ``length (B,)``; slacks of smooth rows that hold strictly follow their values."""
        share = length.unsqueeze(1)
        z, nu = torch.addcmul(self.z, share, way.z), torch.addcmul(self.nu, share, way.nu)
        room = torch.addcmul(self.room, share, way.room)
        price = torch.addcmul(self.price, share, way.price)
        at = self.problem.first_order(z)
        count = self.problem.rows.constraints.counts.smooth
        if count:
            smooth = slice(at.values.shape[1] - count, at.values.shape[1])
            found = -at.values[:, smooth]
            strict = found > (1 - _TO_BOUNDARY) * self.room[:, smooth]
            room[:, smooth] = torch.where(strict, found, room[:, smooth])
        return Iterate(self.problem, z, nu, room, price, at)


@dataclass(frozen=True)
class Direction:
    """Change of an :class:`Iterate`."""

    z: Tensor
    nu: Tensor
    room: Tensor
    price: Tensor

    def select(self, rows: Tensor) -> "Direction":
        """The instances ``rows``."""
        return Direction(self.z[rows], self.nu[rows], self.room[rows], self.price[rows])

    def where(self, chosen: Tensor, other: "Direction") -> "Direction":
        """This one in the instances ``chosen (B,)``, the other elsewhere."""
        mine = chosen.unsqueeze(1)
        return Direction(
            torch.where(mine, self.z, other.z),
            torch.where(mine, self.nu, other.nu),
            torch.where(mine, self.room, other.room),
            torch.where(mine, self.price, other.price),
        )


def started(problem: Problem, z: Tensor, spread: float) -> Iterate:
    """Rooms and prices for a first decision, no room below a share ``spread`` of the length.

    Steps keep a decision within the bounds that it starts within: they may be the domain of its cost.
    """
    width = spread * problem.length.unsqueeze(1)
    at = problem.first_order(z)
    present = problem.rows.present
    least = torch.where(_of_bounds(problem, at.values), torch.zeros_like(width), width)
    slack = torch.where(present, torch.maximum(-at.values, least), 1.0)
    level = (problem.slope.unsqueeze(1) * width).expand_as(slack)
    dual = torch.where(present, 0.1 * level / slack, 1.0)
    nu = z.new_zeros(len(z), problem.rows.constraints.equality_matrix.shape[1])
    if problem.hinges is None:
        return Iterate(problem, z, nu, slack, dual, at)
    # On the central path of a hinge with half-width w: alpha u = beta t = c w / 2.
    a = at.arguments
    w = spread * problem.hinge_length.view(-1, 1, 1).expand_as(a)
    root = (w**2 + a**2).sqrt()
    small = (w + w**2 / (root + a.abs())) / (w + root)
    large = 2.0 - small
    up, down = torch.where(a > 0, large, small), torch.where(a > 0, small, large)
    weight = torch.where(problem.hinges.weight > 0, problem.hinges.weight, 1.0)
    room = torch.cat([slack, (w / down).flatten(1), (w / up).flatten(1)], dim=1)
    prices = [dual, (0.5 * weight * down).flatten(1), (0.5 * weight * up).flatten(1)]
    return Iterate(problem, z, nu, room, torch.cat(prices, dim=1), at)


def _of_bounds(problem: Problem, values: Tensor) -> Tensor:
    """Which inequalities are bounds that the decision is strictly within: ``(B, q)`` bool."""
    counts = problem.rows.constraints.counts
    index = torch.arange(values.shape[1], device=values.device)
    last = counts.affine + counts.lower + counts.upper
    return (index >= counts.affine) & (index < last) & (values < 0)


def newton_step(iterate: Iterate, hessian: Tensor, bend: Tensor | None) -> Iterate:
    """One predictor-corrector step, or a damped one where that would not bring the optimum closer."""
    newton = _Newton(iterate, hessian if bend is None else hessian + bend)
    products = -iterate.room * iterate.price
    predictor = newton.direction(products)
    reach = newton.longest(predictor).clamp_max(1.0)
    ahead = newton.products(predictor, reach).sum(1) / iterate.problem.num_pairs
    centering = (ahead / iterate.gap.clamp_min(1e-300)).clamp(1e-8, 1.0) ** 3
    target = (centering * iterate.gap).unsqueeze(1)
    second = torch.addcmul(products + target, predictor.room, predictor.price, value=-1)
    direction, longest = newton.centred(second, target)
    length = (_TO_BOUNDARY * longest).clamp_max(1.0)
    moved = iterate.moved(direction, length)
    poor = ~(moved.error <= (1 - 0.01 * length) * iterate.error)
    for least in _DAMPED_CENTERING:
        rows = torch.nonzero(poor).flatten()
        if not rows.numel():
            return moved
        level = centering.clamp_min(least) * iterate.gap
        direction = newton.direction(products + level.unsqueeze(1))
        longest = (_TO_BOUNDARY * newton.longest(direction)).clamp_max(1.0)[rows]
        trial, length = _damped(iterate.select(rows), direction.select(rows), longest, level[rows])
        for name in ("z", "nu", "room", "price"):
            getattr(moved, name)[rows] = getattr(trial, name)
        # A step cut this short points out of the neighbourhood of the central path: back to it.
        poor = torch.zeros_like(poor).index_copy(0, rows, length < _SHORT)
        at = iterate.problem.first_order(moved.z)
        moved = Iterate(iterate.problem, moved.z, moved.nu, moved.room, moved.price, at)
    return moved


def _damped(
    iterate: Iterate, direction: Direction, length: Tensor, target: Tensor
) -> tuple[Iterate, Tensor]:
    """Halve the step of every instance until its perturbed KKT residual falls."""
    merit = iterate.merit(target)
    bent = iterate.problem.quadratic is None
    for halving in range(_MAX_HALVINGS):
        trial = iterate.moved(direction, length)
        worse = ~(trial.merit(target) <= (1 - 0.01 * length) * merit)
        if not bool(worse.any()):
            break
        shorter = 0.5 * length
        if bent and halving == 0:
            # From one flat tail into the other the residual does not fall: it does where the slope turns.
            turn = _turn(iterate, direction, length)
            falls = iterate.moved(direction, turn).merit(target) <= _TURNED * merit
            shorter = torch.where(falls, turn, shorter)
        length = torch.where(worse, shorter, length)
    return trial, length


def _turn(iterate: Iterate, direction: Direction, length: Tensor) -> Tensor:
    """The longest step up to ``length (B,)`` at whose end the Lagrangian still falls: ``(B,)``.

    Its rows are taken as straight, with the multipliers of the iterate.
    """
    problem, way = iterate.problem, direction.z
    begun = (iterate.stationarity * way).sum(1)

    def falls(share: Tensor) -> Tensor:
        at = problem.first_order(torch.addcmul(iterate.z, (share * length).unsqueeze(1), way))
        return begun + ((at.gradient - iterate.at.gradient) * way).sum(1) <= 0

    ends = torch.full_like(length, _SHORTEST), torch.ones_like(length)
    return longest_share(falls, *ends) * length


class _Newton:
    """The Newton equations at an iterate, factored once for all of its directions."""

    def __init__(self, iterate: Iterate, hessian: Tensor):
        problem, at = iterate.problem, iterate.at
        self._problem, self._now = problem, iterate
        self._num_rows = at.values.shape[1]
        self._by_room, self._by_price = iterate.room.reciprocal(), iterate.price.reciprocal()
        self._ratio = iterate.room * self._by_price
        self._row_weight = problem.rows.real(iterate.dual * self._by_room[:, : self._num_rows])
        self._stiffness = at.arguments
        if problem.hinges is not None:
            softness, other = iterate.of_hinges(self._ratio)
            self._stiffness = problem.hinges.real((softness + other).reciprocal())
        unit = problem.slope / problem.length
        scale = torch.maximum(largest(hessian.diagonal(dim1=1, dim2=2)), 1e-2 * unit)
        self._factor = problem.factor(at, hessian, self._row_weight, self._stiffness, scale)

    def direction(self, change: Tensor) -> Direction:
        """Direction that changes the pairs' products by ``change (B, q + 2 M K)``, to first order."""
        now, problem, rows = self._now, self._problem, self._num_rows
        change = problem.of_pairs(change)
        row_shift = torch.addcmul(
            change[:, :rows] * self._by_room[:, :rows], self._row_weight, now.row_residual
        )
        force = problem.force(now.at, row_shift, torch.zeros_like(now.nu))
        right = -now.stationarity - force
        hinges = problem.hinges
        if hinges is not None:
            by_price = change * self._by_price
            down, up = now.of_hinges(by_price)
            shift = self._stiffness * (up - down - now.hinge_residual)
            right = right - hinges.force(shift)
        dz, dnu = self._factor.solve(right, -now.at.equality)
        push = problem.push(now.at, dz)
        d_slack = problem.rows.real(-now.row_residual - push)
        d_dual = torch.addcmul(row_shift, self._row_weight, push)
        if hinges is None:
            return Direction(dz, dnu, d_slack, d_dual)
        d_alpha = (shift + self._stiffness * hinges.push(dz)).flatten(1)
        d_price = torch.cat([d_dual, -d_alpha, d_alpha], dim=1)
        d_room = problem.of_pairs(torch.addcmul(by_price, self._ratio, d_price, value=-1))
        d_room[:, :rows] = d_slack
        return Direction(dz, dnu, d_room, d_price)

    def centred(self, change: Tensor, target: Tensor) -> tuple[Direction, Tensor]:
        """A direction like ``direction(change)`` that allows a longer step, and its longest.

        Products that a longer step would leave far from ``target (B, 1)`` are brought back.
        """
        direction = self.direction(change)
        longest = self.longest(direction)
        if bool((longest + _WORTH * _LONGER > 1.0).all()):
            return direction, longest
        products = self.products(direction, (longest + _LONGER).clamp_max(1.0))
        central = torch.maximum(products, _CENTRAL[0] * target)
        central = torch.minimum(central, _CENTRAL[1] * target)
        further = torch.maximum(central - products, -_CENTRAL[1] * target)
        other = self.direction(change + further)
        reach = self.longest(other)
        better = reach >= longest + _WORTH * _LONGER
        return other.where(better, direction), torch.where(better, reach, longest)

    def products(self, direction: Direction, length: Tensor) -> Tensor:
        """Of the pairs after a step of ``length (B,)``, 0 for those that are not there."""
        share = length.unsqueeze(1)
        room = torch.addcmul(self._now.room, share, direction.room)
        return self._problem.of_pairs(room * torch.addcmul(self._now.price, share, direction.price))

    def longest(self, direction: Direction) -> Tensor:
        """Longest step that keeps rooms and prices non-negative, and z in sight: ``(B,)``."""
        now = self._now
        # Where a smoothed cost is nearly flat, Newton's step is of any length.
        size = largest(direction.z).clamp_min(1e-300)
        longest = (self._problem.length + largest(now.z)) / size
        if now.room.shape[1]:
            rooms = (direction.room * self._by_room).amin(1)
            prices = (direction.price * self._by_price).amin(1)
            fall = torch.minimum(rooms, prices).clamp_max(-1e-300)
            longest = torch.minimum(longest, -fall.reciprocal())
        return longest
