"""Product allocation (section 6.1, appendix A.9): how much to make of each product.

    f(y, z) = exp(-y' z),        0 <= z <= C        (y: profit margins, z: quantities)

The sample objective ``sum_m omega_m exp(-y_m' z)`` overflows for margins that are merely large, so
its logarithm is minimised; the minimiser is the same:

    F(z) = log sum_m omega_m exp(-y_m' z),           p_m = omega_m exp(-y_m' z) / S,
    grad F = -E_p y,    hess F = E_p y y' - (E_p y)(E_p y)',        S = sum_m omega_m exp(-y_m' z).

Per scenario the derivatives are those of ``f(y_m, z) / S`` with S held constant:

    gradient   -exp(-y' z)/S y,        cross derivative f_zy / S = exp(-y' z)/S (y z' - I).

Their sums differ from the derivatives of F by multiples of grad F alone: ``hess F`` lacks
``grad F grad F'``, and letting S depend on y would add ``grad F v'`` to the cross derivative. The
adjoint u is tangent to the binding bounds, where stationarity makes ``grad F' u = 0``: both terms
vanish, and the scale 1/S is common to all terms of the adjoint system. So z* has one derivative,
whichever of the two forms is differentiated.

The paper's A.9 prints the gradient of f where G, the gradient of the constraints, belongs (for the
box, G is a stack of -I and I), and leaves the expectation out of the last form of H.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.programs.arguments import fit_batch, pair
from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.numbers import keep_numbers
from diffusion_dfl.programs.program import Program
from diffusion_dfl.sizes import check_sizes

if TYPE_CHECKING:
    import cvxpy

# exp of more would overflow once multiplied by a margin. Only a scenario of weight below 1e-299
# can get there: its share of S times its weight is at most 1.
_LARGEST_EXPONENT = 690.0


@dataclass(frozen=True)
class ProductAllocation(Program):
    """Exponential cost of the profit of a production plan in a box.

    Attributes:
        num_decisions: d, number of products (paper: 1 and 10).
        capacity: C, the most that can be made of each product (paper: 2).
    """

    num_decisions: int = 10
    capacity: float = 2.0

    def __post_init__(self) -> None:
        keep_numbers(self, "capacity")
        check_sizes(num_decisions=self.num_decisions)
        if not 0 < self.capacity < math.inf:
            raise ValueError(f"capacity={self.capacity} must be a positive number")

    @property
    def num_outcomes(self) -> int:  # type: ignore[override]
        return self.num_decisions

    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        """``exp(-y' z)``: ``(..., d), (..., d) -> (...)``; ``inf`` for a loss ``-y' z`` above 709.

        Raises:
            TypeError, ValueError: arguments that do not fit, by name.
        """
        outcome, decision = pair(self, outcome, decision)
        return torch.exp(-(outcome * decision).sum(-1))

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        """``F(z) = log sum_m omega_m exp(-y_m' z)``: ``(B,)``. It never overflows."""
        fit_batch(self, instances, z)
        return torch.logsumexp(_log_shares(instances, z), dim=1)

    def shares(self, instances: Instances, z: Tensor) -> Tensor:
        """``p_m``, each scenario's share of the expected cost, rows with sum 1: ``(B, M)``."""
        return torch.softmax(_log_shares(instances, z), dim=1)

    def gradient(self, instances: Instances, z: Tensor) -> Tensor:
        """``grad F = -sum_m p_m y_m``: ``(B, d)``."""
        return -_mean(self.shares(instances, z), instances.scenarios)

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradient in z of ``f(y_m, z) / S`` with S constant: ``-exp(-y' z)/S y``, ``(B, M, d)``.

        ``sum_m omega_m gradients = grad F``.
        """
        return -_relative_cost(instances, z).unsqueeze(-1) * instances.scenarios

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """``hess F = E_p (y - E_p y)(y - E_p y)'``: ``(B, d, d)``."""
        shares = self.shares(instances, z)
        return covariance(shares, instances.scenarios, _mean(shares, instances.scenarios))

    def cross_product(
        self, instances: Instances, z: Tensor, adjoint: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        """``f_zy' u / S = exp(-y' z)/S (z (y' u) - u)`` with S constant: ``(B, M, d)``."""
        along = torch.einsum("bmd,bd->bm", instances.scenarios, adjoint).unsqueeze(-1)
        product = along * z.unsqueeze(1) - adjoint.unsqueeze(1)
        return _relative_cost(instances, z).unsqueeze(-1) * product

    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        """``0 <= z <= C``."""
        lower = like.new_zeros(self.num_decisions)
        upper = like.new_full((self.num_decisions,), self.capacity)
        return Constraints.of(like, self.num_decisions, lower=lower, upper=upper)

    def cvxpy_problem(
        self, scenarios: "np.ndarray | cvxpy.Parameter", weights: np.ndarray
    ) -> tuple[Any, Any, list[Any]]:
        """``min log sum_m exp(-y_m' z + log omega_m)`` in plain cvxpy.

        Args:
            scenarios: array or ``cvxpy.Parameter`` ``(M, d)``.
            weights: array ``(M,)``; scenarios of weight 0 are left out.

        Returns:
            ``(problem, z, constraints)``; the duals of ``constraints`` are the lower and the upper
            bounds'.
        """
        import cvxpy as cp

        used = np.flatnonzero(weights > 0)
        z = cp.Variable(self.num_decisions)
        objective = cp.log_sum_exp(-scenarios[used] @ z + np.log(weights[used]))
        constraints = [z >= 0, z <= self.capacity]
        return cp.Problem(cp.Minimize(objective), constraints), z, constraints


def _relative_cost(instances: Instances, z: Tensor) -> Tensor:
    """``exp(-y_m' z) / S``: ``(B, M)``; finite for scenarios of weight 0 too."""
    loss = -_profit(instances.scenarios, z)
    log_total = torch.logsumexp(instances.weights.log() + loss, dim=1, keepdim=True)
    return torch.exp((loss - log_total).clamp_max(_LARGEST_EXPONENT))


def _log_shares(instances: Instances, z: Tensor) -> Tensor:
    """``log p_m`` up to a constant, ``log omega_m - y_m' z``: ``(B, M)``."""
    return instances.weights.log() - _profit(instances.scenarios, z)


def covariance(shares: Tensor, scenarios: Tensor, mean: Tensor) -> Tensor:
    """``E_p (y - mean)(y - mean)'``: ``(B, M), (B, M, d), (B, d) -> (B, d, d)``.

    Centred before it is squared, so that it is positive semidefinite to rounding however small the
    spread is beside the mean.
    """
    spread = scenarios - mean.unsqueeze(1)
    spread *= shares.sqrt().unsqueeze(-1)
    return spread.mT @ spread


def _profit(scenarios: Tensor, z: Tensor) -> Tensor:
    """``y_m' z``: ``(B, M, d), (B, d) -> (B, M)``."""
    return (scenarios @ z.unsqueeze(-1)).squeeze(-1)


def _mean(shares: Tensor, scenarios: Tensor) -> Tensor:
    """``sum_m p_m y_m``: ``(B, M), (B, M, d) -> (B, d)``."""
    return (shares.unsqueeze(1) @ scenarios).squeeze(1)
