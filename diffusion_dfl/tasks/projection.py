"""The nearest feasible decision: what a policy that ignores the constraints is judged by."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.programs import Instances, Program
from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.solvers import solve

# Of a row's terms: closer than this it is met, and what is not goes to the solver for a verdict.
_ROUNDING = 1e-12
_TINY = torch.finfo(torch.float64).tiny


class Projection(Program):
    """``|z - y|^2 / 2`` over the feasible set of another program."""

    separable = True

    def __init__(self, program: Program) -> None:
        self.program = program
        self.num_decisions = self.num_outcomes = program.num_decisions

    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        return 0.5 * (decision - outcome).square().sum(-1)

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        return (instances.weights * self.cost(instances.scenarios, z.unsqueeze(1))).sum(1)

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        return z.unsqueeze(1) - instances.scenarios

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        return torch.ones_like(z)

    def cross_product(
        self, instances: Instances, z: Tensor, adjoint: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        return -adjoint.unsqueeze(1).expand_as(instances.scenarios)

    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        return self.program.constraints(like, context)

    def cvxpy_problem(self, scenarios: Any, weights: np.ndarray) -> tuple[Any, Any, list[Any]]:
        import cvxpy as cp

        # The constraints are the program's own; its costs are left behind.
        stand_in = np.zeros((1, self.program.num_outcomes))
        _, z, constraints = self.program.cvxpy_problem(stand_in, np.ones(1))
        squares = [weights[m] * cp.sum_squares(z - scenarios[m]) for m in range(len(weights))]
        return cp.Problem(cp.Minimize(0.5 * sum(squares)), constraints), z, constraints


def project(program: Program, decision: Tensor, context: Tensor | None = None) -> Tensor:
    """Nearest feasible decision in the Euclidean norm, ``(B, n) -> (B, n)`` float64.

    Args:
        program: whose constraints.
        decision: ``(B, n)``.
        context: ``(B, d_x)``, for constraints that depend on it.

    A row that is not finite, or whose projection was not found (an empty feasible set), is NaN.
    """
    points = decision.double()
    constraints = program.constraints(points, context)
    counts, equalities = constraints.counts, constraints.equality_value.shape[1]
    found = torch.full_like(points, torch.nan)
    left = torch.arange(len(points), device=points.device)
    if counts.smooth == 0 and counts.affine + equalities <= 1:
        found, sure = _onto_box_and_row(points, constraints)
        left = torch.nonzero(~sure).squeeze(1)
    if len(left):
        solution = solve(
            Projection(program),
            points[left].unsqueeze(1),
            context=None if context is None else context[left],
            solver="interior_point",
        )
        found[left] = solution.decision
    return found


def _onto_box_and_row(points: Tensor, constraints: Constraints) -> tuple[Tensor, Tensor]:
    """The nearest points of bounds and at most one row, ``a'z <= b`` or ``a'z = b``, and which are sure.

    Of a multiplier t of the row they are ``z(t) = min(max(y - t a, lower), upper)``, and ``a'z(t)`` falls
    in t, linear between the values where a coordinate meets a bound (Held, Wolfe and Crowder, 1974). Not
    sure is what rounding leaves open, an empty set among it.
    """
    infinite = torch.full_like(points, torch.inf)
    lower = -infinite if constraints.lower is None else constraints.lower.expand_as(points)
    upper = infinite if constraints.upper is None else constraints.upper.expand_as(points)
    sure = constraints.stated & ~constraints.impossible
    sure = sure & points.isfinite().all(1) & (lower <= upper).all(1)
    found = points.clamp(lower, upper)
    equal = constraints.equality_value.shape[1] == 1
    rows, sides = constraints.matrix, constraints.limit
    if equal:
        rows, sides = constraints.equality_matrix, constraints.equality_value
    if rows.shape[1]:
        row, side = rows[:, 0].expand_as(points), sides[:, 0].expand(len(points))
        on = ((row * found).sum(1) > side) | equal
        found = torch.where(on.unsqueeze(1), _onto_row(points, row, side, lower, upper), found)
        miss = ((row * found).sum(1) - side).abs()
        size = side.abs() + (row * found).abs().sum(1)
        sure = sure & (~on | (miss <= _ROUNDING * size))
    return found, sure


def _onto_row(points: Tensor, row: Tensor, side: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """``z(t)`` with ``a'z(t) = b``, or as near as the bounds let it; all ``(B, n)`` but ``side (B,)``."""

    def at(multiplier: Tensor) -> Tensor:
        return (points - multiplier * row).clamp(lower, upper)

    ends = torch.stack([(points - lower) / row, (points - upper) / row])
    ends = torch.where(row == 0, torch.inf, ends)
    first, last = ends.amin(0), ends.amax(0)  # Between them a coordinate is free.
    edges = torch.cat([first, last], dim=1).sort(dim=1).values
    # How many edges are met before the row is, by halving.
    low = edges.new_zeros(len(edges), 1, dtype=torch.int64)
    high = torch.full_like(low, edges.shape[1])
    for _ in range(edges.shape[1].bit_length()):
        middle = (low + high) // 2
        edge = edges.gather(1, middle.clamp_max(edges.shape[1] - 1))
        value = (row * at(torch.where(edge.isinf(), 0.0, edge))).sum(1, keepdim=True)
        before = (edge == -torch.inf) | (edge.isfinite() & (value >= side.unsqueeze(1)))
        low = torch.where((low < high) & before, middle + 1, low)
        high = torch.where(~before & (middle < high), middle, high)
    beyond = edges.new_full((len(edges), 1), torch.inf)
    padded = torch.cat([-beyond, edges, beyond], dim=1)
    left, right = padded.gather(1, low), padded.gather(1, low + 1)
    inside = torch.where(left.isinf(), right - right.abs() - 1.0, left + left.abs() + 1.0)
    inside = torch.where(left.isinf() & right.isinf(), 0.0, inside)
    inside = torch.where(left.isfinite() & right.isfinite(), 0.5 * (left + right), inside)
    free = (first < inside) & (inside < last)
    slope = torch.where(free, row.square(), 0.0).sum(1, keepdim=True)
    rest = (row * torch.where(free, points, at(inside))).sum(1, keepdim=True) - side.unsqueeze(1)
    return at(torch.where(slope > 0, rest / slope.clamp_min(_TINY), inside))
