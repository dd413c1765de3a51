"""Solver of the power program: hours apart where ramps are slack, a chain where they bind.

Hours interact through the ramp limits only. So the hours are first solved apart: exactly by a sort
(the optimum of a kinked hour is a scenario or lies between two), convolved ones by safeguarded
Newton. Instances whose schedule keeps the ramp limits are done; the others go through
:mod:`diffusion_dfl.solvers.chain`, which solves the coupled hours without iterating on constraints.
Duals follow from the subdifferentials, and the KKT residuals, computed from the data alone, decide
the status. The cost is strongly convex with modulus 1, so a stationarity residual r bounds the
distance to the optimum by r.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.power import PowerProgram
from diffusion_dfl.programs.smoothing import (
    INV_SQRT_2PI,
    SQRT_HALF,
    hinge_density,
    hinge_slope,
)
from diffusion_dfl.solvers.chain import chain_multipliers, kinked_chain, smooth_chain
from diffusion_dfl.solvers.roots import increasing_roots
from diffusion_dfl.solvers.solution import Solution, Status

_TOLERANCE = 1e-10
# Relative rounding error of a decision or a slope; closer things are the same thing.
_ROUNDING = 1e-14
# A kink's share of its slope interval this close to an end is treated as resting on the end.
_STRICT = 1e-9
_GUESS_STEPS = 5


def solve_power(
    program: PowerProgram, instances: Instances, start: Tensor | None = None
) -> Solution:
    """Solve ``min_z sum_m omega_m f_s(y_m, z)`` under ramp limits for a batch.

    Args:
        program: costs and limits.
        instances: valid ones.
        start: unused, no search begins at a guess.
    """
    data = _Data(program, instances)
    z, iterations = _hours_apart(data)
    binding = ((z[:, 1:] - z[:, :-1]).abs() > program.ramp).any(1)
    rows = torch.nonzero(binding).flatten()
    if rows.numel():
        coupled, steps = _hours_coupled(data.select(rows), z[rows])
        z = z.index_copy(0, rows, coupled)
        iterations = iterations.index_add(0, rows, steps)
    return _certify(data, _snap(data, z), iterations)


@dataclass(frozen=True)
class _Data:
    """A batch of programs and the sums its slopes need."""

    program: PowerProgram
    instances: Instances

    def select(self, rows: Tensor) -> "_Data":
        return _Data(self.program, self.instances.select(rows))

    @cached_property
    def total(self) -> Tensor:
        """Sum of the weights, ``(B,)``: the curvature of the quadratic part."""
        return self.instances.weights.sum(1)

    @cached_property
    def exact(self) -> bool:
        """Whether no hour has a bandwidth."""
        return not bool((self.instances.bandwidth > 0).any())

    @cached_property
    def offset(self) -> Tensor:
        """``sum_m omega_m (gamma_e - y_m)``, ``(B, n)``: slope at z = 0 without the hinges."""
        mean = torch.einsum("bm,bmn->bn", self.instances.weights, self.instances.scenarios)
        return self.program.excess * self.total.unsqueeze(1) - mean

    @cached_property
    def scale(self) -> Tensor:
        """Magnitude of a slope, ``(B,)``; rounding is relative to it."""
        largest = self.instances.scenarios.abs().amax((1, 2))
        return self.total * (1e-300 + self.program.hinge_slope + largest)


def _hours_apart(data: _Data) -> tuple[Tensor, Tensor]:
    """Optimum of every hour without ramp limits ``(B, n)``, and iterations ``(B,)``."""
    if data.exact:
        z = _exact_hours(data)
        return z, torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
    convolved = data.instances.bandwidth > 0
    z = _gaussian_hours(data)
    # Sorting takes a fifth of a convolved solve: only for those who need it.
    rows = torch.nonzero(~convolved.all(1)).flatten()
    if rows.numel():
        exact = _exact_hours(data.select(rows))
        z = z.index_copy(0, rows, torch.where(convolved[rows], z[rows], exact))
    smooth = torch.nonzero(convolved.flatten()).flatten()
    roots, steps = _convolved_hours(data, smooth, z.flatten()[smooth])
    counts = torch.zeros_like(data.instances.bandwidth, dtype=torch.int64).flatten()
    iterations = counts.index_copy(0, smooth, steps).view_as(z).amax(1)
    return z.flatten().index_copy(0, smooth, roots).view_as(z), iterations


def _exact_hours(data: _Data) -> Tensor:
    """Sort the scenarios of an hour and find where its slope changes sign: ``(B, n)``."""
    program = data.program
    ordered, order = data.instances.scenarios.sort(dim=1)
    share = data.instances.weights.unsqueeze(-1).expand_as(order).gather(1, order)
    total = data.total.view(-1, 1, 1)
    smooth = total * ordered + data.offset.unsqueeze(1)
    right = smooth - program.hinge_slope * (total - share.cumsum(1))
    left = right - program.hinge_slope * share
    # The slope right of the largest scenario is positive up to rounding: make the search total.
    crossing = right >= 0
    crossing[:, -1] = True
    first = crossing.to(torch.int8).argmax(1, keepdim=True)
    at, before = ordered.gather(1, first), left.gather(1, first)
    previous = ordered.gather(1, (first - 1).clamp_min(0))
    floor = torch.where(first > 0, previous, torch.full_like(previous, -torch.inf))
    between = torch.minimum(torch.maximum(at - before / total, floor), at)
    return torch.where(before <= 0, at, between).squeeze(1)


def _gaussian_hours(data: _Data) -> Tensor:
    """A first guess ``(B, n)``: the optimum if scenarios were Gaussian, by a few fixed-point steps.

    With ``z = m + t sigma`` the slope is 0 where ``t sigma + gamma_e = (gamma_s + gamma_e) Q(t)``.
    """
    program, total = data.program, data.total.unsqueeze(1)
    mean = program.excess - data.offset / total
    offsets = data.instances.scenarios - mean.unsqueeze(1)
    square = torch.einsum("bm,bmn->bn", data.instances.weights, offsets.square_()) / total
    scale = torch.sqrt(square + data.instances.bandwidth**2)
    place = torch.zeros_like(mean)
    for _ in range(_GUESS_STEPS if program.hinge_slope else 0):
        tail = (program.excess + place * scale) / program.hinge_slope
        place = 0.5 * (place - torch.special.ndtri(tail.clamp(1e-6, 1 - 1e-6)))
    return mean + place * scale


def _convolved_hours(data: _Data, chosen: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of the convolved slopes of the hours ``chosen`` (indices into B * n)."""
    program = data.program
    num_scenarios, num_hours = data.instances.scenarios.shape[1:]
    instance = torch.div(chosen, num_hours, rounding_mode="floor")
    y = data.instances.scenarios.transpose(1, 2).reshape(-1, num_scenarios)[chosen]
    width = data.instances.bandwidth.flatten()[chosen]
    total, offset = data.total[instance], data.offset.flatten()[chosen]
    weights = data.instances.weights[instance]
    current = [chosen[:0], y, weights, width, total, offset]

    def slope(points: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        # The functions left shrink now and then; gather their rows only when they do.
        if len(current[0]) != len(index):
            current[:] = [
                index,
                y[index],
                weights[index],
                width[index],
                total[index],
                offset[index],
            ]
        _, yi, wi, si, ti, oi = current
        # hinge_slope and hinge_density of widths that are positive, in few passes over (k, M).
        scale = SQRT_HALF / si
        surplus = (points.unsqueeze(1) - yi).mul_(scale.unsqueeze(1))
        pull = 0.5 * torch.erfc(surplus).mul_(wi).sum(1)
        bend = INV_SQRT_2PI * surplus.square_().neg_().exp_().mul_(wi).sum(1) / si
        return ti * points + oi - program.hinge_slope * pull, ti + program.hinge_slope * bend

    # There the hinge does not pull at all, or pulls fully.
    low = -offset / total
    return increasing_roots(
        slope, low, low + program.hinge_slope, start, _ROUNDING * 0.1 * data.scale[instance]
    )


def _hours_coupled(data: _Data, apart: Tensor) -> tuple[Tensor, Tensor]:
    """Optimum under ramp limits: schedules ``(B, n)``, iterations ``(B,)``."""
    program = data.program
    exact = (data.instances.bandwidth <= 0).all(1)
    z = apart.clone()
    iterations = torch.zeros(len(apart), dtype=torch.int64, device=apart.device)
    rows = torch.nonzero(exact).flatten()
    if rows.numel():
        part = data.select(rows)
        y, weights = part.instances.scenarios, part.instances.weights
        jumps = program.hinge_slope * weights.unsqueeze(-1).expand_as(y)
        offset = part.offset - program.hinge_slope * part.total.unsqueeze(1)
        z[rows] = kinked_chain(y, jumps, offset, part.total, program.ramp)
    rows = torch.nonzero(~exact).flatten()
    if rows.numel():
        part = data.select(rows)
        total, offset = part.total, part.offset
        by_hour = part.instances.scenarios.transpose(1, 2).contiguous()

        def hour_slope(points: Tensor, instances: Tensor, hours: Tensor) -> tuple[Tensor, Tensor]:
            shortfall = by_hour[instances, hours] - points.unsqueeze(1)
            width = part.instances.bandwidth[instances, hours].unsqueeze(1)
            weight, curvature = part.instances.weights[instances], total[instances]
            pull = (weight * hinge_slope(shortfall, width)).sum(1)
            bend = (weight * hinge_density(shortfall, width)).sum(1)
            line = curvature * points + offset[instances, hours]
            return line - program.hinge_slope * pull, curvature + program.hinge_slope * bend

        noise = _ROUNDING * 0.1 * part.scale
        z[rows], iterations[rows] = smooth_chain(hour_slope, apart[rows], program.ramp, noise)
    return z, iterations


def _snap(data: _Data, z: Tensor) -> Tensor:
    """Put kinked hours that are a rounding error off a scenario onto it, so that kinks show."""
    if data.program.hinge_slope == 0:
        return z
    y = data.instances.scenarios
    distance, nearest = (y - z.unsqueeze(1)).abs().min(dim=1)
    value = y.gather(1, nearest.unsqueeze(1)).squeeze(1)
    reach = 100 * _ROUNDING * y.abs().amax((1, 2)).unsqueeze(1)
    return torch.where((data.instances.bandwidth <= 0) & (distance <= reach), value, z)


def _certify(data: _Data, z: Tensor, iterations: Tensor) -> Solution:
    """Duals, subgradients and KKT residuals of the schedules, and from these the status."""
    program = data.program
    magnitude = z.abs().amax(1) + data.instances.scenarios.abs().amax((1, 2))
    rounding = 1e3 * _ROUNDING * magnitude.unsqueeze(1)
    change = z[:, 1:] - z[:, :-1]
    shares = _shares(data, z)
    pull, tied = _pulls(data, shares)
    line = data.total.unsqueeze(1) * z + data.offset
    least = line - program.hinge_slope * (pull + tied)
    most = line - program.hinge_slope * pull
    net = chain_multipliers(
        least, most, change >= program.ramp - rounding, -change >= program.ramp - rounding
    )
    duals = torch.cat([net.clamp_min(0), (-net).clamp_min(0)], dim=1)
    matrix, limit = program.inequalities(z)
    force = duals @ matrix
    share, held = _kink_shares(data, shares, line + force, pull, tied)
    subgradients = (z + program.excess).unsqueeze(1) - data.instances.scenarios
    subgradients = subgradients.sub_(share, alpha=program.hinge_slope)
    stationarity = torch.einsum("bm,bmn->bn", data.instances.weights, subgradients) + force
    slack = limit - z @ matrix.T
    # An infinite ramp has an infinite slack.
    unused = torch.where(duals > 0, duals * slack, 0.0)
    residuals = torch.stack(
        [_largest(stationarity), _largest((-slack).clamp_min(0)), _largest(unused)], dim=1
    )
    # A decision is a float64: its own rounding times the curvature is as small as a slope can get.
    curvature = program.hessian(data.instances, z).amax(1)
    resolution = _ROUNDING * curvature * magnitude
    # In the units of the three residuals: a slope, a length and their product.
    slope, length = _TOLERANCE * (1e-300 + data.scale), 1e-300 + magnitude
    allowed = torch.stack([slope + resolution, _TOLERANCE * length, slope * length], dim=1)
    good = (residuals <= allowed).all(1)
    status = torch.where(good, int(Status.SOLVED), int(Status.NOT_CONVERGED))
    none = z.new_zeros(len(z), 0)
    return Solution(z, duals, none, subgradients, held, status, iterations, residuals)


def _largest(values: Tensor) -> Tensor:
    return values.abs().amax(1) if values.shape[1] else values.new_zeros(len(values))


class _Shares(NamedTuple):
    """Slope shares at a decision: ``share (B, M, n)`` off the kinks, 0 at them; ``at_kink``."""

    share: Tensor
    at_kink: Tensor


def _shares(data: _Data, z: Tensor) -> _Shares:
    shortfall = data.instances.scenarios - z.unsqueeze(1)
    step, at_kink = (shortfall > 0).to(z.dtype), shortfall == 0
    if data.exact:
        return _Shares(step, at_kink)
    width = data.instances.bandwidth.unsqueeze(1)
    exact = width <= 0
    return _Shares(torch.where(exact, step, hinge_slope(shortfall, width)), at_kink & exact)


def _pulls(data: _Data, shares: _Shares) -> tuple[Tensor, Tensor]:
    """Weight pulling up at z, and the weight of the scenarios whose kink is at z: ``(B, n)`` both."""
    weights = data.instances.weights
    return (
        torch.einsum("bm,bmn->bn", weights, shares.share),
        torch.einsum("bm,bmn->bn", weights, shares.at_kink.to(weights.dtype)),
    )


def _kink_shares(
    data: _Data, shares: _Shares, needed: Tensor, pull: Tensor, tied: Tensor
) -> tuple[Tensor, Tensor]:
    """Slope share in [0, 1] of every hinge, and which kinks hold the decision: ``(B, M, n)`` both.

    At a kink the share is what stationarity leaves over, the same for tied scenarios.
    """
    share, at_kink = shares
    if data.program.hinge_slope == 0:
        return share, torch.zeros_like(at_kink)
    kinked = tied > 0
    rest = (needed / data.program.hinge_slope - pull) / torch.where(kinked, tied, 1.0)
    rest = torch.where(kinked, rest, 0.0).clamp(0, 1)
    strict = (rest > _STRICT) & (rest < 1 - _STRICT)
    # A scenario without weight shares the subgradient of its ties but holds nothing.
    held = at_kink & strict.unsqueeze(1) & (data.instances.weights > 0).unsqueeze(-1)
    return share.addcmul(rest.unsqueeze(1), at_kink.to(share.dtype)), held
