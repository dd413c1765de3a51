"""Solver of the newsvendor program: a sort for exact items, safeguarded Newton for convolved ones.

Items share nothing, so an instance is n scalar problems: the root of an increasing function, the
slope of the sample objective, on ``[0, z_max]``. The slope of an exact item is a quadratic between
two neighbouring scenarios and jumps at each by ``(cb + ch) omega``; its values at all scenarios
follow from running sums, and the root is a scenario or a root of the quadratic of one piece. Duals
follow from the subdifferentials, and the KKT residuals, computed from the data alone, decide the
status.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.newsvendor import Newsvendor
from diffusion_dfl.programs.smoothing import HingePair, normal_cdf, normal_pdf, tail_ratio
from diffusion_dfl.solvers.roots import increasing_roots
from diffusion_dfl.solvers.solution import Solution, Status

_TOLERANCE = 1e-10
# Relative rounding error of a sum of slopes; a smaller slope is 0.
_ROUNDING = 1e-15
# A kink's share of its slope interval this close to an end is treated as resting on the end.
_STRICT = 1e-9
# Below this share of the limit the rounding of a decision is no longer relative to it.
_NEAR_ZERO = 1e-9
# Scenarios whose exact optimum starts the search for a convolved one; a sort of all costs more.
_FIRST_GUESS = 50


def solve_newsvendor(
    program: Newsvendor, instances: Instances, start: Tensor | None = None
) -> Solution:
    """Solve ``min_z sum_m omega_m f_s(y_m, z)`` on ``0 <= z <= z_max`` for a batch.

    Where the cost is flat at its minimum (it is merely convex if ``q0 = rb = rh = 0``), some
    minimiser is returned.

    Args:
        program: costs and the limit.
        instances: valid ones.
        start: ``(B, n)``, first guess for convolved items; the exact optimum of some of the
            scenarios if None.
    """
    batch, _, size = instances.scenarios.shape
    items = _Items(
        program,
        instances.scenarios.transpose(1, 2).flatten(0, 1),
        instances.weights.unsqueeze(1).expand(-1, size, -1).flatten(0, 1),
        instances.bandwidth.flatten(),
    )
    smooth = torch.nonzero(items.width > 0).flatten()
    if len(smooth) < len(items.width):
        z = _exact_orders(items)
    elif start is None:
        z = _exact_orders(items.thinned())
    else:
        z = items.width.new_zeros(len(items.width))
    iterations = torch.zeros_like(z, dtype=torch.int64)
    if smooth.numel():
        guess = z if start is None else start.flatten().clamp(0, program.z_max)
        # Taking all rows is a copy that batches of one kind do not need.
        chosen = items if len(smooth) == len(z) else items.select(smooth)
        orders, steps = _convolved_orders(chosen, guess[smooth])
        z = z.index_copy(0, smooth, orders)
        iterations = iterations.index_copy(0, smooth, steps)
    iterations = iterations.view(batch, size).amax(1)
    return certify(program, instances, z.view(batch, size), iterations)


@dataclass(frozen=True)
class _Items:
    """The k = B n items of a batch, one a row: demand and weights ``(k, M)``, width ``(k,)``."""

    program: Newsvendor
    demand: Tensor
    weights: Tensor
    width: Tensor

    def select(self, rows: Tensor) -> "_Items":
        return _Items(self.program, self.demand[rows], self.weights[rows], self.width[rows])

    def thinned(self) -> "_Items":
        """Every so many-th scenario only: good enough for a first guess."""
        stride = max(self.demand.shape[1] // _FIRST_GUESS, 1)
        demand, weights = self.demand[:, ::stride], self.weights[:, ::stride]
        return _Items(self.program, demand, weights, self.width)

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
        value = total * (program.c0 + program.ch + program.q0 * points) - pull + push
        # Points are float64 themselves: their rounding moves a slope by curvature * rounding.
        magnitude = total * (abs(program.c0) + program.ch + program.q0 * points) + pull + push
        reach = points.clamp_min(_NEAR_ZERO * program.z_max)
        noise = _ROUNDING * magnitude + 0.3 * _ROUNDING * curvature * reach
        return torch.where(value.abs() <= noise, 0.0, value), curvature


def _dot(weights: Tensor, values: Tensor) -> Tensor:
    return torch.linalg.vecdot(weights, values)


def _exact_orders(items: _Items) -> Tensor:
    """Optimum of every item with its kinks: ``(k,)``."""
    program, total = items.program, items.weights.sum(1)
    jump, fixed = program.hinge_slope, program.c0 + program.ch
    demand, order = items.demand.sort(dim=1)
    weights = items.weights.gather(1, order)
    gaps = demand.diff(dim=1)
    below = _running_moments(weights, gaps)
    above = _running_moments(weights.flip(1), gaps.flip(1)).flip(2)
    line = total.unsqueeze(1) * (fixed + program.q0 * demand)
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


def _convolved_orders(items: _Items, start: Tensor) -> tuple[Tensor, Tensor]:
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
    current: list[tuple[int, _Items]] = [(len(rows), items if everything else items.select(rows))]

    def evaluate(points: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        # The functions left shrink now and then; gather their rows only when they do.
        if current[0][0] != len(index):
            current[0] = (len(index), items.select(rows[index]))
        return current[0][1].slopes(points)

    roots, counts = increasing_roots(evaluate, low, high, newton, torch.zeros_like(low))
    return orders.index_copy(0, rows, roots), steps.index_add(0, rows, counts)


def certify(program: Newsvendor, instances: Instances, z: Tensor, iterations: Tensor) -> Solution:
    """Duals, subgradients and KKT residuals of the orders, and from these the status."""
    weights, bandwidth = instances.weights, instances.bandwidth
    shortfall = instances.scenarios - z.unsqueeze(1)
    parts = HingePair.of(shortfall, bandwidth.unsqueeze(1))
    total, jump = weights.sum(1, keepdim=True), program.hinge_slope
    at_kink = (shortfall == 0) & (bandwidth <= 0).unsqueeze(1)
    share = parts.slope - 0.5 * at_kink.to(z.dtype)
    order = (program.c0 + program.ch + program.q0 * z).unsqueeze(1)
    above, below = parts.square
    penalty, excess = program.rb * above, program.rh * below
    # Slopes right of a kink; left of it they are lower by the jump.
    subgradients = order - jump * share - penalty + excess
    most = _mean(weights, subgradients)
    tied = jump * _mean(weights, at_kink.to(z.dtype))
    lower = torch.where(z <= 0, (most - tied).clamp_min(0), 0.0)
    upper = torch.where(z >= program.z_max, (-most).clamp_min(0), 0.0)
    # At a kink the share is what stationarity leaves over, the same for tied scenarios.
    kinked = tied > 0
    rest = (most - lower + upper) / torch.where(kinked, tied, 1.0)
    rest = torch.where(kinked, rest, 0.0).clamp(0, 1)
    subgradients = subgradients - jump * rest.unsqueeze(1) * at_kink
    strict = (rest > _STRICT) & (rest < 1 - _STRICT)
    # A scenario without weight shares the subgradient of its ties but holds nothing.
    held = at_kink & strict.unsqueeze(1) & (weights > 0).unsqueeze(-1)
    stationarity = (_mean(weights, subgradients) - lower + upper).abs()
    infeasible = torch.maximum(-z, z - program.z_max).clamp_min(0)
    unused = torch.maximum(lower * z.abs(), upper * (program.z_max - z).abs())
    residuals = torch.stack([stationarity, infeasible, unused], dim=2)
    # Every item is judged in its own units: the sum of its slopes without signs, and a length.
    slope = total * (abs(program.c0) + program.ch + program.q0 * z.abs() + jump)
    slope = slope + _mean(weights, penalty + excess)
    # A decision is a float64: its own rounding times the curvature is as small as a slope can get.
    above, below = parts.linear
    bend = 2 * program.rb * above + 2 * program.rh * below + jump * parts.density
    curvature = program.q0 * total + _mean(weights, bend)
    resolution = _ROUNDING * curvature * z.clamp_min(_NEAR_ZERO * program.z_max)
    length = torch.full_like(z, program.z_max)
    allowed = [_TOLERANCE * slope + resolution, _TOLERANCE * length, _TOLERANCE * slope * length]
    good = (residuals <= torch.stack(allowed, dim=2)).flatten(1).all(1)
    status = torch.where(good, int(Status.SOLVED), int(Status.NOT_CONVERGED))
    return Solution(
        decision=z,
        duals=torch.cat([lower, upper], dim=1),
        equality_duals=z.new_zeros(len(z), 0),
        subgradients=subgradients,
        at_kink=held,
        status=status,
        iterations=iterations,
        residuals=residuals.amax(1),
    )


def _mean(weights: Tensor, values: Tensor) -> Tensor:
    return (weights.unsqueeze(-1) * values).sum(1)
