"""Items of the newsvendor, one a row: their best orders at the price of a unit.

Exact items are sorted once, whatever the price; convolved ones are found by safeguarded Newton
(:mod:`diffusion_dfl.solvers.newsvendor` says how).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.newsvendor import Newsvendor
from diffusion_dfl.programs.smoothing import normal_cdf, normal_pdf, tail_ratio
from diffusion_dfl.solvers.roots import increasing_roots

# Relative rounding error of a sum of slopes; a smaller slope is 0.
ROUNDING = 1e-15
# Below this share of the limit the rounding of a decision is no longer relative to it.
NEAR_ZERO = 1e-9
# Scenarios whose exact optimum starts the search for a convolved one; a sort of all costs more.
_FIRST_GUESS = 50


@dataclass(frozen=True)
class Items:
    """The k = B n items of a batch, one a row.

    Attributes:
        demand, weights: ``(k, M)``.
        width: ``(k,)``.
        price: of a unit, ``(k,)``: c0, and the multiplier of the limit.
    """

    program: Newsvendor
    demand: Tensor
    weights: Tensor
    width: Tensor
    price: Tensor

    @staticmethod
    def of(program: Newsvendor, instances: Instances) -> "Items":
        demand = instances.scenarios.transpose(1, 2).flatten(0, 1)
        weights = instances.weights.unsqueeze(1).expand(-1, program.num_decisions, -1)
        width = instances.bandwidth.flatten()
        price = torch.full_like(width, program.c0)
        return Items(program, demand, weights.flatten(0, 1), width, price)

    def select(self, rows: Tensor) -> "Items":
        # Taking all rows is a copy that batches of one kind do not need.
        if len(rows) == len(self.width):
            return self
        parts = (self.demand, self.weights, self.width, self.price)
        return Items(self.program, *(part[rows] for part in parts))

    def thinned(self) -> "Items":
        """Every so many-th scenario only: good enough for a first guess."""
        stride = max(self.demand.shape[1] // _FIRST_GUESS, 1)
        demand, weights = self.demand[:, ::stride], self.weights[:, ::stride]
        return Items(self.program, demand, weights, self.width, self.price)

    def slopes(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Slope of the convolved objective, 0 where it is rounding, and its derivative: ``(k,)``."""
        program, width, total = self.program, self.width, self.weights.sum(1)
        gap = self.demand - points.unsqueeze(1)
        size, short, left = gap.abs(), gap.clamp_min(0), (-gap).clamp_min(0)
        ratio = tail_ratio(size, width.unsqueeze(1))
        tail, height = normal_cdf(-ratio), normal_pdf(ratio)
        # Sums of the exact cost, then those of the tails that the convolution adds to them:
        # H_1(-|a|) = s phi - |a| Phi(-|a|/s)  and  H_2(-|a|) = s^2 Phi(-|a|/s) - |a| H_1(-|a|).
        side = self.weights * torch.sign(gap)
        weighted, weighted_short = self.weights * gap, self.weights * short
        weighted_left = weighted_short - weighted
        weighted_size = weighted_short + weighted_left
        signed_tail = _dot(side, tail)
        spread = width * _dot(self.weights, height) - _dot(weighted_size, tail)
        signed_spread = width * _dot(weighted, height) - _dot(weighted * size, tail)
        signed_square = width**2 * signed_tail - signed_spread
        up = 0.5 * (total + side.sum(1))
        pull = program.hinge_slope * (up - signed_tail)
        above = _dot(weighted_short, short) + width**2 * up - signed_square
        below = _dot(weighted_left, left) + width**2 * (total - up) + signed_square
        pull, push = pull + program.rb * above, program.rh * below
        curvature = total * program.q0 + program.hinge_slope * _dot(self.weights, height) / width
        curvature = curvature + 2 * program.rb * (weighted_short.sum(1) + spread)
        curvature = curvature + 2 * program.rh * (weighted_left.sum(1) + spread)
        value = total * (self.price + program.ch + program.q0 * points) - pull + push
        # Points are float64 themselves: their rounding moves a slope by curvature * rounding.
        magnitude = total * (self.price.abs() + program.ch + program.q0 * points) + pull + push
        reach = points.clamp_min(NEAR_ZERO * program.z_max)
        noise = ROUNDING * magnitude + 0.3 * ROUNDING * curvature * reach
        return torch.where(value.abs() <= noise, 0.0, value), curvature


def _dot(weights: Tensor, values: Tensor) -> Tensor:
    return torch.linalg.vecdot(weights, values)


class Orders:
    """The best orders of some items at any price; what does not depend on it is sorted once."""

    def __init__(self, items: Items) -> None:
        self._exact = torch.nonzero(items.width <= 0).flatten()
        self._smooth = torch.nonzero(items.width > 0).flatten()
        self._sorted = _Sorted.of(items.select(self._exact))
        self._smooth_items = items.select(self._smooth)

    def at(self, price: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """Orders at prices ``(k,)`` and the slopes evaluated for them; ``start (k,)`` is a first guess."""
        orders = torch.zeros_like(price)
        steps = torch.zeros_like(price, dtype=torch.int64)
        if self._exact.numel():
            orders = orders.index_copy(
                0, self._exact, _exact_orders(self._sorted, price[self._exact])
            )
        if self._smooth.numel():
            items = replace(self._smooth_items, price=price[self._smooth])
            if start is None:
                guess = _exact_orders(_Sorted.of(items.thinned()), items.price)
            else:
                guess = start[self._smooth].clamp(0, items.program.z_max)
            found, counts = _convolved_orders(items, guess)
            orders = orders.index_copy(0, self._smooth, found)
            steps = steps.index_copy(0, self._smooth, counts)
        return orders, steps

    def falls(self, orders: Tensor) -> Tensor:
        """``-d orders / d price``, ``(k,)``: 0 of exact items, which mostly stay, and on a bound."""
        rate = torch.zeros_like(orders)
        if not self._smooth.numel():
            return rate
        found, items = orders[self._smooth], self._smooth_items
        curvature = items.slopes(found)[1]
        free = (found > 0) & (found < items.program.z_max) & (curvature > 0)
        falls = items.weights.sum(1) / torch.where(free, curvature, torch.inf)
        return rate.index_copy(0, self._smooth, falls)


@dataclass(frozen=True)
class _Sorted:
    """Exact items with their scenarios in order, one a row, and running sums over these.

    Attributes:
        demand: ``(k, M)``, ascending.
        below, above: moments of what lies at or below, at or above each scenario, ``(3, k, M)``.
    """

    program: Newsvendor
    total: Tensor
    demand: Tensor
    below: Tensor
    above: Tensor

    @staticmethod
    def of(items: Items) -> "_Sorted":
        demand, order = items.demand.sort(dim=1)
        weights = items.weights.gather(1, order)
        gaps = demand.diff(dim=1)
        below = _running_moments(weights, gaps)
        above = _running_moments(weights.flip(1), gaps.flip(1)).flip(2)
        return _Sorted(items.program, items.weights.sum(1), demand, below, above)


def _exact_orders(items: _Sorted, price: Tensor) -> Tensor:
    """Optimum of every item with its kinks at its price ``(k,)``: ``(k,)``."""
    program, total, demand = items.program, items.total, items.demand
    below, above = items.below, items.above
    jump, fixed = program.hinge_slope, price + program.ch
    line = total.unsqueeze(1) * (fixed.unsqueeze(1) + program.q0 * demand)
    smooth = line - program.rb * above[2] + program.rh * below[2]
    left = smooth - jump * above[0]
    right = smooth - jump * torch.nn.functional.pad(above[0, :, 1:], (0, 1))
    # The slope changes sign at scenario `first`, or between it and the one before.
    first = (right < 0).sum(1)
    last = demand.shape[1] - 1
    before, after = (first - 1).clamp_min(0).unsqueeze(1), first.clamp_max(last).unsqueeze(1)
    has_before, has_after = first > 0, first <= last
    floor = torch.where(has_before, _take(demand, before), -torch.inf)
    ceiling = torch.where(has_after, _take(demand, after), torch.inf)
    on_kink = has_after & (_take(left, after) <= 0)
    near = [torch.where(has_before, _take(part, before), 0.0) for part in below]
    far = [torch.where(has_after, _take(part, after), 0.0) for part in above]
    base = floor.clamp(0, program.z_max)
    top = torch.maximum(base, ceiling.clamp_max(program.z_max))
    width = top - base
    # From the ends of the piece to the scenarios next to it.
    margins = torch.where(has_before, base - floor, 0.0), torch.where(has_after, ceiling - top, 0.0)

    def piece(step: Tensor, upwards: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and curvature a step above the base or, where not ``upwards``, below the top."""
        # Distances to both scenarios, of which the nearer loses no digits: sums of like signs only.
        other = width - step
        down = (margins[0] + torch.where(upwards, step, other)).clamp_min(0)
        up = (margins[1] + torch.where(upwards, other, step)).clamp_min(0)
        at = torch.where(upwards, base + step, top - step)
        pull = jump * far[0] + program.rb * (far[2] + up * (2 * far[1] + far[0] * up))
        push = program.rh * (near[2] + down * (2 * near[1] + near[0] * down))
        pulling, pushing = program.rb * (far[1] + far[0] * up), near[1] + near[0] * down
        curvature = total * program.q0 + 2 * (pulling + program.rh * pushing)
        return total * (fixed + program.q0 * at) - pull + push, curvature

    # The slope is convex where what is left over weighs more, else concave: from the end where it is
    # flatter the root of  slope t + |bend| t^2 = missing  subtracts nothing.
    bend = program.rh * near[0] - program.rb * far[0]
    upwards = bend >= 0
    value, slope = piece(torch.zeros_like(base), upwards)
    missing = torch.where(upwards, -value, value).clamp_min(0)
    denominator = slope + torch.sqrt(slope**2 + 4 * bend.abs() * missing)
    step = torch.where(missing > 0, 2 * missing / denominator, 0.0)
    step = torch.minimum(step, width)
    # From the nearer end: what rounding left of the terms at the other one may be all there is.
    nearer = step <= 0.5 * width
    step, upwards = torch.where(nearer, step, width - step), upwards == nearer
    value, slope = piece(step, upwards)
    change = torch.where(upwards, -value, value) / slope
    refined = torch.minimum((step + change).clamp_min(0), width)
    better = piece(refined, upwards)[0].abs() < value.abs()
    step = torch.where(better, refined, step)
    root = torch.where(upwards, base + step, top - step)
    z = torch.where(on_kink, ceiling, torch.minimum(torch.maximum(root, base), top))
    return z.clamp(0, program.z_max)


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index).squeeze(1)


def _running_moments(weights: Tensor, gaps: Tensor) -> Tensor:
    """``sum_{i <= j} omega_i (y_j - y_i)^p`` for p = 0, 1, 2 at every j: ``(3, k, M)``.

    Summed over the gaps ``y_{j+1} - y_j``, so that nothing cancels wherever the data lie.
    """
    mass = weights.cumsum(1)
    first = torch.nn.functional.pad((mass[:, :-1] * gaps).cumsum(1), (1, 0))
    second = torch.nn.functional.pad((gaps * (first[:, :-1] + first[:, 1:])).cumsum(1), (1, 0))
    return torch.stack([mass, first, second])


def _convolved_orders(items: Items, start: Tensor) -> tuple[Tensor, Tensor]:
    """Optimum of every item with its width, and the slopes evaluated for it: ``(k,)`` both."""
    value, slope = items.slopes(start)
    # The optimum lies between the start and one bound, or on that bound.
    downhill = value < 0
    bound = torch.where(downhill, torch.full_like(start, items.program.z_max), 0.0)
    limit = items.slopes(bound)[0]
    outside = torch.where(downhill, limit <= 0, limit >= 0) & (value != 0)
    orders = torch.where(outside, bound, start)
    steps = torch.full_like(start, 2, dtype=torch.int64)
    rows = torch.nonzero(~outside & (value != 0)).flatten()
    if rows.numel() == 0:
        return orders, steps
    low = torch.where(downhill, start, bound)[rows]
    high = torch.where(downhill, bound, start)[rows]
    newton = (start - value / slope)[rows]
    newton = torch.where((newton > low) & (newton < high), newton, 0.5 * (low + high))
    everything = len(rows) == len(start)
    current: list[tuple[int, Items]] = [(len(rows), items if everything else items.select(rows))]

    def evaluate(points: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        # The functions left shrink now and then; gather their rows only when they do.
        if current[0][0] != len(index):
            current[0] = (len(index), items.select(rows[index]))
        return current[0][1].slopes(points)

    roots, counts = increasing_roots(evaluate, low, high, newton, torch.zeros_like(low))
    return orders.index_copy(0, rows, roots), steps.index_add(0, rows, counts)
