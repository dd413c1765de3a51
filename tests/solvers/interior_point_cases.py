"""Programs and checks that the tests of the interior point share."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.programs import Instances, Program
from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.solvers import Solution, solve

D: Any = {"dtype": torch.float64}


@dataclass(frozen=True, eq=False)
class Quadratic(Program):
    """``f(y, z) = z' Q z / 2 - y' z`` under any constraints."""

    matrix: Tensor
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def num_decisions(self) -> int:  # type: ignore[override]
        return len(self.matrix)

    @property
    def num_outcomes(self) -> int:  # type: ignore[override]
        return len(self.matrix)

    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        return 0.5 * ((decision @ self.matrix) * decision).sum(-1) - (outcome * decision).sum(-1)

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        return (instances.weights * self.cost(instances.scenarios, z.unsqueeze(1))).sum(1)

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        return (z @ self.matrix).unsqueeze(1) - instances.scenarios

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        return self.matrix * instances.weights.sum(1).view(-1, 1, 1)

    def cross_product(self, *args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("no derivative is asked for here")

    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        parts = dict(self.parts)
        if callable(parts.get("smooth")):
            parts["smooth"] = parts["smooth"](context)
        return Constraints.of(like, self.num_decisions, **parts)

    def cvxpy_problem(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the reference is stated in the test")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def definite(size: int, seed: int = 0) -> Tensor:
    root = torch.randn(size, size, generator=seeded(seed), **D)
    return root @ root.T / size + 0.1 * torch.eye(size, **D)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), **D)


def daily(batch: int, num_scenarios: int, hours: int, seed: int = 0) -> Tensor:
    """A daily curve that breaks tight ramp limits in places, plus correlated noise."""
    time = torch.arange(hours, **D)
    swing = torch.rand(batch, 1, 1, generator=seeded(seed), **D)
    noise = normal(batch, num_scenarios, hours, seed=seed + 1)
    return 2 * swing * torch.sin(2 * math.pi * time / 24) + 0.5 * noise + 0.2 * noise[:, :, :1]


def interior(program: Program, scenarios: Tensor, *args: Any, **kwargs: Any) -> Solution:
    return solve(program, scenarios, *args, solver="interior_point", **kwargs)


def assert_kkt(
    program: Program,
    scenarios: Tensor,
    solution: Solution,
    weights: Tensor | None = None,
    context: Tensor | None = None,
    tolerance: float = 1e-8,
) -> None:
    """Stationarity, feasibility, signs and complementarity, by formulas of this test alone."""
    batch, num_scenarios, _ = scenarios.shape
    if weights is None:
        weights = torch.full((batch, num_scenarios), 1 / num_scenarios, **D)
    z, subgradients = solution.decision, solution.subgradients
    limits = program.constraints(scenarios, context)
    slopes = torch.einsum("bm,bmn->bn", weights, subgradients)
    force = torch.einsum("bqn,bq->bn", limits.inequality_jacobian(z), solution.duals)
    matrix = limits.equality_matrix.expand(batch, -1, -1)
    force = force + torch.einsum("bpn,bp->bn", matrix, solution.equality_duals)
    # M = 1 may leave no slope at all: then it is rounding of the data's size.
    steep = scenarios.abs().amax((1, 2)) + subgradients.abs().amax((1, 2)) + force.abs().amax(1)
    assert ((slopes + force).abs().amax(1) <= tolerance * steep).all()
    assert (solution.duals >= 0).all()
    values = limits.inequality_values(z).nan_to_num(-1.0, neginf=-1.0)
    # Outcomes and decisions are of one size here, and a decision may be 0.
    size = z.abs().amax(1, keepdim=True) + 1e-3 * scenarios.abs().amax()
    if values.shape[1]:
        assert (values <= tolerance * size).all(), values.max()
        used = (solution.duals * values).abs()
        assert (used <= tolerance * steep.unsqueeze(1) * size).all(), used.max()
    assert (limits.equality_residual(z).abs() <= tolerance * size).all()
