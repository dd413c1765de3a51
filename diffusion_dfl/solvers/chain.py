"""Separable convex costs on a chain, ``|z_{h+1} - z_h| <= ramp``: dynamic programming on slopes.

Let ``V_h(z)`` be the least cost of hours 1..h with ``z_h = z``, and ``m_h`` its minimiser. Then
``V_{h+1} = F_{h+1} + min_{|z' - z| <= ramp} V_h(z')``, and the slope of the second term is that of
``V_h`` with its decreasing part moved left by ``ramp``, its increasing part moved right, and 0 in
between. So every ``m_h`` is the root of an increasing scalar function, the schedule follows from
the last hour by clipping, ``z_h = clip(m_h, z_{h+1} - ramp, z_{h+1} + ramp)``, and no constraint is
ever relaxed. (The same idea solves one-dimensional fused problems: Johnson, J. Comput. Graph.
Statist. 22(2), 2013.) For kinked hours the slope is a list of breakpoints and the roots are exact;
for smooth hours they come from safeguarded Newton steps.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_dfl.solvers.roots import increasing_roots

#: ``hour_slope(points, instances, hours) -> slope, curvature``, all ``(k,)``: one hour's cost each.
HourSlope = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def kinked_chain(
    points: Tensor, jumps: Tensor, offset: Tensor, slope: Tensor, ramp: float
) -> Tensor:
    """Exact optimum when the slope of every hour is a line with upward jumps.

    The slope of hour h at z is ``slope * z + offset_h + sum_m jumps_mh [y_mh < z]``. Right of an
    hour's last jump it must not be negative, as holds for any cost of surplus.

    Args:
        points: jump positions y, ``(B, M, n)``.
        jumps: their sizes, non-negative, ``(B, M, n)``.
        offset: value of the line at 0, ``(B, n)``.
        slope: slope of the line, positive, ``(B,)``.
        ramp: largest change between consecutive hours.

    Returns:
        Schedules ``(B, n)``.
    """
    num_hours = points.shape[2]
    minimisers = []
    position, order = points[:, :, 0].sort(dim=1)
    jump = jumps[:, :, 0].gather(1, order)
    bend = torch.zeros_like(jump)
    lead, constant = slope.clone(), offset[:, 0].clone()
    for hour in range(num_hours):
        bend_before = bend.cumsum(1) - bend
        rise = jump - bend * position
        rise_before = rise.cumsum(1) - rise
        incline = lead.unsqueeze(1) + bend_before
        left = incline * position + constant.unsqueeze(1) + rise_before
        crossing = left + jump >= 0
        # The slope right of the last breakpoint is positive up to rounding: make the search total.
        crossing[:, -1] = True
        first = crossing.to(torch.int8).argmax(1, keepdim=True)
        at, before = position.gather(1, first), left.gather(1, first)
        grade, size, turn = incline.gather(1, first), jump.gather(1, first), bend.gather(1, first)
        on_jump = before <= 0
        minimum = torch.where(on_jump, at, at - before / grade)
        minimisers.append(minimum)
        if hour == num_hours - 1:
            break
        # Part the breakpoints at the minimum; the crossed one is replaced by the two ends of the gap.
        rank = torch.arange(position.shape[1], device=position.device)
        consumed = on_jump & (rank == first)
        moved = torch.where(rank < first, position - ramp, position + ramp)
        zero = torch.zeros_like(before)
        fall = torch.where(on_jump, -before, zero).clamp_min(0)
        climb = torch.where(on_jump, before + size, zero).clamp_min(0)
        after = grade + torch.where(on_jump, turn, zero)
        position = torch.cat(
            [
                torch.where(consumed, minimum + ramp, moved),
                minimum - ramp,
                minimum + ramp,
                points[:, :, hour + 1],
            ],
            dim=1,
        )
        jump = torch.cat(
            [jump.masked_fill(consumed, 0.0), fall, climb, jumps[:, :, hour + 1]], dim=1
        )
        bend = torch.cat(
            [bend.masked_fill(consumed, 0.0), -grade, after, torch.zeros_like(points[:, :, 0])],
            dim=1,
        )
        position, order = position.sort(dim=1, stable=True)
        jump, bend = jump.gather(1, order), bend.gather(1, order)
        constant = constant + ramp * lead + offset[:, hour + 1]
        lead = lead + slope
    return clip_back(torch.cat(minimisers, dim=1), ramp)


def smooth_chain(
    hour_slope: HourSlope, apart: Tensor, ramp: float, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Optimum when hours have a continuous (or any increasing) slope.

    Args:
        hour_slope: slope and curvature of one hour's cost for some instances.
        apart: optimum of every hour on its own, ``(B, n)``.
        ramp: largest change between consecutive hours.
        noise: ``(B,)``, rounding error of a slope.

    Returns:
        Schedules ``(B, n)`` and slope evaluations an instance ``(B,)`` int64.
    """
    batch, num_hours = apart.shape
    minimisers = apart.clone()
    counts = torch.zeros(batch, dtype=torch.int64, device=apart.device)

    def evaluate(hour: int, instances: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        def message(points: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            # Walk back through the hours the point's value passes; then evaluate them in one go.
            owner = torch.arange(len(points), device=points.device)
            place, rows = points, instances[index]
            owners, places, owned = [], [], []
            for past in range(hour, -1, -1):
                owners.append(owner)
                places.append(place)
                owned.append((rows, torch.full_like(rows, past)))
                if past == 0:
                    break
                center = minimisers[rows, past - 1]
                below, above = place < center - ramp, place > center + ramp
                going = below | above
                if not bool(going.any()):
                    break
                place = torch.where(below, place + ramp, place - ramp)[going]
                owner, rows = owner[going], rows[going]
            part, bend = hour_slope(
                torch.cat(places),
                torch.cat([o[0] for o in owned]),
                torch.cat([o[1] for o in owned]),
            )
            passed = torch.cat(owners)
            value, curvature = torch.zeros_like(points), torch.zeros_like(points)
            return value.index_add(0, passed, part), curvature.index_add(0, passed, bend)

        return message

    for hour in range(1, num_hours):
        free = torch.minimum(
            torch.maximum(apart[:, hour], minimisers[:, hour - 1] - ramp),
            minimisers[:, hour - 1] + ramp,
        )
        instances = torch.nonzero(free != apart[:, hour]).flatten()
        if instances.numel() == 0:
            continue
        ends = torch.stack([apart[instances, hour], free[instances]])
        roots, steps = increasing_roots(
            evaluate(hour, instances), ends.amin(0), ends.amax(0), ends[1], noise[instances]
        )
        minimisers[instances, hour] = roots
        counts[instances] += steps
    return clip_back(minimisers, ramp), counts


def clip_back(minimisers: Tensor, ramp: float) -> Tensor:
    """The schedule from the minimisers of ``V_1..V_n``, last hour first: ``(B, n) -> (B, n)``."""
    schedule = [minimisers[:, -1]]
    for hour in range(minimisers.shape[1] - 2, -1, -1):
        later = schedule[-1]
        schedule.append(
            torch.minimum(torch.maximum(minimisers[:, hour], later - ramp), later + ramp)
        )
    return torch.stack(schedule[::-1], dim=1)


def chain_multipliers(low: Tensor, high: Tensor, at_rise: Tensor, at_fall: Tensor) -> Tensor:
    """Net multipliers of the ramps from the subdifferential of every hour.

    Stationarity is ``phi_h + nu_{h-1} - nu_h = 0`` with ``phi_h`` in ``[low_h, high_h]``, so ``nu_h``
    is the running sum of the chosen slopes. It is non-negative where only the rise
    ``z_{h+1} - z_h <= ramp`` is tight, non-positive where only the fall is, 0 where neither.
    Intervals of attainable sums go forward; the choice closest to 0 comes back.

    Args:
        low, high: ends of each hour's subdifferential, ``(B, n)``.
        at_rise, at_fall: whether the limit is tight, ``(B, n-1)`` bool.

    Returns:
        ``nu``, ``(B, n-1)``: positive for rises, negative for falls.
    """
    num_hours = low.shape[1]
    zero = torch.zeros_like(low[:, 0])
    floors, ceilings = [], []
    floor, ceiling = zero, zero
    for hour in range(num_hours - 1):
        floor, ceiling = floor + low[:, hour], ceiling + high[:, hour]
        floor = torch.where(at_fall[:, hour], floor, floor.clamp_min(0))
        ceiling = torch.where(at_rise[:, hour], ceiling, ceiling.clamp_max(0))
        # Where rounding left an empty interval its nearest point is taken; the residual tells.
        floor, ceiling = (
            torch.minimum(floor, ceiling.clamp_min(0)),
            torch.maximum(ceiling, floor.clamp_max(0)),
        )
        floors.append(floor)
        ceilings.append(ceiling)
    multipliers = []
    following = zero
    for hour in range(num_hours - 1, 0, -1):
        least = torch.maximum(floors[hour - 1], following - high[:, hour])
        most = torch.minimum(ceilings[hour - 1], following - low[:, hour])
        following = torch.minimum(torch.maximum(zero, least), torch.maximum(most, least))
        tight = at_rise[:, hour - 1] | at_fall[:, hour - 1]
        following = torch.where(tight, following, zero)
        multipliers.append(following)
    return torch.stack(multipliers[::-1], dim=1) if multipliers else low[:, :0]
