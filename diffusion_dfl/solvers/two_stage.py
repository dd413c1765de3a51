"""Batched primal-dual interior point for two-stage programs: Mehrotra's steps in arrow form.

As in :mod:`diffusion_dfl.solvers.predictor_corrector`, with the scenarios' decisions eliminated block by
block (:mod:`diffusion_dfl.solvers.arrow_newton`), so that a step is linear in the number of scenarios. There is
no active set to polish: steps go on until rounding stops them, and the KKT residuals certify.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.programs.hooks import without_saved_tensor_hooks
from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.two_stage import ScenarioProblem, TwoStageProgram
from diffusion_dfl.solvers.active_set import TOLERANCE
from diffusion_dfl.solvers.arrow import (
    Arrow,
    Point,
    Scenarios,
    present,
    pull_both,
    residual,
    size_of,
)
from diffusion_dfl.solvers.arrow_evidence import not_convex, violated, without_optimum
from diffusion_dfl.solvers.arrow_steps import ROUNDING, Direction, error, newton_step
from diffusion_dfl.solvers.arrow_units import (
    alike,
    first_in_units,
    of_first,
    of_second,
    problem_in_units,
    units_of,
)
from diffusion_dfl.solvers.rows import Rows, largest
from diffusion_dfl.solvers.solution import Solution, Status

_MAX_ITERATIONS = 150
# Complementarity products at which more steps gain nothing (a weak constraint has a multiplier of the
# root of it), and steps without progress before the end.
_ENOUGH, _STALL = 1e-18, 20
# Multipliers beyond this many times the cost's slope, and decisions beyond as many times the length,
# make an optimum doubtful.
_GROWN = 1e6
# Distance to the constraints that a first decision begins with, as a share of the problem's length.
_COLD = 0.1
# Numbers that the blocks of one chunk of instances may hold.
_CHUNK = 2**24


@torch.no_grad()
def solve_two_stage(
    program: TwoStageProgram, instances: Instances, start: Tensor | None = None
) -> Solution:
    """Solve a batch of two-stage programs.

    Args:
        program: costs and constraints.
        instances: valid ones; a scenario without weight has no say, and NaN for its recourse.
        start: ``(B, n)``, a decision believed close; it changes iterations, never the optimum.

    Returns:
        The :class:`Solution`, with ``recourse`` and ``second_stage``. SOLVED is certified by the KKT
        residuals, INFEASIBLE by multipliers and UNBOUNDED by a direction; ``Solution.proof``. NON_CONVEX
        are costs with negative curvature where the iteration ended.
    """
    y, x = instances.scenarios, instances.context
    if not len(y):
        known = None if x is None else x.new_zeros(1, x.shape[1])
        one = Instances.of(y.new_zeros(1, *y.shape[1:]), context=known)
        return solve_two_stage(program, one).select(torch.arange(0, device=y.device))
    instances, unknown = with_weight(instances), instances.weights <= 0
    problem = program.problem(instances.scenarios)
    pieces = []
    for rows in _chunks(problem, y):
        part = instances.select(rows)
        given = program.constraints(part.scenarios, part.context)
        attempts = _attempts(problem, part, given, None if start is None else start[rows])
        parts = [_solution(program, found, given.select(found.rows)) for found in attempts]
        pieces.append(Solution.joined(parts).select(_order(attempts)))
    solution = Solution.joined(pieces)
    assert solution.recourse is not None
    recourse = torch.where(unknown.unsqueeze(2), torch.nan, solution.recourse)
    return replace(solution, recourse=recourse)


def with_weight(instances: Instances) -> Instances:
    """With the heaviest scenario in place of those without weight, which have no say."""
    y, weights = instances.scenarios, instances.weights
    heaviest = weights.argmax(1).view(-1, 1, 1).expand(-1, 1, y.shape[2])
    y = torch.where(weights.unsqueeze(2) > 0, y, y.gather(1, heaviest))
    return replace(instances, scenarios=y)


def scaled_arrow(program: TwoStageProgram, instances: Instances, units: Tensor) -> Arrow:
    """The programs in arrow form, in ``units (n + r,)``, with unit gradients and their magnitudes."""
    given = program.constraints(instances.scenarios, instances.context)
    given = first_in_units(given, units[: program.num_decisions], len(instances))
    problem = problem_in_units(program.problem(instances.scenarios), units)
    return _arrow(problem, instances, given)


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
    finite = outcomes.isfinite().all(1)
    y = torch.where(finite.view(-1, 1, 1), outcomes.unsqueeze(1), 0.0)
    instances = Instances(y, torch.ones_like(y[..., 0]), torch.zeros_like(y[:, 0]))
    pieces: list[tuple[Tensor, ...]] = []
    for rows in _chunks(problem, y):
        attempts = _attempts(problem, instances.select(rows), Constraints.of(y, 0), None)
        every = zip(*(_second_stage(attempt) for attempt in attempts), strict=True)
        order = _order(attempts)
        pieces.append(tuple(torch.cat(values)[order] for values in every))
    if not pieces:
        pieces = [_nothing(problem, outcomes)]
    w, duals, nu, known, value = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return SecondStageCost(w, duals, nu, known & finite, torch.where(finite, value, torch.nan))


def _second_stage(attempt: "_Attempt") -> tuple[Tensor, ...]:
    """w, multipliers, whether they are known and the value where they are not."""
    outcome, scenarios, units = attempt.outcome, attempt.arrow.scenarios, attempt.units
    point = outcome.point
    value = torch.full_like(outcome.proof, torch.nan)
    value = torch.where(outcome.status == int(Status.INFEASIBLE), torch.inf, value)
    value = torch.where(outcome.status == int(Status.UNBOUNDED), -torch.inf, value)
    solved = outcome.status == int(Status.SOLVED)
    rows, equalities = of_second(scenarios, units)
    duals = scenarios.original(point.dual) / rows
    found = (
        torch.where(solved.unsqueeze(1), part[:, 0], 0.0)
        for part in (units * point.w, duals, point.nu / equalities)
    )
    return (*found, solved, value)


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


def _arrow(problem: ScenarioProblem, instances: Instances, given: Constraints) -> Arrow:
    """The programs with unit gradients and their magnitudes."""
    weights, scenarios = instances.weights, Scenarios.of(problem, instances.scenarios)
    z = weights.new_zeros(len(weights), problem.size)
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
    way = Direction(arrow, point).towards(torch.zeros_like(arrow.slope), None)
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

    def select(self, rows: Tensor) -> "_Outcome":
        parts = (self.status[rows], self.iterations[rows], self.proof[rows])
        return _Outcome(self.point.select(rows), *parts)


@dataclass(frozen=True)
class _Attempt:
    """What became of the instances ``rows`` of a batch in the same ``units (n + r,)``."""

    rows: Tensor
    units: Tensor
    arrow: Arrow
    outcome: _Outcome

    def select(self, chosen: Tensor) -> "_Attempt":
        """Some of the instances, by their place in ``rows``."""
        arrow, outcome = self.arrow.select(chosen), self.outcome.select(chosen)
        return _Attempt(self.rows[chosen], self.units, arrow, outcome)


def _attempts(
    problem: ScenarioProblem, instances: Instances, given: Constraints, start: Tensor | None
) -> list[_Attempt]:
    """Solve a batch, every instance in units that suit it; in others where that fails."""
    arrow = _arrow(problem, instances, given)
    v = arrow.joined(*_begin(arrow, None, 1.0))
    units, n = units_of(arrow, v), problem.size
    every = torch.arange(len(v), device=v.device)
    if not bool(units.apart.any()):
        outcome = _decided(arrow, instances, given, start)
        return [_Attempt(every, torch.ones_like(v[0, 0]), arrow, outcome)]

    def decided(rows: Tensor, inside: Tensor) -> list[_Attempt]:
        made = []
        for chosen, own in alike(torch.where(inside.unsqueeze(1), units.sizes[rows], 1.0)):
            some = rows[chosen]
            part = instances.select(some)
            first = first_in_units(given.select(some), own[:n], len(some))
            arrow = _arrow(problem_in_units(problem, own), part, first)
            begun = None if start is None else start[some] / own[:n]
            made.append(_Attempt(some, own, arrow, _decided(arrow, part, first, begun)))
        return made

    inside = units.apart & units.plain
    attempts, again = [], []
    for attempt in decided(every, inside):
        failed = attempt.outcome.status == int(Status.NOT_CONVERGED)
        failed &= units.apart[attempt.rows]
        again.append(attempt.rows[failed])
        attempts.append(attempt.select(torch.nonzero(~failed).flatten()))
    rows = torch.cat(again)
    return attempts + (decided(rows, ~inside[rows]) if rows.numel() else [])


def _order(attempts: list[_Attempt]) -> Tensor:
    """Where the instances of a batch are among those of its attempts."""
    return torch.cat([attempt.rows for attempt in attempts]).argsort()


def _decided(
    arrow: Arrow, instances: Instances, given: Constraints, start: Tensor | None
) -> _Outcome:
    """Solve a batch; what falls for ever must do so from a decision that the constraints allow."""
    outcome = _iterated(arrow, start)
    rows = torch.nonzero(outcome.status == int(Status.UNBOUNDED)).flatten()
    if rows.numel():
        # The least decision has an end, whatever the cost.
        least = replace(arrow.scenarios.problem, cost=_square)
        nearest = _iterated(_arrow(least, instances.select(rows), given.select(rows)), None)
        empty = nearest.status == int(Status.INFEASIBLE)
        outcome.status[rows[empty]] = int(Status.INFEASIBLE)
        outcome.proof[rows[empty]] = nearest.proof[empty]
    return outcome


def _square(y: Tensor, v: Tensor) -> Tensor:
    return 0.5 * (v @ v)


def _iterated(arrow: Arrow, start: Tensor | None) -> _Outcome:
    point = _started(arrow, start)
    every = torch.arange(len(point.z), device=point.z.device)
    best_point = point.select(every)
    best = torch.full_like(arrow.slope, torch.inf)
    iterations, proof = torch.zeros_like(every), torch.full_like(best, torch.nan)
    stalled, part, before = torch.zeros_like(every), arrow, point
    concave = not_convex(arrow, point)
    status = torch.where(concave, int(Status.NON_CONVEX), int(Status.NOT_CONVERGED))
    rows = every
    if bool(concave.any()):
        rows = torch.nonzero(~concave).flatten()
        part, point, before = part.select(rows), point.select(rows), before.select(rows)
    for step in range(_MAX_ITERATIONS + 1 if rows.numel() else 0):
        distance = error(part, point)
        progress = distance < 0.9 * best[rows]
        better = torch.nonzero(distance < best[rows]).flatten()
        best_point.write(rows[better], point.select(better))
        best[rows[better]] = distance[better]
        stalled[rows] = torch.where(progress, 0, stalled[rows] + 1)
        ends = (best[rows] <= ROUNDING + _ENOUGH) | ~distance.isfinite()
        ends |= (stalled[rows] >= _STALL) | (step == _MAX_ITERATIONS)
        ends |= (best[rows] <= TOLERANCE) & (stalled[rows] >= 4)
        # Multipliers of constraints that contradict each other grow for ever, as do decisions along
        # which the cost falls; residuals are measured by both.
        grown = size_of((point.first_dual, point.dual)) > _GROWN * part.slope
        grown |= size_of((point.z, point.w)) > _GROWN * part.length
        suspect = torch.nonzero(grown & (best[rows] > TOLERANCE)).flatten()
        if suspect.numel():
            chosen = (part.select(suspect), point.select(suspect), before.select(suspect))
            verdict, residuals = without_optimum(*chosen)
            sure = verdict != int(Status.NOT_CONVERGED)
            status[rows[suspect[sure]]] = verdict[sure]
            proof[rows[suspect[sure]]] = residuals[sure]
            best_point.write(rows[suspect[sure]], point.select(suspect[sure]))
            ends[suspect[sure]] = True
        if bool(ends.any()):
            gone = torch.nonzero(ends & (status[rows] == int(Status.NOT_CONVERGED))).flatten()
            near = best[rows[gone]] <= TOLERANCE
            near &= ~violated(part.select(gone), best_point.select(rows[gone]))
            lost = gone[~near]
            if lost.numel():
                chosen = (part.select(lost), point.select(lost), before.select(lost))
                status[rows[lost]], proof[rows[lost]] = without_optimum(*chosen)
            status[rows[gone[near]]] = int(Status.SOLVED)
            stay = torch.nonzero(~ends).flatten()
            if not stay.numel():
                break
            rows, part, point = rows[stay], part.select(stay), point.select(stay)
        before = point
        point = newton_step(part, point)
        iterations[rows] += 1
    # A stationary point of a cost that is not convex is no optimum.
    concave = concave | not_convex(arrow, best_point)
    proof = torch.where(concave, torch.nan, proof)
    status = torch.where(concave, int(Status.NON_CONVEX), status)
    return _Outcome(best_point, status, iterations, proof)


def _solution(program: TwoStageProgram, attempt: _Attempt, given: Constraints) -> Solution:
    """In the units of the program as it is ``given``, all but ``second_stage``."""
    arrow, outcome, units = attempt.arrow, attempt.outcome, attempt.units
    point, scenarios = outcome.point, arrow.scenarios
    n = point.z.shape[1]
    of_z, of_w = units[:n], units[n:]
    v = arrow.joined(point.z, point.w)
    count = scenarios.num_rows
    in_v = (
        scenarios.gradient(v)[..., :n]
        + pull_both(
            scenarios.row_slopes(v), scenarios.equalities.slope, point.dual[..., :count], point.nu
        )[..., :n]
    )
    dual, nu = arrow.first.original_duals(
        torch.where(present(arrow), point.first_dual, 0.0), point.first_nu
    )
    dual = dual / of_first(arrow.constraints, of_z)
    z, w = of_z * point.z, of_w * point.w
    in_z, in_w, *_ = residual(arrow, point)
    values = given.inequality_values(z)
    rows = torch.cat([scenarios.row_values(v), scenarios.bounds(point.w)], dim=2)
    of_rows, of_equalities = of_second(scenarios, units)
    outside = size_of(
        (
            values.clamp_min(0),
            given.equality_residual(z),
            of_rows * rows.clamp_min(0),
            of_equalities * scenarios.equalities.at(v),
        )
    )
    products = size_of((torch.where(dual > 0, dual * values, 0.0), point.dual * rows))
    # How many inequalities are stated as equalities depends on what an instance was solved with.
    second_stage = replace(point, first_nu=nu)
    return Solution(
        decision=z,
        duals=dual,
        equality_duals=nu,
        subgradients=in_v / of_z,
        at_kink=torch.zeros_like(in_v[..., :0], dtype=torch.bool),
        status=outcome.status,
        iterations=outcome.iterations,
        residuals=torch.stack([size_of((in_z / of_z, in_w / of_w)), outside, products], dim=1),
        proof=outcome.proof,
        recourse=w[..., : program.recourse.num_decisions],
        second_stage=second_stage,
        units=units.expand(len(z), -1),
    )
