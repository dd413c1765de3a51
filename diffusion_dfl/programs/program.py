"""What every decision problem offers to solvers and layers.

A program is the stochastic convex problem

    min_z  sum_m omega_m f(y_m, z)   s.t.  lower <= z <= upper, G z <= h, A z = b, c(x, z) <= 0.

Where f has kinks, f is a smooth part plus hinges ``coefficient * (a(y, z))_+`` with arguments that
are affine in z, and may be replaced by its Gaussian-convolved form ``f_s(y, z) = E f(y + s xi, z)``
with the bandwidth s. Solvers use derivatives of the sum; the adjoint uses products with the cross
derivative, which is never formed for large problems.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.programs.instances import Instances

if TYPE_CHECKING:
    import cvxpy

    from diffusion_dfl.programs.general.quadratic import QuadraticCost


@dataclass(frozen=True)
class Hinges:
    """The kinks that a bandwidth leaves: ``sum_k coefficient_mk (offset_mk + jacobian_mk' z)_+``.

    Attributes:
        coefficient: ``(B, M, K)``, >= 0; 0 where the hinge is smoothed.
        offset: ``(B, M, K)``.
        jacobian: ``(B|1, M|1, K, n)``.
        as_written: whether arguments are a difference of a decision and one other number, so that they have the
            sign that the program itself finds, at the kink too.
    """

    coefficient: Tensor
    offset: Tensor
    jacobian: Tensor
    as_written: bool = False

    def arguments(self, z: Tensor) -> Tensor:
        """``offset + jacobian' z``: ``(B, n) -> (B, M, K)``."""
        if self.jacobian.shape[:2] == (1, 1):
            return self.offset + (z @ self.jacobian[0, 0].T).unsqueeze(1)
        return self.offset + torch.einsum("bmkn,bn->bmk", self._expanded(z), z)

    def force(self, z: Tensor, slopes: Tensor) -> Tensor:
        """``sum_mk slope_mk jacobian_mk``: ``(B, n), (B, M, K) -> (B, n)``."""
        if self.jacobian.shape[:2] == (1, 1):
            return slopes.sum(1) @ self.jacobian[0, 0]
        return torch.einsum("bmk,bmkn->bn", slopes, self._expanded(z))

    def scenario_force(self, slopes: Tensor) -> Tensor:
        """``sum_k slope_mk jacobian_mk``: ``(B, M, K) -> (B, M, n)``."""
        if self.jacobian.shape[:2] == (1, 1):
            return slopes @ self.jacobian[0, 0]
        return torch.einsum(
            "bmk,bmkn->bmn", slopes, self.jacobian.expand(*slopes.shape[:2], -1, -1)
        )

    def rows(self, positions: Tensor) -> Tensor:
        """Jacobians of the hinges at ``positions (B, r)``, indices into M * K: ``(B, r, n)``."""
        num_scenarios, num_hinges, size = *self.offset.shape[1:], self.jacobian.shape[3]
        if self.jacobian.shape[:2] == (1, 1):
            return self.jacobian[0, 0][positions % num_hinges]
        every = self.jacobian.expand(len(positions), num_scenarios, -1, -1).flatten(1, 2)
        return every.gather(1, positions.unsqueeze(2).expand(-1, -1, size))

    def _expanded(self, z: Tensor) -> Tensor:
        return self.jacobian.expand(z.shape[0], self.offset.shape[1], -1, -1)


@dataclass(frozen=True)
class Optimum:
    """Of solved instances: ``z (B, n)`` and multipliers of inequalities ``(B, q)``, of equalities
    ``(B, p)`` and, as shares of their slopes, of exact hinges ``(B, M, K)`` or None."""

    z: Tensor
    duals: Tensor
    equality_duals: Tensor
    shares: Tensor | None


@dataclass(frozen=True)
class KKTValues:
    """Optimality conditions at an optimum: gradient of the Lagrangian ``(B, n)``, inequality values
    ``(B, q)``, ``A z - b (B, p)`` and arguments of exact hinges ``(B, M, K)``, K may be 0."""

    stationarity: Tensor
    inequalities: Tensor
    equalities: Tensor
    arguments: Tensor


class Program(ABC):
    """A stochastic convex decision problem. Subclasses are immutable and stateless.

    Methods are of a batch of :class:`~diffusion_dfl.programs.instances.Instances` with ``z (B, n)``.

    Attributes:
        num_decisions: n.
        num_outcomes: d_y.
        kinked: whether f has kinks; the bandwidth of a smooth program is ignored.
        separable: whether coordinate i of the decision meets coordinate i of the outcome only, in
            the cost: then :meth:`hessian` is a diagonal ``(B, n)``.
        contextual: whether the constraints or the cost depend on the context.
        cost_context: whether the cost does.
    """

    num_decisions: int
    num_outcomes: int
    kinked: bool = False
    separable: bool = False
    contextual: bool = False
    cost_context: bool = False

    @abstractmethod
    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        """f(y, z), exact: ``(..., d_y), (..., n) -> (...)``."""

    def cost_given(self, outcome: Tensor, decision: Tensor, context: Tensor | None) -> Tensor:
        """:meth:`cost`, of programs whose cost depends on the context too ``(..., d_x)``."""
        return self.cost(outcome, decision)

    def realised(self, outcome: Tensor, decision: Tensor, context: Tensor | None) -> Tensor:
        """:meth:`cost_given` of decisions as they are judged: ``(..., n) -> (...)``.

        NaN where there is no decision, and infinite where there is one that has no cost: the logarithm
        of a fortune that it lost is the worst there is, not a row to leave out.
        """
        cost = self.cost_given(outcome, decision, context)
        ruined = cost.isnan() & ~decision.isnan().any(-1) & ~outcome.isnan().any(-1)
        return torch.where(ruined, torch.inf, cost)

    def with_kernels(self, instances: Instances) -> Instances:
        """Valid instances with the bandwidths that smooth a kink, 0 for the others."""
        return instances.resolvable() if self.kinked else instances.exact()

    def with_context(self, instances: Instances) -> tuple["Program", Instances]:
        """The program, and its instances, to solve in its place.

        A cost that depends on the context is one of ``(y, x)``, whose part x has no spread.
        """
        return self, instances

    @abstractmethod
    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        """What the solver minimises, up to a constant: ``(B,)``."""

    @abstractmethod
    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradient in z of each scenario's cost, kinks of width 0 at half slope: ``(B, M, n)``."""

    @abstractmethod
    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """Hessian of :meth:`objective` in z, kinks of width 0 left out.

        ``(B, n, n)``, or its diagonal ``(B, n)`` for a separable program.
        """

    @abstractmethod
    def cross_product(
        self, instances: Instances, z: Tensor, adjoint: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        """``f_zy(y_m, z)' u`` of every scenario: ``(B, M, d_y)``.

        Args:
            adjoint: u, ``(B, n)``.
            shares: slope share in [0, 1] of every hinge ``(B, M, K)``, for hinges of width 0 whose
                slope in z depends on y; by the sign of the argument if None.
        """

    @abstractmethod
    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        """The feasible set, with the dtype and device of ``like``."""

    @abstractmethod
    def cvxpy_problem(
        self, scenarios: "np.ndarray | cvxpy.Parameter", weights: np.ndarray
    ) -> tuple[Any, Any, list[Any]]:
        """The exact sample program in plain cvxpy: ``(problem, z, constraints)``.

        ``scenarios (M, d_y)`` may be an array or a ``cvxpy.Parameter``; the statement is DPP in
        it. The duals of ``constraints``, raveled and joined, are ``Solution.duals`` followed by
        ``Solution.equality_duals``.
        """

    def gradient(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradient of :meth:`objective`, ``sum_m omega_m`` :meth:`gradients`: ``(B, n)``."""
        return torch.einsum("bm,bmn->bn", instances.weights, self.gradients(instances, z))

    def hessian_block(self, instances: Instances, z: Tensor, coordinates: Tensor) -> Tensor:
        """Rows and columns ``coordinates (B, k)`` of a dense :meth:`hessian`: ``(B, k, k)``."""
        return block(self.hessian(instances, z), coordinates)

    def bandwidth_product(self, instances: Instances, z: Tensor, adjoint: Tensor) -> Tensor:
        """``(d/ds gradient)' u``: ``(B, d_y)``; 0 for a smooth program and where s = 0."""
        return torch.zeros_like(instances.bandwidth)

    def hinges(self, instances: Instances) -> Hinges | None:
        """The kinks left where the bandwidth is 0; None for a smooth program."""
        return None

    def hinge_product(self, instances: Instances, z: Tensor, multipliers: Tensor) -> Tensor:
        """``sum_k multiplier_mk grad_y a_mk``: ``(B, M, K) -> (B, M, d_y)``; kinked programs only."""
        raise TypeError(f"{type(self).__name__} has no hinges")

    def masked_gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """Gradients of the exact cost with the mask ``1{argument > 0}`` at its kinks: ``(B, M, n)``.

        This is what the paper's formulas print; at a kink it is one arbitrary end of the
        subdifferential.
        """
        exact = instances.exact()
        gradients, hinges = self.gradients(exact, z), self.hinges(exact)
        if hinges is None:
            return gradients
        half = 0.5 * hinges.coefficient * (hinges.arguments(z) == 0)
        return gradients - hinges.scenario_force(half)

    def quadratic(self, instances: Instances) -> "QuadraticCost | None":
        """The summed cost of a batch as a quadratic form and closed hinges, if it is known to be one."""
        return None

    def learned(self, instances: Instances, optimum: Optimum) -> KKTValues | None:
        """The optimality conditions as functions of the program's own parameters, or None without any.

        Called with gradients enabled; the tensors returned are attached to the parameters' graph.
        """
        return None

    def learns(self, like: Tensor, context: Tensor | None = None) -> bool:
        """Whether any tensor that the program's parts hold, or the context, requires a gradient."""
        return False

    def validate(self, instances: Instances) -> None:
        """Raise ``ValueError`` if the scenarios' last dimension is not d_y."""
        size = instances.scenarios.shape[2]
        if size != self.num_outcomes:
            raise ValueError(
                f"scenarios have {size} outcomes; {type(self).__name__} has {self.num_outcomes}"
            )


def shortfall_hinges(instances: Instances, slope: float) -> Hinges:
    """``slope (y_i - z_i)_+`` of the coordinates without a bandwidth; K = n."""
    y = instances.scenarios
    exact = (instances.bandwidth <= 0).unsqueeze(1).expand_as(y).to(y.dtype)
    eye = torch.eye(y.shape[2], dtype=y.dtype, device=y.device)
    return Hinges(slope * exact, y, -eye.view(1, 1, *eye.shape), True)


def block(matrix: Tensor, coordinates: Tensor) -> Tensor:
    """Rows and columns ``coordinates (B, k)`` of ``matrix (B, n, n)``: ``(B, k, k)``."""
    size, count = matrix.shape[2], coordinates.shape[1]
    rows = matrix.gather(1, coordinates.unsqueeze(2).expand(-1, -1, size))
    return rows.gather(2, coordinates.unsqueeze(1).expand(-1, count, -1))
