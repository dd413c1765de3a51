"""Implicit differentiation of two-stage programs, with the second stage in the system.

At a solution the optimality conditions F of both stages vanish, inequalities with their slacks. With K
the matrix of their Newton equations at the last iterate and ``K a = (dL/dz, 0, ...)``,

    dL/dtheta = -a' dF/dtheta

for whatever F depends on: scenarios, weights, context, tensors that the program holds. F is computed
with a graph, and autograd takes it from there. K is that of :mod:`diffusion_dfl.solvers.arrow_newton`: a
multiplier over its slack is large where a constraint binds and 0 where it does not.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.layers.adjoint import Degeneracy
from diffusion_dfl.programs.constraints import transpose_apply
from diffusion_dfl.programs.hooks import without_saved_tensor_hooks
from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.once import FirstOrderOnly
from diffusion_dfl.programs.two_stage import TwoStageProgram
from diffusion_dfl.solvers.arrow import Arrow, Point
from diffusion_dfl.solvers.arrow_newton import NewtonEquations
from diffusion_dfl.solvers.arrow_units import alike, of_first, of_second
from diffusion_dfl.solvers.rows import Rows, largest
from diffusion_dfl.solvers.solution import Solution
from diffusion_dfl.solvers.two_stage import scaled_arrow, with_weight

# An adjoint below this share of dL/dz, in units of the problem, is none.
_STILL = 1e-9
# Multiplier over slack, in units of curvature, of a constraint that holds as good as an equality.
_STIFF = 1e9


class TwoStageDecision(torch.autograd.Function):
    """z* of solved programs with its vector-Jacobian product; unsolved instances are NaN with gradient 0.

    Call :meth:`decide`.
    """

    @classmethod
    def decide(
        cls,
        program: TwoStageProgram,
        solution: Solution,
        instances: Instances,
        count: Any,
    ) -> Tensor:
        """z*, ``(B, n)``, attached to the graph of whatever the optimality conditions depend on.

        Args:
            program, solution, instances: what was solved.
            count: called, when instances are differentiated, with their degeneracy and with which of
                them do not move; None for nothing.
        """
        rows = torch.nonzero(solution.solved).flatten()
        decision = solution.decision.clone()
        if not torch.is_grad_enabled():
            return decision
        # Attached, with gradient 0, whatever else there is.
        nothing = (0.0 * instances.scenarios).sum((1, 2)) + (0.0 * instances.weights).sum(1)
        decision = torch.where(torch.ones_like(decision) > 0, decision, nothing.unsqueeze(1))
        if not rows.numel():
            return decision
        part, known = solution.select(rows), instances.select(rows)
        # A scenario without weight has no say.
        weights = torch.where(known.weights > 0, known.weights, 0.0)
        known = with_weight(replace(known, weights=weights))
        assert part.units is not None
        for same, units in alike(part.units):
            some, own = part.select(same), known.select(same)
            with without_saved_tensor_hooks():
                with torch.no_grad():
                    arrow = scaled_arrow(program, own.detached(), units)
                conditions = _conditions(program, some, arrow, units, own)
            found = cls.apply(some, arrow, units, count, *conditions)
            decision = decision.index_copy(0, rows[same], found)
        return decision

    @staticmethod
    def forward(
        ctx: Any, solution: Solution, arrow: Arrow, units: Tensor, count: Any, *conditions: Tensor
    ) -> Tensor:
        ctx.solution, ctx.arrow, ctx.units, ctx.count = solution, arrow, units, count
        ctx.save_for_backward(*conditions)
        return solution.decision.clone()

    @staticmethod
    def backward(ctx: Any, grad_decision: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad(), without_saved_tensor_hooks():
            of_z = ctx.units[: grad_decision.shape[1]]
            found, still = _adjoint(ctx.arrow, ctx.solution.second_stage, of_z * grad_decision)
        if ctx.count is not None:
            ctx.count(Degeneracy(still, torch.zeros_like(still), torch.zeros_like(still)), still)
        gradients = list(found)
        if torch.is_grad_enabled():
            anchors = ctx.saved_tensors
            gradients = [FirstOrderOnly.apply(g, grad_decision, *anchors) for g in gradients]
        return (None, None, None, None, *gradients)


def _conditions(
    program: TwoStageProgram,
    solution: Solution,
    arrow: Arrow,
    units: Tensor,
    instances: Instances,
) -> tuple[Tensor, ...]:
    """F with its graph: stationarity in z, first-stage inequalities and equalities, stationarity in w,
    the scenarios' inequalities and equalities; all in the units of the arrow."""
    point, n = solution.second_stage, program.num_decisions
    assert point is not None
    of_z, of_w = units[:n], units[n:]
    rows, equalities = of_second(arrow.scenarios, units)
    unit = arrow.scenarios.units(point.dual) * rows
    given = program.constraints(solution.decision, instances.context)
    found = program.conditions(
        instances,
        solution.decision,
        of_w * point.w,
        point.dual / unit,
        point.nu / equalities,
    )
    in_z = found.in_z + given.inequality_force(solution.decision, solution.duals)
    in_z = in_z + transpose_apply(given.equality_matrix, solution.equality_duals)
    first, first_equal = _in_units(
        arrow.first,
        given.inequality_values(solution.decision) / of_first(arrow.constraints, of_z),
        given.equality_residual(solution.decision),
    )
    return (
        of_z * in_z,
        first,
        first_equal,
        of_w * found.in_w,
        found.inequalities / unit,
        found.equalities / equalities,
    )


def _in_units(rows: Rows, values: Tensor, equalities: Tensor) -> tuple[Tensor, Tensor]:
    """Values of inequalities and equalities as :class:`Rows` states them."""
    values = torch.where(rows.present | values.isfinite(), values, 0.0) / rows.unit
    pairs = values[:, rows.twins[0]]
    return torch.where(rows.present, values, 0.0), torch.cat(
        [equalities / rows.equality_unit, pairs], dim=1
    )


def _adjoint(
    arrow: Arrow, point: Point, grad_decision: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """``-a`` of every part of F, and which instances do not move ``(B,)``."""
    equations = NewtonEquations(arrow, _bearable(arrow, point))
    count = arrow.scenarios.num_rows
    none = torch.zeros_like
    z, first_nu, w, duals, nu = equations.solve(
        grad_decision,
        grad_decision.new_zeros(len(grad_decision), arrow.constraints.equality_matrix.shape[1]),
        none(point.w),
        none(point.dual[..., :count]),
        none(point.nu),
    )
    pushed, pushes = equations.pushes(z, w)
    bounds = equations.bound_weight * pushes[..., count:]
    weights = arrow.weights.unsqueeze(2)
    rows = torch.cat([duals, bounds], dim=2)
    still = largest(z) * arrow.slope <= _STILL * largest(grad_decision) * arrow.length
    parts = (
        z,
        equations.first_weight * pushed,
        first_nu,
        weights * w,
        weights * rows,
        weights * nu,
    )
    return tuple(-part for part in parts), still


def _bearable(arrow: Arrow, point: Point) -> Point:
    """The point with slacks so large that no multiplier is more than :data:`_STIFF` times its slack, in
    units of the cost's curvature: less is not quite an equality, more loses digits to rounding."""
    scenarios = arrow.scenarios
    v = arrow.joined(point.z, point.w)
    hessian = scenarios.hessian(v, point.dual[..., : scenarios.num_rows])
    curvature = largest(hessian.diagonal(dim1=2, dim2=3)).expand_as(arrow.slope)
    softness = 1.0 / (_STIFF * torch.maximum(arrow.slope / arrow.length, curvature))
    present = arrow.first.present
    first = torch.maximum(point.first_slack, softness.unsqueeze(1) * point.first_dual)
    slack = torch.maximum(point.slack, softness.view(-1, 1, 1) * point.dual)
    return replace(point, first_slack=torch.where(present, first, 1.0), slack=slack)
