"""Batched primal-dual interior point for two-stage programs: Mehrotra's steps in arrow form.

As in :mod:`diffusion_dfl.solvers.predictor_corrector`, with the scenarios' decisions eliminated block by
block (:mod:`diffusion_dfl.solvers.arrow`), so that a step is linear in the number of scenarios. There is
no active set to polish: steps go on until rounding stops them, and the KKT residuals certify.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.programs.hooks import without_saved_tensor_hooks
from diffusion_dfl.programs.two_stage import ScenarioProblem, TwoStageProgram
from diffusion_dfl.solvers.active_set import TOLERANCE
from diffusion_dfl.solvers.arrow import (
    Arrow,
    NewtonEquations,
    Point,
    Scenarios,
    pull,
    residual,
    size_of,
    stationarity_terms,
)
from diffusion_dfl.solvers.rows import Rows, largest
from diffusion_dfl.solvers.solution import Solution, Status

_MAX_ITERATIONS = 150
_TO_BOUNDARY = 0.995
# KKT residual that is rounding, complementarity products at which more steps gain nothing (a weak
# constraint has a multiplier of the root of it), and steps without progress before the end.
_ROUNDING, _ENOUGH, _STALL = 1e-13, 1e-18, 20
# Distance to the constraints that a first decision begins with, as a share of the problem's length.
_COLD = 0.1
_MAX_HALVINGS = 20
# Terms of a coordinate's stationarity this small beside the largest of all count as so large.
_SMALL = 1e-4
# Numbers that the blocks of one chunk of instances may hold.
_CHUNK = 2**24
# How far beyond the data a direction is followed that is to prove something.
_FAR = 1e8


@torch.no_grad()
def solve_two_stage(
    program: TwoStageProgram,
    scenarios: Tensor,
    weights: Tensor,
    context: Tensor | None = None,
    start: Tensor | None = None,
) -> Solution:
    """Solve a batch of two-stage programs.

    Args:
        program: costs and constraints.
        scenarios: ``(B, M, d_y)`` float64, finite, ``M >= 1``.
        weights: ``(B, M)``, non-negative, rows with a positive sum; a scenario without weight has no
            say, and NaN for its recourse.
        context: ``(B, d_x)``, for constraints that depend on it.
        start: ``(B, n)``, a decision believed close; it changes iterations, never the optimum.

    Returns:
        The :class:`Solution`, with ``recourse`` and ``second_stage``. SOLVED is certified by the KKT
        residuals, INFEASIBLE by multipliers and UNBOUNDED by a direction; ``Solution.proof``.
    """
    if not len(scenarios):
        one = scenarios.new_zeros(1, *scenarios.shape[1:])
        known = None if context is None else context.new_zeros(1, context.shape[1])
        found = solve_two_stage(program, one, torch.ones_like(one[..., 0]), known)
        return found.select(torch.arange(0, device=scenarios.device))
    scenarios, unknown = with_weight(scenarios, weights), weights <= 0
    problem = program.problem(scenarios)
    pieces = []
    for rows in _chunks(problem, scenarios):
        known = None if context is None else context[rows]
        part = program.constraints(scenarios[rows], known)
        arrow = scaled_arrow(program, scenarios[rows], weights[rows], known)
        outcome = _iterated(arrow, None if start is None else start[rows])
        pieces.append(_solution(program, arrow, outcome, part))
    solution = Solution.joined(pieces)
    assert solution.recourse is not None
    recourse = torch.where(unknown.unsqueeze(2), torch.nan, solution.recourse)
    return replace(solution, recourse=recourse)


def with_weight(scenarios: Tensor, weights: Tensor) -> Tensor:
    """Scenarios ``(B, M, d_y)`` with the heaviest in place of those without weight, which have no say."""
    heaviest = weights.argmax(1).view(-1, 1, 1).expand(-1, 1, scenarios.shape[2])
    return torch.where(weights.unsqueeze(2) > 0, scenarios, scenarios.gather(1, heaviest))


def scaled_arrow(
    program: TwoStageProgram, scenarios: Tensor, weights: Tensor, context: Tensor | None
) -> Arrow:
    """The programs in arrow form, with unit gradients and their magnitudes."""
    given = program.constraints(scenarios, context)
    return _arrow(program.problem(scenarios), scenarios, weights, given)


@dataclass(frozen=True)
class SecondStageCost:
    """Of outcomes with decisions ``(N, ...)``: w ``(N, r)`` and multipliers where it is ``known (N,)``,
    else the ``value``: ``inf``, ``-inf`` or NaN."""

    w: Tensor
    duals: Tensor
    equality_duals: Tensor
    known: Tensor
    value: Tensor


@torch.no_grad()
@without_saved_tensor_hooks()
def solve_second_stage(problem: ScenarioProblem, outcomes: Tensor) -> SecondStageCost:
    """Decide w for outcomes ``(N, d)`` of a problem without a first stage."""
    scenarios = outcomes.unsqueeze(1)
    finite = outcomes.isfinite().all(1)
    scenarios = torch.where(finite.view(-1, 1, 1), scenarios, 0.0)
    pieces = []
    for rows in _chunks(problem, scenarios):
        part = scenarios[rows]
        given = Constraints.of(part, 0)
        arrow = _arrow(problem, part, part.new_ones(len(part), 1), given)
        outcome = _iterated(arrow, None)
        point = outcome.point
        value = torch.full_like(arrow.slope, torch.nan)
        value = torch.where(outcome.status == int(Status.INFEASIBLE), torch.inf, value)
        value = torch.where(outcome.status == int(Status.UNBOUNDED), -torch.inf, value)
        solved = outcome.status == int(Status.SOLVED)
        column = solved.unsqueeze(1)
        duals = arrow.scenarios.original(point.dual)[:, 0]
        w, duals, nu = (
            torch.where(column, part, 0.0) for part in (point.w[:, 0], duals, point.nu[:, 0])
        )
        pieces.append((w, duals, nu, solved, value))
    if not pieces:
        pieces = [_nothing(problem, outcomes)]
    w, duals, nu, known, value = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return SecondStageCost(w, duals, nu, known & finite, torch.where(finite, value, torch.nan))


def _nothing(
    problem: ScenarioProblem, outcomes: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    v, y = outcomes.new_ones(len(problem.lower)), outcomes.new_ones(outcomes.shape[1])
    none = outcomes.new_zeros(0)
    values = (v, problem.inequality_values(y, v), problem.equality_values(y, v))
    w, duals, nu = (none.new_zeros(0, len(part)) for part in values)
    return w, duals, nu, none > 0, none


def _chunks(problem: ScenarioProblem, scenarios: Tensor) -> list[Tensor]:
    """Indices of instances that are solved together, as many as memory is meant for."""
    size = problem.size + 2 * len(problem.lower)
    each = scenarios.shape[1] * size * size
    every = torch.arange(len(scenarios), device=scenarios.device)
    return list(every.split(max(1, _CHUNK // each))) if len(every) else []


def _arrow(
    problem: ScenarioProblem, outcomes: Tensor, weights: Tensor, given: Constraints
) -> Arrow:
    """The programs with unit gradients and their magnitudes."""
    scenarios = Scenarios.of(problem, outcomes)
    z = outcomes.new_zeros(len(outcomes), problem.size)
    first = Rows.of(given, z)
    one = torch.ones_like(weights[:, 0])
    arrow = Arrow(scenarios, first, weights, one, one)
    z, w = _begin(arrow, None, 1.0)
    v = arrow.joined(z, w)
    gradient = scenarios.gradient(v).nan_to_num(0.0, 0.0, 0.0)
    in_z = torch.einsum("bm,bmn->bn", weights, gradient[..., : problem.size].abs())
    slope = torch.maximum(largest(in_z), largest(gradient[..., problem.size :]))
    values = arrow.first_values(z).nan_to_num(0.0, 0.0, 0.0)
    values = torch.where(first.present, values, 0.0)
    rows = scenarios.row_values(v).nan_to_num(0.0, 0.0, 0.0)
    equalities = (first.constraints.equality_residual(z), scenarios.equalities.at(v))
    violated = size_of((values.clamp_min(0), rows.clamp_min(0), *equalities, z, w))
    sizes = torch.cat([values.abs(), rows.flatten(1).abs()], dim=1)
    least = torch.where(sizes > 0, sizes, torch.inf)
    least = least.amin(1) if least.shape[1] else torch.full_like(slope, torch.inf)
    length = torch.where(violated > 0, violated, torch.where(least.isfinite(), least, 0.0))
    bend = largest(scenarios.hessian(v, rows.new_zeros(*v.shape[:2], scenarios.num_rows)))
    bend = bend.expand_as(slope).nan_to_num(0.0, 0.0, 0.0)
    step = torch.where(bend > 0, slope / bend.clamp_min(1e-300), 0.0)
    length = torch.where(length > 0, length, step)
    length = torch.where(length > 0, length, 1.0)
    slope = torch.where(slope > 0, slope, bend * length)
    return Arrow(scenarios, first, weights, length, torch.where(slope > 0, slope, 1.0))


def _begin(arrow: Arrow, start: Tensor | None, share: float) -> tuple[Tensor, Tensor]:
    """First decisions strictly between their bounds."""
    size = arrow.scenarios.problem.size
    z = arrow.weights.new_zeros(len(arrow.weights), size) if start is None else start
    w = arrow.weights.new_zeros(*arrow.weights.shape, len(arrow.scenarios.problem.lower))
    return _within(arrow, z, w, share)


def _within(arrow: Arrow, z: Tensor, w: Tensor, share: float = _COLD) -> tuple[Tensor, Tensor]:
    """Decisions moved between their bounds, by a share of the problem's length where there is room."""
    problem, rows = arrow.scenarios.problem, arrow.constraints

    def between(value: Tensor, lower: Tensor | None, upper: Tensor | None, room: Tensor) -> Tensor:
        margin = room.expand_as(value)
        if lower is not None and upper is not None:
            margin = torch.minimum(margin, 0.25 * (upper - lower)).clamp_min(0)
        if lower is not None:
            value = torch.maximum(value, lower + margin)
        return value if upper is None else torch.minimum(value, upper - margin)

    room = share * arrow.length.unsqueeze(1)
    z = between(z, rows.lower, rows.upper, room)
    return z, between(w, problem.lower, problem.upper, room.unsqueeze(2))


def _started(arrow: Arrow, start: Tensor | None) -> Point:
    """The minimiser of a model in which every constraint is a spring, with slacks and multipliers of its
    values, none below a share of the problem's magnitudes (as CVXOPT begins; Vandenberghe, 2010)."""
    z, w = _begin(arrow, start, _COLD)
    length, slope = arrow.length.unsqueeze(1), arrow.slope.unsqueeze(1)
    present = arrow.first.present
    num_rows = arrow.scenarios.num_rows + sum(map(len, arrow.scenarios.problem.bounded))
    slack = length.unsqueeze(2).expand(*w.shape[:2], num_rows)
    point = Point(
        z,
        torch.where(present, length, 1.0).expand(len(z), -1),
        torch.where(present, slope, 0.0).expand(len(z), -1),
        z.new_zeros(len(z), arrow.constraints.equality_matrix.shape[1]),
        w,
        slack,
        slope.unsqueeze(2).expand_as(slack),
        w.new_zeros(*w.shape[:2], arrow.scenarios.equalities.slope.shape[2]),
    )
    way = _Direction(arrow, point).towards(torch.zeros_like(arrow.slope), None)
    sprung = point.moved(way, torch.ones_like(arrow.slope))
    usable = size_of((sprung.z, sprung.w)).isfinite()
    usable &= size_of((sprung.z, sprung.w)) < 1e6 * arrow.length
    rows = torch.nonzero(usable).flatten()
    point = point.replaced(rows, sprung.select(rows))
    z, w = _within(arrow, point.z, point.w)
    values = arrow.scenarios.row_values(arrow.joined(z, w))
    values = torch.cat([values, arrow.scenarios.bounds(w)], dim=2).nan_to_num(0.0)
    size = torch.maximum(arrow.length, size_of((z, w))).unsqueeze(1)
    first = torch.maximum(-arrow.first_values(z), _COLD * size)
    first_dual = torch.maximum(point.first_dual, _COLD * slope)
    return Point(
        z,
        torch.where(present, first, 1.0),
        torch.where(present, first_dual, 0.0),
        point.first_nu,
        w,
        torch.maximum(-values, _COLD * size.unsqueeze(2)),
        torch.maximum(point.dual, _COLD * slope.unsqueeze(2)),
        point.nu,
    )


@dataclass(frozen=True)
class _Outcome:
    point: Point
    status: Tensor
    iterations: Tensor
    proof: Tensor


def _iterated(arrow: Arrow, start: Tensor | None) -> _Outcome:
    point = _started(arrow, start)
    batch = len(point.z)
    rows = torch.arange(batch, device=point.z.device)
    best_point = point.select(rows)
    best = torch.full_like(arrow.slope, torch.inf)
    status = torch.full_like(rows, int(Status.NOT_CONVERGED))
    iterations, proof = torch.zeros_like(rows), torch.full_like(best, torch.nan)
    stalled, part, before = torch.zeros_like(rows), arrow, point
    for step in range(_MAX_ITERATIONS + 1):
        distance = _error(part, point)
        progress = distance < 0.9 * best[rows]
        better = torch.nonzero(distance < best[rows]).flatten()
        best_point.write(rows[better], point.select(better))
        best[rows[better]] = distance[better]
        stalled[rows] = torch.where(progress, 0, stalled[rows] + 1)
        ends = (best[rows] <= _ROUNDING + _ENOUGH) | ~distance.isfinite()
        ends |= (stalled[rows] >= _STALL) | (step == _MAX_ITERATIONS)
        ends |= (best[rows] <= TOLERANCE) & (stalled[rows] >= 4)
        if bool(ends.any()):
            gone = torch.nonzero(ends).flatten()
            lost = gone[best[rows[gone]] > TOLERANCE]
            if lost.numel():
                chosen = (part.select(lost), point.select(lost), before.select(lost))
                status[rows[lost]], proof[rows[lost]] = _without_optimum(*chosen)
            status[rows[gone[best[rows[gone]] <= TOLERANCE]]] = int(Status.SOLVED)
            stay = torch.nonzero(~ends).flatten()
            if not stay.numel():
                break
            rows, part, point = rows[stay], part.select(stay), point.select(stay)
        before = point
        point = _step(part, point)
        iterations[rows] += 1
    return _Outcome(best_point, status, iterations, proof)


def _present(arrow: Arrow) -> Tensor:
    return arrow.first.present.expand(len(arrow.weights), -1)


def _products(arrow: Arrow, point: Point) -> Tensor:
    """Mean complementarity product, ``(B,)``."""
    first = torch.where(_present(arrow), point.first_slack * point.first_dual, 0.0).sum(1)
    total = first + (point.slack * point.dual).sum((1, 2))
    count = _present(arrow).sum(1) + point.slack.shape[1] * point.slack.shape[2]
    return total / count.clamp_min(1)


def _error(arrow: Arrow, point: Point) -> Tensor:
    """KKT residual, stationarity of every coordinate relative to its own terms, ``(B,)``."""
    in_z, in_w, *values = residual(arrow, point)
    size = torch.maximum(arrow.length, size_of((point.z, point.w)))
    steep = torch.maximum(arrow.slope, 1e-3 * size_of((point.dual, point.first_dual)))
    gap = torch.where(_present(arrow), point.first_slack * point.first_dual, 0.0)
    gap = size_of((gap, point.slack * point.dual)) / (steep * size)
    of_z, of_w = stationarity_terms(arrow, point)
    noise = _SMALL * size_of((of_z, of_w))
    own = size_of((in_z / (of_z + noise.unsqueeze(1)), in_w / (of_w + noise.view(-1, 1, 1))))
    residuals = own + size_of(tuple(values)) / size
    return residuals.clamp_min(_ROUNDING) + gap


class _Direction:
    """Directions of Newton's method from a point, for any target of its complementarity products."""

    def __init__(self, arrow: Arrow, point: Point):
        self._arrow, self._point = arrow, point
        self._equations, self._residual = NewtonEquations(arrow, point), residual(arrow, point)

    def towards(self, target: Tensor, predictor: Point | None) -> Point:
        """Direction to products ``target (B,)``, less second-order terms of a predictor."""
        point, equations, present = self._point, self._equations, _present(self._arrow)
        in_z, in_w, first, first_equal, values, equal = self._residual
        scenarios, count = self._arrow.scenarios, self._arrow.scenarios.num_rows
        level = target.unsqueeze(1)
        first_gap = level - point.first_slack * point.first_dual
        row_gap = level.unsqueeze(2) - point.slack * point.dual
        if predictor is not None:
            first_gap = first_gap - predictor.first_slack * predictor.first_dual
            row_gap = row_gap - predictor.slack * predictor.dual
        first_shift = first_gap / point.first_slack + equations.first_weight * first
        first_shift = torch.where(present, first_shift, 0.0)
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
            torch.where(present, -first - pushed, 0.0),
            first_shift + equations.first_weight * pushed,
            first_nu,
            w,
            -values - pushes,
            torch.cat([duals, of_bounds], dim=2),
            nu,
        )


def _step(arrow: Arrow, point: Point) -> Point:
    """One predictor-corrector step; shortened where functions are curved and it would lead away."""
    newton, gap = _Direction(arrow, point), _products(arrow, point)
    predictor = newton.towards(torch.zeros_like(gap), None)
    ahead = _products(arrow, point.moved(predictor, _longest(point, predictor).clamp_max(1.0)))
    centering = (ahead / gap.clamp_min(1e-300)).clamp(1e-8, 1.0) ** 3
    chosen = newton.towards(centering * gap, predictor)
    # Ever closer to the boundary, so that the last steps converge faster than linearly.
    share = 1.0 - (ahead / gap.clamp_min(1e-300)).clamp(1e-3, 1.0 - _TO_BOUNDARY)
    length = (share * _longest(point, chosen)).clamp_max(1.0)
    moved = _settled(arrow, point, point.moved(chosen, length))
    affine = arrow.scenarios.slopes is not None and arrow.scenarios.rows is not None
    if affine and arrow.constraints.smooth is None:
        return moved
    poor = ~(_error(arrow, moved) <= (1 - 0.01 * length) * _error(arrow, point))
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
            torch.where(_present(arrow), at.first_slack * at.first_dual - target.unsqueeze(1), 0.0),
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


def _without_optimum(arrow: Arrow, point: Point, before: Point) -> tuple[Tensor, Tensor]:
    """Status of instances that do not converge, after a look for the reason, and its proof."""
    status = torch.full_like(arrow.slope, int(Status.NOT_CONVERGED), dtype=torch.int64)
    falls = _cost_falls_for_ever(arrow, point, before)
    status = torch.where(falls.isfinite(), int(Status.UNBOUNDED), status)
    empty = _no_decision_satisfies(arrow, point)
    status = torch.where(empty.isfinite(), int(Status.INFEASIBLE), status)
    proof = torch.where(empty.isfinite(), empty, falls)
    return status, torch.where(proof.isfinite(), proof, torch.nan)


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
    first_dual = torch.where(_present(arrow), point.first_dual, 0.0)
    value = (dual * rows).sum((1, 2)) + (nu * equal).sum((1, 2))
    value = value + (first_dual * first).sum(1) + (point.first_nu * first_equal).sum(1)
    row_slopes = scenarios.row_slopes(v)
    force = _pull(row_slopes, scenarios.equalities.slope, dual, nu)
    terms = _pull(row_slopes.abs(), scenarios.equalities.slope.abs(), dual.abs(), nu.abs())
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


def _pull(rows: Tensor, equalities: Tensor, dual: Tensor, nu: Tensor) -> Tensor:
    """``rows' dual + equalities' nu``, ``(B, M, N)``."""
    return pull(rows, dual) + pull(equalities, nu)


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


def _solution(
    program: TwoStageProgram, arrow: Arrow, outcome: _Outcome, given: Constraints
) -> Solution:
    point, scenarios = outcome.point, arrow.scenarios
    n = point.z.shape[1]
    v = arrow.joined(point.z, point.w)
    count = scenarios.num_rows
    in_v = (
        scenarios.gradient(v)[..., :n]
        + _pull(
            scenarios.row_slopes(v), scenarios.equalities.slope, point.dual[..., :count], point.nu
        )[..., :n]
    )
    dual, nu = arrow.first.original_duals(
        torch.where(_present(arrow), point.first_dual, 0.0), point.first_nu
    )
    in_z, in_w, *_ = residual(arrow, point)
    values = given.inequality_values(point.z)
    rows = torch.cat([scenarios.row_values(v), scenarios.bounds(point.w)], dim=2)
    outside = size_of(
        (
            values.clamp_min(0),
            given.equality_residual(point.z),
            rows.clamp_min(0),
            scenarios.equalities.at(v),
        )
    )
    products = size_of((torch.where(dual > 0, dual * values, 0.0), point.dual * rows))
    return Solution(
        decision=point.z,
        duals=dual,
        equality_duals=nu,
        subgradients=in_v,
        at_kink=torch.zeros_like(in_v[..., :0], dtype=torch.bool),
        status=outcome.status,
        iterations=outcome.iterations,
        residuals=torch.stack([size_of((in_z, in_w)), outside, products], dim=1),
        proof=outcome.proof,
        recourse=point.w[..., : program.recourse.num_decisions],
        second_stage=point,
    )
