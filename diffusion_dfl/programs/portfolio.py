"""Mean-variance portfolio (section 6.3, appendix A.11): n assets with uncertain returns.

    f(y, z) = alpha/2 (y'z)^2 - y'z + ridge/2 |z|^2      s.t.  1'z = 1,  z >= 0

Risk is the second moment ``E[y y']``, not the covariance. The bounds ``z <= 1`` of the paper follow
from the others and are left out. A smooth program: a bandwidth is ignored. With r = y'z,

    f_z  = alpha y r - y + ridge z
    f_zz = alpha y y' + ridge I
    f_zy = alpha (y z' + r I) - I,         f_zy' u = alpha (z (y'u) + r u) - u.

Appendix A.11 prints three things that differ: the cross derivative as ``2 alpha y'z - 1`` (a scalar,
with a factor 2 too much); G as ``[I; -I]``, which for the bounds in the order ``0 <= z``, ``z <= 1``
and the form ``h(z) <= 0`` has the opposite sign; the exact score formula without its leading minus
sign. See docs/method.md.

Returns of about 0.02 a day need alpha of the order 1 to 100: at alpha = 1e-6, the value of the
released code, the program is linear to rounding, puts everything on one asset and has a zero
derivative almost everywhere.
"""

from dataclasses import dataclass, replace
from math import isfinite
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


@dataclass(frozen=True)
class MeanVariancePortfolio(Program):
    """Return against risk on the simplex.

    Attributes:
        num_decisions: n, number of assets.
        risk_aversion: alpha >= 0, in units of 1/return; 0 is the linear program of the best mean.
        ridge: curvature added to every scenario's cost, >= 0, in units of return; 0 is the paper's
            program. Positive values make the optimum unique where fewer scenarios than assets
            leave it open.
    """

    num_decisions: int
    risk_aversion: float = 10.0
    ridge: float = 0.0

    def __post_init__(self) -> None:
        keep_numbers(self, "risk_aversion", "ridge")
        for name in ("risk_aversion", "ridge"):
            value = getattr(self, name)
            if not (value >= 0 and isfinite(value)):
                raise ValueError(f"{name}={value} must be a finite number >= 0")
        check_sizes(num_decisions=self.num_decisions)

    @property
    def num_outcomes(self) -> int:  # type: ignore[override]
        return self.num_decisions

    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        """f(y, z): ``(..., n), (..., n) -> (...)``.

        Raises:
            TypeError, ValueError: arguments that do not fit, by name.
        """
        outcome, decision = pair(self, outcome, decision)
        gain = (outcome * decision).sum(-1)
        return (
            0.5 * self.risk_aversion * gain**2 - gain + 0.5 * self.ridge * decision.square().sum(-1)
        )

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        """``sum_m omega_m f(y_m, z)``: ``(B,)``."""
        fit_batch(self, instances, z)
        gain, weights = portfolio_returns(instances.scenarios, z), instances.weights
        cost = 0.5 * self.risk_aversion * gain**2 - gain
        return (weights * cost).sum(1) + 0.5 * self.ridge * weights.sum(1) * z.square().sum(1)

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """``alpha y_m (y_m'z) - y_m + ridge z``: ``(B, M, n)``."""
        slope = self.risk_aversion * portfolio_returns(instances.scenarios, z) - 1.0
        gradients = instances.scenarios * slope.unsqueeze(2)
        return gradients + self.ridge * z.unsqueeze(1) if self.ridge else gradients

    def gradient(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradient of :meth:`objective`, ``(B, n)``, by two products with the scenarios."""
        y, weights = instances.scenarios, instances.weights
        slope = weights * (self.risk_aversion * portfolio_returns(y, z) - 1.0)
        gradient = torch.bmm(slope.unsqueeze(1), y).squeeze(1)
        return gradient + self.ridge * weights.sum(1, keepdim=True) * z

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """``alpha sum_m omega_m y_m y_m' + ridge I``, the same at every z: ``(B, n, n)``."""
        y, weights = instances.scenarios, instances.weights
        weighted = y * (self.risk_aversion * weights).unsqueeze(2)
        hessian = torch.bmm(weighted.mT, y)
        if self.ridge:
            hessian.diagonal(dim1=1, dim2=2).add_(self.ridge * weights.sum(1, keepdim=True))
        return hessian

    def hessian_block(self, instances: Instances, z: Tensor, coordinates: Tensor) -> Tensor:
        """The block of the assets ``coordinates (B, k)`` alone, from their returns: ``(B, k, k)``."""
        y = instances.scenarios
        chosen = y.gather(2, coordinates.unsqueeze(1).expand(-1, y.shape[1], -1))
        return self.hessian(replace(instances, scenarios=chosen), z)

    def cross_product(
        self, instances: Instances, z: Tensor, adjoint: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        """``alpha (z (y_m'u) + (y_m'z) u) - u``: ``(B, M, n)``; no kinks, so no ``shares``."""
        along_decision = self.risk_aversion * portfolio_returns(instances.scenarios, adjoint)
        along_adjoint = self.risk_aversion * portfolio_returns(instances.scenarios, z) - 1.0
        factors = torch.stack([along_decision, along_adjoint], dim=2)
        return torch.bmm(factors, torch.stack([z, adjoint], dim=1))

    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        """The simplex: lower bounds 0 and one equality."""
        size = self.num_decisions
        return Constraints.of(
            like,
            size,
            lower=like.new_zeros(size),
            equality_matrix=like.new_ones(1, size),
            equality_value=like.new_ones(1),
        )

    def cvxpy_problem(
        self, scenarios: "np.ndarray | cvxpy.Parameter", weights: np.ndarray
    ) -> tuple[Any, Any, list[Any]]:
        """The sample program in plain cvxpy: ``(problem, z, [z >= 0, 1'z = 1])``."""
        import cvxpy as cp

        z = cp.Variable(self.num_decisions)
        gain = scenarios @ z
        objective = (
            0.5 * self.risk_aversion * cp.sum_squares(cp.multiply(np.sqrt(weights), gain))
            - weights @ gain
            + 0.5 * self.ridge * float(weights.sum()) * cp.sum_squares(z)
        )
        constraints = [z >= 0, cp.sum(z) == 1]
        return cp.Problem(cp.Minimize(objective), constraints), z, constraints


def portfolio_returns(scenarios: Tensor, z: Tensor) -> Tensor:
    """``y_m'z``: ``(B, M, n), (B, n) -> (B, M)``."""
    return torch.bmm(scenarios, z.unsqueeze(2)).squeeze(2)
