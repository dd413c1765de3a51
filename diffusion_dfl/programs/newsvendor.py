"""Inventory (appendix A.12): how much to order of each item for an uncertain demand.

    f(y, z) = c0 z + q0/2 z^2 + cb (y - z)_+ + rb/3 (y - z)_+^3 + ch (z - y)_+ + rh/3 (z - y)_+^3
    s.t.      0 <= z <= z_max,   sum_i z_i <= limit

for each of n items, summed; A.12 has n = 1 and no limit. With
``ch (z - y)_+ = ch (z - y) + ch (y - z)_+`` there is one kink a scenario and item, the hinge
``(cb + ch) (y - z)_+``; the cubes are twice differentiable. The demand is convolved with
N(0, s^2) in every term. With ``H_p(a) = E (a + s xi)_+^p`` and ``a = y - z``

    f_z  = c0 + ch + q0 z - (cb + ch) Phi(a/s) - rb H_2(a) + rh H_2(-a)
    f_zz = q0 + (cb + ch) phi(a/s)/s + 2 rb H_1(a) + 2 rh H_1(-a),       f_zy = q0 - f_zz.

The paper prints no values of the parameters; the defaults are those of the quadratic newsvendor of
Donti et al. (2017), whose penalties have the power 2, for demands of about 0 to 5.
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
from diffusion_dfl.programs.smoothing import HingePair, hinge, hinge_cube
from diffusion_dfl.sizes import check_sizes

if TYPE_CHECKING:
    import cvxpy


@dataclass(frozen=True)
class Newsvendor(Program):
    """Order quantities with linear and cubic penalties for shortage and for excess.

    With ``c0 = q0 = rb = rh = 0`` this is the classical newsvendor, whose optimum is the
    ``cb / (cb + ch)`` quantile of the demand. Money is in one unit, demand and order in another.

    Attributes:
        c0: cost of a unit ordered; may be negative.
        q0: curvature of the ordering cost, >= 0.
        cb: cost of a unit of unmet demand, >= 0.
        rb: weight of the cubed unmet demand, >= 0.
        ch: cost of a unit left over, >= 0.
        rh: weight of the cubed left over, >= 0.
        z_max: largest order of an item, > 0.
        num_decisions: n, the number of items.
        limit: largest sum of all orders, > 0; None for none. The items then share something, and the
            program is not separable.
    """

    c0: float = 10.0
    q0: float = 2.0
    cb: float = 30.0
    rb: float = 14.0
    ch: float = 10.0
    rh: float = 2.0
    z_max: float = 5.0
    num_decisions: int = 1
    limit: float | None = None

    #: The cost has kinks, so estimators that need a density must smooth it.
    kinked = True

    def __post_init__(self) -> None:
        keep_numbers(self, "c0", "q0", "cb", "rb", "ch", "rh", "z_max", "limit")
        if not math.isfinite(self.c0):
            raise ValueError(f"c0={self.c0} must be a finite number")
        for name in ("q0", "cb", "rb", "ch", "rh"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} must be a finite number >= 0")
        if not 0 < self.z_max < math.inf:
            raise ValueError(f"z_max={self.z_max} must be a finite number > 0")
        check_sizes(num_decisions=self.num_decisions)
        if self.limit is not None and not 0 < self.limit < math.inf:
            raise ValueError(f"limit={self.limit} must be a finite number > 0, or None for none")

    @property
    def separable(self) -> bool:  # type: ignore[override]
        return self.limit is None

    @property
    def num_outcomes(self) -> int:  # type: ignore[override]
        return self.num_decisions

    @property
    def hinge_slope(self) -> float:
        """cb + ch, the jump of the slope at a scenario of weight 1."""
        return self.cb + self.ch

    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        """f(y, z), exact, summed over items: ``(..., n), (..., n) -> (...)``.

        Raises:
            TypeError, ValueError: arguments that do not fit, by name.
        """
        outcome, decision = pair(self, outcome, decision)
        short, left = (outcome - decision).clamp_min(0), (decision - outcome).clamp_min(0)
        order = decision * (self.c0 + 0.5 * self.q0 * decision)
        shortage = short * (self.cb + self.rb / 3 * short**2)
        excess = left * (self.ch + self.rh / 3 * left**2)
        return (order + shortage + excess).sum(-1)

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        """Convolved sample objective ``sum_m omega_m f_s(y_m, z)``: ``(B,)``."""
        fit_batch(self, instances, z)
        shortfall, width = instances.scenarios - z.unsqueeze(1), instances.bandwidth.unsqueeze(1)
        order = z * (self.c0 + 0.5 * self.q0 * z)
        linear = self.hinge_slope * hinge(shortfall, width) - self.ch * shortfall
        cubic = self.rb * hinge_cube(shortfall, width) + self.rh * hinge_cube(-shortfall, width)
        cost = order.unsqueeze(1) + linear + cubic / 3
        return (instances.weights.unsqueeze(-1) * cost).sum((1, 2))

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradient in z of each scenario's convolved cost: ``(B, M, n)``.

        Where ``bandwidth`` is 0 and ``y = z`` this is the midpoint of the subdifferential; the
        subgradients that satisfy stationarity come from the solver (``Solution.subgradients``).
        """
        parts = _pair(instances, z)
        order = (self.c0 + self.ch + self.q0 * z).unsqueeze(1)
        above, below = parts.square
        cubic = self.rh * below - self.rb * above
        return order + cubic - self.hinge_slope * parts.slope

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """Hessian of :meth:`objective` in z: its diagonal ``(B, n)``, with a limit the matrix of it."""
        penalties = (instances.weights.unsqueeze(-1) * self.cross(instances, z)).sum(1)
        diagonal = self.q0 * instances.weights.sum(1, keepdim=True) - penalties
        return diagonal if self.separable else torch.diag_embed(diagonal)

    def cross(self, instances: Instances, z: Tensor) -> Tensor:
        """Diagonal of f_zy of each scenario, ``q0 - f_zz``: ``(B, M, n)``."""
        parts = _pair(instances, z)
        above, below = parts.linear
        cubic = 2 * self.rb * above + 2 * self.rh * below
        return -cubic - self.hinge_slope * parts.density

    def cross_product(
        self, instances: Instances, z: Tensor, adjoint: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        """:meth:`cross` times u: ``(B, M, n)``. Slopes of hinges do not depend on y: no ``shares``."""
        return self.cross(instances, z) * adjoint.unsqueeze(1)

    def bandwidth_product(self, instances: Instances, z: Tensor, adjoint: Tensor) -> Tensor:
        """``(d/ds gradient)' u``: ``(B, n)``, 0 where s = 0.

        A convolution solves the heat equation, d/ds = s d^2/dy^2: with t = (y - z)/s

            d/ds f_z = (cb + ch) t phi(t)/s - 2 s rb Phi(t) + 2 s rh Phi(-t).
        """
        parts = _pair(instances, z)
        width, shortfall = parts.bandwidth, parts.argument
        safe = torch.where(width > 0, width, 1.0)
        kink = self.hinge_slope * parts.density * (shortfall / safe)
        cubic = 2 * width * (self.rh * (1 - parts.slope) - self.rb * parts.slope)
        return (instances.weights.unsqueeze(-1) * (kink + cubic)).sum(1) * adjoint

    def hinges(self, instances: Instances) -> Hinges:
        """``(cb + ch) (y_i - z_i)_+`` of the items without a bandwidth; K = n."""
        return shortfall_hinges(instances, self.hinge_slope)

    def hinge_product(self, instances: Instances, z: Tensor, multipliers: Tensor) -> Tensor:
        """The argument ``y_i - z_i`` has derivative 1 in ``y_i``: the multipliers themselves."""
        return multipliers

    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        """``0 <= z <= z_max``, and the limit of the sum if there is one."""
        size, row, limit = self.num_decisions, None, None
        if self.limit is not None:
            row, limit = like.new_ones(1, size), like.new_tensor([self.limit])
        lower = like.new_zeros(size)
        return Constraints.of(like, size, row, limit, lower=lower, upper=lower + self.z_max)

    def cvxpy_problem(self, scenarios: "cvxpy.typing.ArrayLike", weights: "cvxpy.typing.ArrayLike"):  # type: ignore[no-untyped-def, name-defined]
        """The exact sample program in plain cvxpy, the reference of the fast solvers.

        Args:
            scenarios: array or ``cvxpy.Parameter``, ``(M, n)``.
            weights: array or non-negative ``cvxpy.Parameter``, ``(M,)``.

        Returns:
            ``(problem, z, constraints)``; the duals of ``constraints`` are that of the limit, if there
            is one, the lower and the upper bounds.
        """
        import cvxpy as cp
        import numpy as np

        num_scenarios, size = scenarios.shape
        z = cp.Variable(size)
        every = np.ones((num_scenarios, 1)) @ cp.reshape(z, (1, size), order="C")
        short, left = cp.pos(scenarios - every), cp.pos(every - scenarios)
        penalty = self.cb * short + self.ch * left
        # A cube without a price is a variable of the conic form that nothing bounds.
        if self.rb > 0:
            penalty += self.rb / 3 * cp.power(short, 3)
        if self.rh > 0:
            penalty += self.rh / 3 * cp.power(left, 3)
        order = self.c0 * cp.sum(z) + 0.5 * self.q0 * cp.sum_squares(z)
        objective = weights @ cp.sum(penalty, axis=1) + sum(weights) * order
        shared = [] if self.limit is None else [cp.sum(z) <= self.limit]
        constraints = [*shared, z >= 0, z <= self.z_max]
        return cp.Problem(cp.Minimize(objective), constraints), z, constraints


def _pair(instances: Instances, z: Tensor) -> HingePair:
    """Both hinges of ``y_m - z``, convolved: ``(B, M, n)``."""
    return HingePair.of(instances.scenarios - z.unsqueeze(1), instances.bandwidth.unsqueeze(1))
