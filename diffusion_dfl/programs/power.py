"""Power scheduling (section 6.2, appendix A.10): 24 hours of generation for an uncertain load.

    f(y, z) = sum_h gamma_s (y_h - z_h)_+ + gamma_e (z_h - y_h)_+ + (z_h - y_h)^2 / 2
    s.t.      |z_{h+1} - z_h| <= ramp        for the 23 within-day pairs

With ``gamma_e (z - y)_+ = gamma_e (z - y) + gamma_e (y - z)_+`` the cost of an hour is

    (z - y)^2 / 2 + gamma_e (z - y) + (gamma_s + gamma_e) (y - z)_+,

a strongly convex quadratic and a single hinge. Convolving the hinge with N(0, s^2) gives

    f_z  = (z - y) + gamma_e - (gamma_s + gamma_e) Phi((y - z)/s)
    f_zz = 1 + (gamma_s + gamma_e) phi((y - z)/s)/s,        f_zy = -f_zz.

(The convolution of the quadratic adds the constant s^2/2, which is left out.) The paper prints a
one-sided ramp matrix and ``H = I``; both signs are needed for ``|.|``, and ``H = I`` leaves out
the curvature of the hinges: see docs/method.md.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_dfl.programs.arguments import fit_batch, pair
from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.numbers import keep_numbers
from diffusion_dfl.programs.program import Hinges, Program, shortfall_hinges
from diffusion_dfl.programs.smoothing import hinge, hinge_density, hinge_slope, normal_pdf
from diffusion_dfl.sizes import check_sizes

if TYPE_CHECKING:
    import cvxpy


@dataclass(frozen=True)
class PowerProgram(Program):
    """Asymmetric scheduling cost per hour with ramp limits between consecutive hours.

    Attributes:
        shortage: gamma_s, cost of a unit of unmet load (paper: 50).
        excess: gamma_e, cost of a unit of surplus generation (paper: 0.5).
        ramp: largest change between consecutive hours, in load units (paper: 0.4).
            Infinite for no limit.
        num_decisions: hours in a schedule.
    """

    shortage: float = 50.0
    excess: float = 0.5
    ramp: float = 0.4
    num_decisions: int = 24

    #: The cost has kinks, so estimators that need a density must smooth it.
    kinked = True
    separable = True

    def __post_init__(self) -> None:
        keep_numbers(self, "shortage", "excess", "ramp")
        for name in ("shortage", "excess"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} must be a finite number >= 0")
        if not self.ramp >= 0:
            raise ValueError(f"ramp={self.ramp} must be a number >= 0")
        check_sizes(num_decisions=self.num_decisions)

    @property
    def num_outcomes(self) -> int:  # type: ignore[override]
        return self.num_decisions

    @property
    def hinge_slope(self) -> float:
        """gamma_s + gamma_e, the jump of the slope at a scenario of weight 1."""
        return self.shortage + self.excess

    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        """f(y, z), exact, summed over hours: ``(..., n), (..., n) -> (...)``.

        Raises:
            TypeError, ValueError: arguments that do not fit, by name.
        """
        return self.hourly_cost(outcome, decision).sum(-1)

    def hourly_cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        """The summands of :meth:`cost`, one an hour: ``(..., n), (..., n) -> (..., n)``."""
        outcome, decision = pair(self, outcome, decision)
        surplus = decision - outcome
        linear = torch.where(surplus >= 0, self.excess * surplus, -self.shortage * surplus)
        return linear + 0.5 * surplus**2

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        """Convolved sample objective ``sum_m omega_m f_s(y_m, z)``, ``(B,)``, without its constant s^2/2."""
        fit_batch(self, instances, z)
        shortfall = instances.scenarios - z.unsqueeze(1)
        smooth = hinge(shortfall, instances.bandwidth.unsqueeze(1))
        cost = 0.5 * shortfall**2 - self.excess * shortfall + self.hinge_slope * smooth
        return (instances.weights.unsqueeze(-1) * cost).sum((1, 2))

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradient in z of each scenario's convolved cost: ``(B, M, n)``.

        Where ``bandwidth`` is 0 and ``y = z`` this is the midpoint of the subdifferential; the
        subgradients that satisfy stationarity come from the solver (``Solution.subgradients``).
        """
        shortfall = instances.scenarios - z.unsqueeze(1)
        slope = hinge_slope(shortfall, instances.bandwidth.unsqueeze(1))
        return self.excess - shortfall - self.hinge_slope * slope

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """Diagonal of the Hessian of :meth:`objective` in z: ``(B, n)``. Hours do not interact."""
        weights = instances.weights
        total = weights.sum(1, keepdim=True)
        if _is_exact(instances):
            return total.expand_as(z).clone()
        return total + self.hinge_slope * torch.einsum(
            "bm,bmn->bn", weights, _density(instances, z)
        )

    def cross(self, instances: Instances, z: Tensor) -> Tensor:
        """Diagonal of f_zy of each scenario, ``-(1 + (gamma_s + gamma_e) phi/s)``: ``(B, M, n)``."""
        return -1.0 - self.hinge_slope * _density(instances, z)

    def cross_product(
        self, instances: Instances, z: Tensor, adjoint: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        """:meth:`cross` times u: ``(B, M, n)``. Slopes in z do not depend on y, so no ``shares``."""
        if _is_exact(instances):
            return -adjoint.unsqueeze(1).expand_as(instances.scenarios)
        return self.cross(instances, z) * adjoint.unsqueeze(1)

    def bandwidth_product(self, instances: Instances, z: Tensor, adjoint: Tensor) -> Tensor:
        """``(d/ds gradient)' u``: ``(B, n)``, 0 where s = 0.

        d/ds [-(gamma_s + gamma_e) Phi(t)] = (gamma_s + gamma_e) phi(t) t / s with t = (y - z)/s.
        """
        if _is_exact(instances):
            return torch.zeros_like(instances.bandwidth)
        width = instances.bandwidth.unsqueeze(1)
        positive = width > 0
        safe = torch.where(positive, width, torch.ones_like(width))
        ratio = (instances.scenarios - z.unsqueeze(1)) / safe
        slope = torch.where(positive, normal_pdf(ratio) * ratio / safe, torch.zeros_like(ratio))
        return self.hinge_slope * torch.einsum("bm,bmn->bn", instances.weights, slope) * adjoint

    def hinges(self, instances: Instances) -> Hinges:
        """``(gamma_s + gamma_e) (y_h - z_h)_+`` of the hours without a bandwidth; K = n."""
        return shortfall_hinges(instances, self.hinge_slope)

    def hinge_product(self, instances: Instances, z: Tensor, multipliers: Tensor) -> Tensor:
        """The argument ``y_h - z_h`` has derivative 1 in ``y_h``: the multipliers themselves."""
        return multipliers

    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        """The ramp limits of :meth:`inequalities`."""
        matrix, limit = self.inequalities(like)
        return Constraints.of(like, self.num_decisions, matrix=matrix, limit=limit)

    def inequalities(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Ramp limits as ``G z <= h``: the n-1 rises, then the n-1 falls; ``(2(n-1), n), (2(n-1),)``."""
        eye = torch.eye(self.num_decisions, dtype=like.dtype, device=like.device)
        rise = eye[1:] - eye[:-1]
        matrix = torch.cat([rise, -rise])
        return matrix, torch.full_like(matrix[:, 0], self.ramp)

    def cvxpy_problem(self, scenarios: "cvxpy.typing.ArrayLike", weights: "cvxpy.typing.ArrayLike"):  # type: ignore[no-untyped-def, name-defined]
        """The exact sample program in plain cvxpy, the reference of the fast solvers.

        Args:
            scenarios: array or ``cvxpy.Parameter``, ``(M, n)``.
            weights: array ``(M,)``.

        Returns:
            ``(problem, z, constraints)``; the duals of ``constraints`` are the rises and the falls.
        """
        import cvxpy as cp
        import numpy as np

        weights = np.asarray(weights, dtype=float)
        z = cp.Variable(self.num_decisions)
        schedule = cp.reshape(z, (1, self.num_decisions), order="C")
        shortfall = scenarios - np.ones((len(weights), 1)) @ schedule
        linear = self.shortage * cp.pos(shortfall) + self.excess * cp.neg(shortfall)
        spread = cp.multiply(np.sqrt(weights / 2)[:, None] * np.ones(shortfall.shape), shortfall)
        objective = cp.sum(weights @ linear) + cp.sum_squares(spread)
        constraints = [z[1:] - z[:-1] <= self.ramp, z[:-1] - z[1:] <= self.ramp]
        return cp.Problem(cp.Minimize(objective), constraints), z, constraints


def _density(instances: Instances, z: Tensor) -> Tensor:
    """``phi((y_m - z)/s)/s``: ``(B, M, n)``."""
    return hinge_density(instances.scenarios - z.unsqueeze(1), instances.bandwidth.unsqueeze(1))


def _is_exact(instances: Instances) -> bool:
    """Whether all kinks are exact, which needs no kernel."""
    return not bool((instances.bandwidth > 0).any())
