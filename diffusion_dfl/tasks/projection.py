"""The nearest feasible decision: what a policy that ignores the constraints is judged by."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.programs import Instances, Program
from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.solvers import solve

# Of a row's terms, in which an empty feasible set is told from one that is met.
_ROUNDING = 1e-9
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
    counts = constraints.counts
    if counts.smooth == 0 and counts.affine + constraints.equality_value.shape[1] <= 1:
        return _onto_box_and_row(points, constraints)
    solution = solve(
        Projection(program), points.unsqueeze(1), context=context, solver="interior_point"
    )
    return solution.decision


def _onto_box_and_row(points: Tensor, constraints: Constraints) -> Tensor:
    """The nearest points of bounds and at most one row, ``a'z <= b`` or ``a'z = b``, exactly.

    Of a multiplier t of the row they are ``z(t) = min(max(y - t a, lower), upper)``, and ``a'z(t)`` falls
    in t, linear between the values where a coordinate meets a bound (Held, Wolfe and Crowder, 1974).
    """
    infinite = torch.full_like(points, torch.inf)
    lower = -infinite if constraints.lower is None else constraints.lower.expand_as(points)
    upper = infinite if constraints.upper is None else constraints.upper.expand_as(points)
    known = constraints.stated & ~constraints.impossible
    known = known & points.isfinite().all(1) & (lower <= upper).all(1)
    found = points.clamp(lower, upper)
    equal = constraints.equality_value.shape[1] == 1
    rows, sides = constraints.matrix, constraints.limit
    if equal:
        rows, sides = constraints.equality_matrix, constraints.equality_value
    if rows.shape[1]:
        row, side = rows[:, 0].expand_as(points), sides[:, 0].expand(len(points))
        moved = _onto_row(points, row, side, lower, upper)
        over = (row * found).sum(1) > side
        found = torch.where((over | equal).unsqueeze(1), moved, found)
        miss = (row * found).sum(1) - side
        size = side.abs() + (row * found).abs().sum(1)
        known = known & ((miss.abs() if equal else miss) <= _ROUNDING * (1.0 + size))
    return torch.where(known.unsqueeze(1), found, torch.nan)


def _onto_row(points: Tensor, row: Tensor, side: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """``z(t)`` with ``a'z(t) = b``, or as near as the bounds let it; all ``(B, n)`` but ``side (B,)``."""
    ends = torch.stack([(points - lower) / row, (points - upper) / row])
    ends = torch.where(row == 0, torch.inf, ends)
    first, last = ends.amin(0), ends.amax(0)  # Between them a coordinate is free.
    square = row.square()
    edges, order = torch.cat([first, last], dim=1).sort(dim=1)
    turns = torch.cat([-square, square], dim=1).gather(1, order)
    slopes = torch.where(edges.isinf() & (edges > 0), 0.0, turns).cumsum(1)
    # Edges at -inf have turned already; those at inf never do.
    finite = edges.isfinite()
    start = torch.where(finite, edges, torch.inf).amin(1, keepdim=True)
    stop = torch.where(finite, edges, -torch.inf).amax(1, keepdim=True)
    start, stop = (torch.where(one.isfinite(), one, 0.0) for one in (start, stop))
    at = edges.clamp(start, stop)
    steps = slopes[:, :-1] * (at[:, 1:] - at[:, :-1])
    begin = (row * (points - start * row).clamp(lower, upper)).sum(1, keepdim=True)
    values = torch.cat([begin, begin + steps.cumsum(1)], dim=1)
    # How many of the edges, which are at values that fall, are not below the row's.
    passed = (values >= side.unsqueeze(1)).sum(1, keepdim=True)
    count = edges.shape[1]
    left = torch.where(passed > 0, at.gather(1, (passed - 1).clamp_min(0)), start - 1.0)
    right = torch.where(passed < count, at.gather(1, passed.clamp_max(count - 1)), stop + 1.0)
    middle = 0.5 * (left + right)
    free = (first < middle) & (middle < last)
    held = (points - middle * row).clamp(lower, upper)
    slope = torch.where(free, square, 0.0).sum(1, keepdim=True)
    rest = (row * torch.where(free, points, held)).sum(1, keepdim=True) - side.unsqueeze(1)
    multiplier = torch.where(slope > 0, rest / slope.clamp_min(_TINY), middle)
    return (points - multiplier * row).clamp(lower, upper)
