"""The nearest feasible decision: what a policy that ignores the constraints is judged by."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.programs import Instances, Program
from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.solvers import solve


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
    points = decision.double().unsqueeze(1)
    solution = solve(Projection(program), points, context=context, solver="interior_point")
    return solution.decision
