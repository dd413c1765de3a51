"""Solver of the newsvendor program: a sort for exact items, safeguarded Newton for convolved ones.

Items share nothing, so an instance is n scalar problems: the root of an increasing function, the
slope of the sample objective, on ``[0, z_max]``. The slope of an exact item is a quadratic between
two neighbouring scenarios and jumps at each by ``(cb + ch) omega``; its values at all scenarios
follow from running sums, and the root is a scenario or a root of the quadratic of one piece. Duals
follow from the subdifferentials, and the KKT residuals, computed from the data alone, decide the
status.

A limit of the sum of the orders puts a price on every unit: the multiplier at which the orders that are
best at that price add up to the limit. It is the root of an increasing function of the price.
"""

import torch
from torch import Tensor

from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.newsvendor import Newsvendor
from diffusion_dfl.programs.smoothing import HingePair
from diffusion_dfl.solvers.newsvendor_items import NEAR_ZERO, ROUNDING, Items, Orders
from diffusion_dfl.solvers.roots import increasing_roots
from diffusion_dfl.solvers.solution import Solution, Status

_TOLERANCE = 1e-10
# A kink's share of its slope interval this close to an end is treated as resting on the end.
_STRICT = 1e-9
# A price is known to this share of the slopes it is set off against.
_JUMP = 1e-14


def solve_newsvendor(
    program: Newsvendor, instances: Instances, start: Tensor | None = None
) -> Solution:
    """Solve ``min_z sum_m omega_m f_s(y_m, z)`` on ``0 <= z <= z_max, sum_i z_i <= limit`` for a batch.

    Where the cost is flat at its minimum (it is merely convex if ``q0 = rb = rh = 0``), some
    minimiser is returned.

    Args:
        program: costs and limits.
        instances: valid ones.
        start: ``(B, n)``, first guess for convolved items; the exact optimum of some of the
            scenarios if None.
    """
    batch, _, size = instances.scenarios.shape
    items = Items.of(program, instances)
    orders, iterations = Orders(items).at(items.price, None if start is None else start.flatten())
    z, iterations = orders.view(batch, size), iterations.view(batch, size).amax(1)
    dual = z.new_zeros(batch, 1)
    if program.limit is not None:
        over = torch.nonzero(z.sum(1) > program.limit).flatten()
        if over.numel():
            shared, dual[over, 0], steps = _within_limit(program, instances.select(over), z[over])
            z = z.index_copy(0, over, shared)
            iterations = iterations.index_add(0, over, steps)
    return certify(program, instances, z, iterations, dual)


def _within_limit(
    program: Newsvendor, instances: Instances, free: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Orders ``(B, n)`` that add up to the limit, its multiplier and the prices tried, ``(B,)`` each.

    ``free`` are the orders without the limit, which add up to more. Where orders jump at the price, and
    all between are as good, every item gives the same share of its jump.
    """
    assert program.limit is not None
    limit, size = program.limit, program.num_decisions
    guess, total = free.clone(), instances.weights.sum(1)
    current = (len(free), Orders(Items.of(program, instances)))

    def made(price: Tensor, start: Tensor) -> Tensor:
        prices = program.c0 + price.repeat_interleave(size)
        return current[1].at(prices, start.flatten())[0].view(-1, size)

    def evaluate(points: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal current
        if len(index) != current[0]:
            current = (len(index), Orders(Items.of(program, instances.select(index))))
        guess[index] = orders = made(points, guess[index])
        rate = current[1].falls(orders.flatten()).view(-1, size)
        return limit - orders.sum(1), rate.sum(1)

    # At this price a first unit costs more than it saves, whatever the item.
    most = instances.scenarios.clamp_min(0).square() + instances.bandwidth.square().unsqueeze(1)
    worth = program.cb - program.c0 + program.rb * _mean(instances.weights, most).amax(1) / total
    high = worth * (1 + _STRICT)
    noise = torch.full_like(high, ROUNDING * limit)
    price, steps = increasing_roots(evaluate, torch.zeros_like(high), high, 0.5 * high, noise)
    current = (len(free), Orders(Items.of(program, instances)))
    reach = _JUMP * (abs(program.c0) + program.ch + high)
    more, less = (made(price + side, guess) for side in (-reach, reach))
    gap = more - less
    missing = (limit - less.sum(1)) / gap.sum(1).clamp_min(torch.finfo(gap.dtype).tiny)
    return less + missing.clamp(0, 1).unsqueeze(1) * gap, total * price, steps


def certify(
    program: Newsvendor,
    instances: Instances,
    z: Tensor,
    iterations: Tensor,
    dual: Tensor | None = None,
) -> Solution:
    """Duals, subgradients and KKT residuals of the orders, and from these the status.

    ``dual (B, 1)`` is the multiplier of the limit; 0 if None.
    """
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
    dual = torch.zeros_like(z[:, :1]) if dual is None else dual
    most = _mean(weights, subgradients) + dual
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
    stationarity = (_mean(weights, subgradients) + dual - lower + upper).abs()
    infeasible = torch.maximum(-z, z - program.z_max).clamp_min(0)
    unused = torch.maximum(lower * z.abs(), upper * (program.z_max - z).abs())
    duals = [lower, upper]
    if program.limit is not None:
        duals.insert(0, dual)
        spare = program.limit - z.sum(1, keepdim=True)
        infeasible = torch.maximum(infeasible, -spare)
        unused = torch.maximum(unused, dual * spare.abs())
    residuals = torch.stack([stationarity, infeasible, unused], dim=2)
    # Every item is judged in its own units: the sum of its slopes without signs, and a length.
    slope = total * (abs(program.c0) + program.ch + program.q0 * z.abs() + jump)
    slope = slope + _mean(weights, penalty + excess)
    # A decision is a float64: its own rounding times the curvature is as small as a slope can get.
    above, below = parts.linear
    bend = 2 * program.rb * above + 2 * program.rh * below + jump * parts.density
    curvature = program.q0 * total + _mean(weights, bend)
    resolution = ROUNDING * curvature * z.clamp_min(NEAR_ZERO * program.z_max)
    length = torch.full_like(z, program.z_max)
    allowed = [_TOLERANCE * slope + resolution, _TOLERANCE * length, _TOLERANCE * slope * length]
    good = (residuals <= torch.stack(allowed, dim=2)).flatten(1).all(1)
    status = torch.where(good, int(Status.SOLVED), int(Status.NOT_CONVERGED))
    return Solution(
        decision=z,
        duals=torch.cat(duals, dim=1),
        equality_duals=z.new_zeros(len(z), 0),
        subgradients=subgradients,
        at_kink=held,
        status=status,
        iterations=iterations,
        residuals=residuals.amax(1),
    )


def _mean(weights: Tensor, values: Tensor) -> Tensor:
    return (weights.unsqueeze(-1) * values).sum(1)
