"""Steps of the interior point for two-stage programs: Mehrotra's, damped where functions are curved."""

from dataclasses import replace

import torch
from torch import Tensor

from diffusion_dfl.solvers.arrow import (
    Arrow,
    Point,
    present,
    residual,
    size_of,
    stationarity_terms,
)
from diffusion_dfl.solvers.arrow_newton import NewtonEquations

_TO_BOUNDARY = 0.995
#: KKT residual that is rounding.
ROUNDING = 1e-13
_MAX_HALVINGS = 20
# Terms of a coordinate's stationarity this small beside the largest of all count as so large.
_SMALL = 1e-4


def mean_product(arrow: Arrow, point: Point) -> Tensor:
    """Mean complementarity product, ``(B,)``."""
    first = torch.where(present(arrow), point.first_slack * point.first_dual, 0.0).sum(1)
    total = first + (point.slack * point.dual).sum((1, 2))
    count = present(arrow).sum(1) + point.slack.shape[1] * point.slack.shape[2]
    return total / count.clamp_min(1)


def error(arrow: Arrow, point: Point) -> Tensor:
    """KKT residual, stationarity of every coordinate relative to its own terms, ``(B,)``."""
    in_z, in_w, *values = residual(arrow, point)
    size = torch.maximum(arrow.length, size_of((point.z, point.w)))
    steep = torch.maximum(arrow.slope, 1e-3 * size_of((point.dual, point.first_dual)))
    gap = torch.where(present(arrow), point.first_slack * point.first_dual, 0.0)
    gap = size_of((gap, point.slack * point.dual)) / (steep * size)
    of_z, of_w = stationarity_terms(arrow, point)
    noise = _SMALL * size_of((of_z, of_w))
    own = size_of((in_z / (of_z + noise.unsqueeze(1)), in_w / (of_w + noise.view(-1, 1, 1))))
    residuals = own + size_of(tuple(values)) / size
    return residuals.clamp_min(ROUNDING) + gap


class Direction:
    """Directions of Newton's method from a point, for any target of its complementarity products."""

    def __init__(self, arrow: Arrow, point: Point):
        self._arrow, self._point = arrow, point
        self._equations, self._residual = NewtonEquations(arrow, point), residual(arrow, point)

    def towards(self, target: Tensor, predictor: Point | None) -> Point:
        """Direction to products ``target (B,)``, less second-order terms of a predictor."""
        point, equations, there = self._point, self._equations, present(self._arrow)
        in_z, in_w, first, first_equal, values, equal = self._residual
        scenarios, count = self._arrow.scenarios, self._arrow.scenarios.num_rows
        level = target.unsqueeze(1)
        first_gap = level - point.first_slack * point.first_dual
        row_gap = level.unsqueeze(2) - point.slack * point.dual
        if predictor is not None:
            first_gap = first_gap - predictor.first_slack * predictor.first_dual
            row_gap = row_gap - predictor.slack * predictor.dual
        first_shift = first_gap / point.first_slack + equations.first_weight * first
        first_shift = torch.where(there, first_shift, 0.0)
        of_bounds = (row_gap / point.slack)[..., count:]
        of_bounds = of_bounds + equations.bound_weight * values[..., count:]
        z, first_nu, w, duals, nu = equations.solve(
            -in_z - equations.first_pull(first_shift),
            -first_equal,
            -in_w - scenarios.bound_pull(of_bounds),
            (-values - row_gap / point.dual)[..., :count],
            -equal,
        )
        pushed, pushes = equations.pushes(z, w)
        of_bounds = of_bounds + equations.bound_weight * pushes[..., count:]
        return Point(
            z,
            torch.where(there, -first - pushed, 0.0),
            first_shift + equations.first_weight * pushed,
            first_nu,
            w,
            -values - pushes,
            torch.cat([duals, of_bounds], dim=2),
            nu,
        )


def newton_step(arrow: Arrow, point: Point) -> Point:
    """One predictor-corrector step; shortened where functions are curved and it would lead away."""
    newton, gap = Direction(arrow, point), mean_product(arrow, point)
    predictor = newton.towards(torch.zeros_like(gap), None)
    ahead = mean_product(arrow, point.moved(predictor, _longest(point, predictor).clamp_max(1.0)))
    centering = (ahead / gap.clamp_min(1e-300)).clamp(1e-8, 1.0) ** 3
    chosen = newton.towards(centering * gap, predictor)
    # Ever closer to the boundary, so that the last steps converge faster than linearly.
    share = 1.0 - (ahead / gap.clamp_min(1e-300)).clamp(1e-3, 1.0 - _TO_BOUNDARY)
    length = (share * _longest(point, chosen)).clamp_max(1.0)
    moved = _settled(arrow, point, point.moved(chosen, length))
    affine = arrow.scenarios.slopes is not None and arrow.scenarios.rows is not None
    if affine and arrow.constraints.smooth is None:
        return moved
    poor = ~(error(arrow, moved) <= (1 - 0.01 * length) * error(arrow, point))
    rows = torch.nonzero(poor).flatten()
    if not rows.numel():
        return moved
    target = centering.clamp_min(0.1) * gap
    chosen = newton.towards(target, None)
    length = (_TO_BOUNDARY * _longest(point, chosen)).clamp_max(1.0)
    part, begun, way = arrow.select(rows), point.select(rows), chosen.select(rows)
    moved.write(rows, _damped(part, begun, way, length[rows], target[rows]))
    return moved


def _settled(arrow: Arrow, before: Point, moved: Point) -> Point:
    """Slacks of curved rows that hold strictly follow their values."""
    count = arrow.constraints.counts.smooth
    if count:
        room = -arrow.first_values(moved.z)[:, -count:]
        least = (1 - _TO_BOUNDARY) * before.first_slack[:, -count:]
        curved = torch.where(room > least, room, moved.first_slack[:, -count:])
        slack = torch.cat([moved.first_slack[:, :-count], curved], dim=1)
        moved = replace(moved, first_slack=slack)
    if arrow.scenarios.rows is None and arrow.scenarios.num_rows:
        count = arrow.scenarios.num_rows
        room = -arrow.scenarios.row_values(arrow.joined(moved.z, moved.w))
        least = (1 - _TO_BOUNDARY) * before.slack[..., :count]
        curved = torch.where(room > least, room, moved.slack[..., :count])
        moved = replace(moved, slack=torch.cat([curved, moved.slack[..., count:]], dim=2))
    return moved


def _damped(arrow: Arrow, point: Point, way: Point, length: Tensor, target: Tensor) -> Point:
    """Halve the step of every instance until its perturbed KKT residual falls."""

    def merit(at: Point) -> Tensor:
        in_z, in_w, *values = residual(arrow, at)
        products = (
            torch.where(present(arrow), at.first_slack * at.first_dual - target.unsqueeze(1), 0.0),
            (at.slack * at.dual - target.view(-1, 1, 1)).flatten(1),
        )
        parts = [in_z / arrow.slope.unsqueeze(1), in_w.flatten(1) / arrow.slope.unsqueeze(1)]
        parts += [part.flatten(1) / arrow.length.unsqueeze(1) for part in values]
        parts += [part / (arrow.slope * arrow.length).unsqueeze(1) for part in products]
        return torch.stack([part.square().sum(1) for part in parts]).sum(0).sqrt()

    before = merit(point)
    for _ in range(_MAX_HALVINGS):
        trial = _settled(arrow, point, point.moved(way, length))
        worse = ~(merit(trial) <= (1 - 0.01 * length) * before)
        if not bool(worse.any()):
            break
        length = torch.where(worse, 0.5 * length, length)
    return trial


def _longest(point: Point, direction: Point) -> Tensor:
    """Longest step that keeps slacks and multipliers non-negative, ``(B,)``."""
    lengths = [torch.full_like(point.slack[:, 0, :1].sum(1), torch.inf)]
    for name in ("first_slack", "first_dual", "slack", "dual"):
        value, change = (getattr(part, name).flatten(1) for part in (point, direction))
        if value.shape[1]:
            lengths.append(1.0 / (-change / value.clamp_min(1e-300)).amax(1).clamp_min(1e-300))
    return torch.stack(lengths).amin(0)
