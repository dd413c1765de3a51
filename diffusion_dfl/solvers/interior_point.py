"""Batched primal-dual interior point for any program of :mod:`diffusion_dfl.programs`.

    min_z  F(z) + sum_mk c_mk (a_mk(z))_+   s.t.  c(z) <= 0,  A z = b

:mod:`diffusion_dfl.solvers.predictor_corrector` brings an instance close to its optimum, then
:mod:`diffusion_dfl.solvers.active_set` solves for its active set to rounding and certifies it;
certified instances leave the batch, as do those that :mod:`diffusion_dfl.solvers.evidence` shows
to have no optimum.
"""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.programs import Instances, Program
from diffusion_dfl.solvers.active_set import pivoted, polish
from diffusion_dfl.solvers.certificate import (
    as_solution,
    kkt_residuals,
    of_another_cost,
    precise,
)
from diffusion_dfl.solvers.columns import (
    ProgramInUnits,
    Units,
    entries,
    in_given_units,
    with_units,
)
from diffusion_dfl.solvers.course import FIRST_POLISH, Course, on_device, on_host
from diffusion_dfl.solvers.evidence import (
    cost_falls_for_ever,
    no_decision_satisfies,
    nothing_is_feasible,
)
from diffusion_dfl.solvers.factor import has_negative_curvature
from diffusion_dfl.solvers.newton_system import (
    Problem,
)
from diffusion_dfl.solvers.outcome import Outcome
from diffusion_dfl.solvers.predictor_corrector import Iterate, newton_step, started
from diffusion_dfl.solvers.rows import largest
from diffusion_dfl.solvers.scaling import (
    cold_start,
    near_curved,
    rescaled,
    scaled_problem,
    sized_by_cost,
    within_bounds,
    without_form,
    without_kernels,
)
from diffusion_dfl.solvers.solution import Solution, Status

_MAX_ITERATIONS = 200
# Distance to the constraints that a first decision begins with, as a share of the problem's length.
_COLD, _WARM = 0.3, 0.01
# KKT residual at which the active set of rows alone is first tried, which show earlier than kinks do.
_OF_ROWS = 1e-5
# Share of the allowed residual that is aimed at before progress ends.
_CLOSE = 0.1
# Rounds in which a program of few kinks or decisions changes sides from its first decision.
_PIVOTS = 24
_NARROW_ROUNDS, _EXACT = 30, 1e-5
# A kernel is wide from this share of its outcome's range on.
_WIDE = 0.03
_SOLVED, _OPEN = int(Status.SOLVED), int(Status.NOT_CONVERGED)


def solve_interior_point(
    program: Program, instances: Instances, start: Tensor | None = None
) -> Solution:
    """Solve a batch of programs of any kind.

    Args:
        program: costs and constraints.
        instances: valid ones.
        start: ``(B, n)``, a decision believed close; it changes iterations, never the optimum.

    Returns:
        The :class:`Solution`. SOLVED is certified by the KKT residuals of the program as given,
        INFEASIBLE by multipliers that exclude every decision within 1e8 times the largest number of
        the program, UNBOUNDED by a feasible direction along which the cost still falls at that
        distance (:mod:`diffusion_dfl.solvers.evidence`); their residuals are ``Solution.proof``.
    """
    solution, curved = _scaled_and_solved(program, instances, start)
    if not curved:
        return solution
    # A set may be small in some coordinates and say nothing of others: seen from 0 once more.
    rows = torch.nonzero(solution.status == int(Status.NOT_CONVERGED)).flatten()
    if rows.numel():
        first = None if start is None else start[rows]
        other, _ = _scaled_and_solved(program, instances.select(rows), first, near=False)
        solution = solution.replaced(rows, other)
    return solution


def _scaled_and_solved(
    program: Program, instances: Instances, start: Tensor | None, near: bool = True
) -> tuple[Solution, bool]:
    """Solve a batch, scaled and begun ``near`` its curved sets; and whether there are any."""
    problem = scaled_problem(program, instances, near)
    curved = problem.rows.constraints.smooth is not None
    units = Units.of(entries(problem), problem.origin)
    first = units.apart & units.plain
    every = torch.arange(len(first), device=first.device)
    solution = _in_units(problem, units, every, first, start)
    apart = torch.nonzero(units.apart).flatten()
    if not apart.numel():
        return solution, curved
    checked = precise(problem, solution, apart)
    rows = apart[checked.status == int(Status.NOT_CONVERGED)]
    solution = solution.replaced(apart, checked)
    if rows.numel():
        other = _in_units(problem, units, rows, ~first, start)
        solution = solution.replaced(rows, other)
        solution = solution.replaced(rows, precise(problem, solution, rows))
    return solution, curved


def _in_units(
    problem: Problem, units: Units, rows: Tensor, chosen: Tensor, start: Tensor | None
) -> Solution:
    """Solve the instances ``rows``, those ``chosen (B,)`` in their units, others as they are given."""
    start = None if start is None else start[rows]
    problem, sizes = problem.select(rows), units.sizes[rows]
    sizes = torch.where(chosen[rows].unsqueeze(1), sizes, 1.0)
    if bool((sizes == 1).all()):
        return _solved(problem, start)
    program, instances = problem.program, problem.instances
    given = program.constraints(instances.scenarios, instances.context)
    problem = scaled_problem(ProgramInUnits(program), with_units(instances, sizes), problem.near)
    solution = _solved(problem, None if start is None else start / sizes)
    solution = in_given_units(solution, sizes, given)
    found = solution.decision, solution.subgradients, solution.duals, solution.equality_duals
    return replace(solution, residuals=kkt_residuals(given, instances.weights, *found))


def _solved(problem: Problem, start: Tensor | None) -> Solution:
    """Solve a batch of scaled programs.

    Where steps are of this package's arithmetic alone their tensors are made without what autograd
    would need: small programs are solved a sixth faster.
    """
    with torch.inference_mode() if problem.closed else nullcontext():
        outcome = _outcome(problem, start)
    found = outcome.copied()
    solution = as_solution(problem, found.point, found.status, found.iterations, found.proof)
    if problem.quadratic is None or problem.quadratic.proved:
        return solution
    rows = torch.nonzero(of_another_cost(problem, solution)).flatten()
    if not rows.numel():
        return solution
    other = _solved(without_form(problem.select(rows)), None if start is None else start[rows])
    return solution.replaced(rows, other)


def _outcome(problem: Problem, start: Tensor | None) -> Outcome:
    """What attempts, each from where the one before ended, come to."""
    smoothed = (problem.instances.bandwidth > 0).any(1) & problem.program.kinked
    rows = torch.nonzero(smoothed).flatten()
    if rows.numel() < len(smoothed):
        outcome = _interior(problem, start)
    else:
        outcome = Outcome.nothing(problem)
    if rows.numel():
        first = None if start is None else start[rows]
        outcome.write(rows, _through_exact(problem.select(rows), first))
        # Where the exact program has no optimum, the smoothed one may.
        rows = torch.nonzero(smoothed & (outcome.status != _SOLVED)).flatten()
        if rows.numel():
            outcome.write(rows, _interior(problem.select(rows), None))
    # Where many rows meet, steps can get ever shorter; a fresh start from there does not.
    rows = outcome.open(outcome.point.z.isfinite().all(1))
    if rows.numel():
        outcome.write(rows, _interior(problem.select(rows), outcome.point.z[rows]))
    # A model without curvature may begin far outside of a curved set, whose rows then hold it there.
    rows = outcome.open()
    if rows.numel():
        part = problem.select(rows)
        outcome.write(rows, _interior(part, part.origin))
    # Limits may say nothing of a program's size.
    rows = outcome.open()
    if rows.numel():
        outcome.write(rows, _interior(sized_by_cost(problem.select(rows)), None))
    return outcome


def _through_exact(problem: Problem, start: Tensor | None) -> Outcome:
    """Solve convolved programs from the decisions of those with exact kinks.

    Through a narrow kernel the slope is a staircase, which Newton's method climbs one scenario at a
    time, and far from all kernels the cost may be flat. The exact decision is a few widths off, and
    where a kink holds it, it is at the middle of the kernel, from where Newton's method does not
    overshoot.
    """
    exact = without_kernels(problem)
    rough = _wide(problem.instances)
    outcome = _at_kernels(problem, _interior(exact, start, rough))
    rows = _smoothed(problem, outcome, torch.nonzero(outcome.status == _SOLVED).flatten())
    if bool(rough[rows].any()):
        again = rows[rough[rows]]
        closer = _interior(exact.select(again), outcome.point.z[again])
        outcome.write(again, _at_kernels(problem.select(again), closer))
        again = _smoothed(problem, outcome, again[outcome.status[again] == _SOLVED])
        rows = torch.cat([rows[~rough[rows]], again])
    if rows.numel():
        outcome.write(rows, _interior(problem.select(rows), outcome.point.z[rows]))
    return outcome


def _wide(instances: Instances) -> Tensor:
    """Whether no kernel is narrow beside the spread of its outcome: ``(B,)``."""
    spread = instances.scenarios.amax(1) - instances.scenarios.amin(1)
    width = instances.bandwidth
    return ((width <= 0) | (width >= _WIDE * spread)).all(1)


def _at_kernels(problem: Problem, outcome: Outcome) -> Outcome:
    """What the exact program came to, with the multipliers of the hinges that stay exact."""
    point = outcome.point
    if problem.hinges is None:
        alpha = point.z.new_zeros(len(point.z), 0, 0)
        point = replace(point, alpha=alpha, held=alpha > 0)
    else:
        real = problem.hinges.weight > 0
        alpha = torch.where(real, point.alpha, 0.0)
        point = replace(point, alpha=alpha, held=point.held & real)
    return replace(outcome, point=point)


def _smoothed(problem: Problem, outcome: Outcome, rows: Tensor) -> Tensor:
    """Solve the instances ``rows`` from decisions of the exact program, in place where that leads
    somewhere.

    Returns:
        Those where it does not.
    """
    if not rows.numel():
        return rows
    part, begun = problem.select(rows), outcome.point.select(rows)
    slack = torch.where(begun.dual > 0, 0.0, part.length.unsqueeze(1))
    # From a rough start the first step that is near enough is not yet as near as its next one.
    found, score = polish(part, begun, slack, _NARROW_ROUNDS, 1, _EXACT)
    reached = score <= 1.0
    outcome.point.write(rows[reached], found.select(reached))
    return rows[~reached]


def _interior(problem: Problem, start: Tensor | None, rough: Tensor | None = None) -> Outcome:
    """One run of the iteration, from a cold start or from decisions ``(B, n)``.

    The instances ``rough (B,)`` are left as they are, and called solved, once they are near their optimum.
    """
    first = cold_start(problem) if start is None else start
    if start is None and problem.near:
        first = near_curved(problem.rows.constraints, first)
    first = within_bounds(problem, first, _COLD if start is None else _WARM)
    problem = rescaled(problem, first)
    iterate = started(problem, first, _COLD if start is None else _WARM)
    rows = torch.arange(len(first), device=first.device)
    final = Outcome.of(iterate.multipliers().copied())
    rows_alone = problem.hinges is None and iterate.at.values.shape[1] > 0
    course = Course.of(len(first), _OF_ROWS if rows_alone else FIRST_POLISH, rough)
    pivots = start is None and problem.pivots
    ray = torch.zeros_like(first)
    for step in range(_MAX_ITERATIONS + 1):
        if not rows.numel():
            break
        part = iterate.problem
        hessian, bend = part.curvature(iterate.z, iterate.dual)
        lost = course.after(on_host(iterate.error)) | (step == _MAX_ITERATIONS)
        status, proof = _excluded(iterate, hessian, bend, step, course)
        suspect = np.flatnonzero((course.suspect | lost) & (status == _OPEN))
        if len(suspect):
            index = on_device(suspect, first)
            found = _without_optimum(iterate.select(index), ray[index])
            status[suspect], proof[suspect] = (on_host(part) for part in found)
        status[course.rough & (status == _OPEN)] = _SOLVED
        known = status != _OPEN
        early = pivots and not step
        trying = np.flatnonzero(~known) if early else course.trying(lost, known)
        begun = None
        if len(trying):
            index = on_device(trying, first)
            chosen = iterate if len(trying) == len(known) else iterate.select(index)
            begun = chosen.multipliers(), chosen.slack
            if early:
                point, slack, through = pivoted(chosen.problem, *begun, _PIVOTS)
                begun = point, slack
                near = course.hasty[trying] & on_host(through)
                if near.all():  # Residuals would say more than a rough decision needs.
                    final.point.write(rows[index], point)
                    status[trying] = _SOLVED
                if near.all() or not through.any():
                    begun = None
        if begun is not None:
            point, score = polish(chosen.problem, *begun)
            # What is allowed at last is more than what most get.
            allowed = np.where((course.stuck | lost)[trying], 1.0, _CLOSE)
            status[trying[on_host(score) <= allowed]] = _SOLVED
            final.point.write(rows[index], point)
        if known.any():
            shown = on_device(np.flatnonzero(known), first)
            final.point.write(rows[shown], iterate.active().select(shown))
        leaving = lost | (status != _OPEN)
        if leaving.any():
            final.status[rows] = on_device(status, first)
            final.proof[rows] = on_device(proof, first).to(first.dtype)
            stay = np.flatnonzero(~leaving)
            if not len(stay):
                break
            index = on_device(stay, first)
            rows, iterate, course = rows[index], iterate.select(index), course.select(stay)
            hessian, bend = hessian[index], None if bend is None else bend[index]
        before = iterate.z
        iterate = newton_step(iterate, hessian, bend)
        ray = iterate.z - before
        final.iterations[rows] += 1
    return final


def _excluded(
    iterate: Iterate, hessian: Tensor, bend: Tensor | None, step: int, course: Course
) -> tuple[np.ndarray, np.ndarray]:
    """Status of the instances that turned out to have no optimum, NOT_CONVERGED of the others, and
    the residual of the proof: ``(B,)`` each. Where all get closer none is taken for infeasible."""
    problem, count = iterate.problem, len(course.error)
    outcome, proof = np.full(count, _OPEN), np.full(count, np.nan)
    if (course.stalled > 0).any():
        shown = no_decision_satisfies(problem, iterate.at, iterate.z, iterate.dual, iterate.nu)
        proof = on_host(_finite_or_nan(shown))
        outcome[~np.isnan(proof)] = int(Status.INFEASIBLE)
    # One that is the same everywhere has been looked at.
    typical = problem.slope / problem.length
    bends = [] if step and problem.bent_alike else [(hessian, typical)]
    if bend is not None and problem.rows.bending is not None:
        # Where a set is nearly flat the rounding of its bend is still that of where it is not.
        bends.append((bend, typical + largest(iterate.dual) * problem.rows.bending))
    for one, size in bends:
        concave = on_host(has_negative_curvature(one, 1e-13 * size))
        outcome[concave] = int(Status.NON_CONVEX)
    return outcome, proof


def _without_optimum(iterate: Iterate, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Status of instances that do not converge, after a look for the reason, and its proof."""
    problem, at, z = iterate.problem, iterate.at, iterate.z
    outcome = torch.full_like(problem.slope, int(Status.NOT_CONVERGED), dtype=torch.int64)
    proof = cost_falls_for_ever(problem, at, z, ray)
    outcome = torch.where(proof.isfinite(), int(Status.UNBOUNDED), outcome)
    if at.values.shape[1] + at.equality.shape[1]:
        empty = nothing_is_feasible(problem, z)
        outcome = torch.where(empty.isfinite(), int(Status.INFEASIBLE), outcome)
        proof = torch.where(empty.isfinite(), empty, proof)
    return outcome, _finite_or_nan(proof)


def _finite_or_nan(proof: Tensor) -> Tensor:
    return torch.where(proof.isfinite(), proof, torch.nan)
